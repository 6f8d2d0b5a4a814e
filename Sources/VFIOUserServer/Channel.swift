import LinuxHost
import VFIOUserSession
import VFIOUserTransport
import VFIOUserWire

/// One socket of a connection: what has come over it and not been handled, and what the client has not taken yet.
///
/// Belongs to the connection's thread.
final class Channel {
    let transport: any Transport
    var incoming: MessageReader
    private(set) var outgoing = MessageSender()
    /// Whether the last read may have left something in the socket, which the poller need not be asked about.
    private(set) var mayHaveMore = false
    /// Whether the client has closed it.
    private(set) var hasEnded = false
    private let token: UInt64
    private var watched: Poller.Interest = .readable

    init(
        _ transport: any Transport, _ limits: SessionLimits, watchedBy poller: borrowing Poller, as token: UInt64
    ) throws(Errno) {
        self.transport = transport
        incoming = MessageReader(
            maximumMessageSize: limits.messageSize, maximumPendingDescriptors: limits.pendingDescriptors)
        self.token = token
        try poller.add(transport.pollDescriptor, token: token, interest: watched)
    }

    /// Reads what is there, without waiting. Whether anything was, the end included.
    func receive() throws(Errno) -> Bool {
        mayHaveMore = false
        switch try incoming.receive(from: transport) {
        case .nothing: return false
        case .bytes(let mayBeMore):
            mayHaveMore = mayBeMore
            return true
        case .end:
            hasEnded = true
            return true
        }
    }

    /// Whether the client has taken all it was sent.
    var isFlushed: Bool { outgoing.isEmpty }

    /// Sends what a session wrote; nothing if it wrote nothing.
    ///
    /// - Precondition: the client has taken all that was sent before.
    func send(_ reply: borrowing SessionReply) throws(Errno) {
        try outgoing.send(reply.writer.bytes, reply.descriptors, to: transport)
    }

    func flush() throws(Errno) {
        try outgoing.flush(to: transport)
    }

    func watch(for interest: Poller.Interest, by poller: borrowing Poller) throws(Errno) {
        guard interest != watched else { return }
        try poller.change(transport.pollDescriptor, token: token, interest: interest)
        watched = interest
    }
}
