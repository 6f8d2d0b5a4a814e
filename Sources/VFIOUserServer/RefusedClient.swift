import LinuxHost
import VFIOUserTransport
import VFIOUserWire

/// A client that there is no room for, until it has been told so or its time is over.
final class RefusedClient {
    let socket: UNIXSocket
    let deadline: MonotonicInstant
    /// A version message is short; a peer that announces more here is not worth the memory.
    private var incoming = MessageReader(maximumMessageSize: 4096, maximumPendingDescriptors: 16)

    init(_ socket: UNIXSocket, deadline: MonotonicInstant) {
        self.socket = socket
        self.deadline = deadline
    }

    /// Reads what has arrived, and answers the version message if that was it.
    ///
    /// - Returns: whether the client has heard all that it is going to hear.
    func hear() -> Bool {
        do throws(Errno) {
            let arrival = try incoming.receive(from: socket)
            switch incoming.next() {
            case .incomplete: return arrival == .end
            case .broken: return true
            case .message(let message):
                try answer(message.header)
                return true
            }
        } catch {
            return true
        }
    }

    private func answer(_ header: MessageHeader) throws(Errno) {
        guard header.kind == .command, header.command == .version, !header.expectsNoReply else { return }
        var reply = MessageWriter()
        reply.appendErrorReply(to: header, errorNumber: Errno.busy.rawValue)
        var outgoing = MessageSender()
        // Nothing has been sent on this socket yet, so that sixteen bytes fit.
        try outgoing.send(reply.bytes, DescriptorBundle(), to: socket)
    }
}
