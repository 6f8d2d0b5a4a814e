import LinuxHost
import VFIOUserTransport
import VFIOUserWire

/// Whole messages over a transport, both ways, without ever waiting for one direction alone: what the peer sends while
/// this side sends is taken in, so that two full sockets never wait for each other.
///
/// Whoever owns it waits for the transport, with `interest`.
final class MessageStream {
    struct Incoming {
        let header: MessageHeader
        let payload: [UInt8]
        let descriptors: DescriptorBox
    }

    private struct Outgoing {
        let bytes: [UInt8]
        /// Lent by whoever waits for the message to be sent.
        let descriptors: [Int32]
    }

    /// How many messages may wait before no more is taken in from the peer: each answer may be as long as a message can be,
    /// and a peer that asks and never reads would fill memory. More than a peer has reason to ask for at a time.
    private static let maximumQueueLength = 16

    let transport: any Transport
    private var reader: MessageReader
    private var sender = MessageSender()
    /// Messages of which nothing has been sent.
    private var queue: [Outgoing] = []
    /// Whether `next` gave nothing because too much waits, and not because nothing has arrived.
    private var hasHeldBack = false

    init(_ transport: any Transport, maximumMessageSize: Int) {
        self.transport = transport
        reader = MessageReader(maximumMessageSize: maximumMessageSize)
    }

    var hasOutgoing: Bool { !sender.isEmpty || !queue.isEmpty }

    /// Whether the peer has to take something before anything else is taken in from it.
    var isFull: Bool { queue.count >= MessageStream.maximumQueueLength }

    /// Whether there may be a message that was held back and has not to be any more.
    var canGoOn: Bool { hasHeldBack && !isFull }

    var interest: Poller.Interest {
        if isFull { return .writable }
        return hasOutgoing ? [.readable, .writable] : .readable
    }

    /// Puts a message behind those that wait to be sent.
    func enqueue(_ bytes: [UInt8], lending descriptors: [Int32] = []) {
        queue.append(Outgoing(bytes: bytes, descriptors: descriptors))
    }

    /// Sends what the transport takes at once.
    func flush() throws(Errno) {
        try sender.flush(to: transport)
        while sender.isEmpty, !queue.isEmpty {
            let next = queue.removeFirst()
            var bundle = DescriptorBundle(adopting: next.descriptors)
            defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
            try sender.send(next.bytes, bundle, to: transport)
        }
    }

    /// Reads once what has arrived.
    ///
    /// - Returns: `false` when the peer has closed.
    func receive() throws(Errno) -> Bool {
        try reader.receive(from: transport) != .end
    }

    /// Takes the next whole message off what has been received; none while as much waits to be sent as may.
    func next() throws(WireError) -> Incoming? {
        hasHeldBack = isFull
        guard !hasHeldBack else { return nil }
        switch reader.next() {
        case .incomplete: return nil
        case .broken(_, _, let error): throw error
        case .message(let message):
            let (header, payload) = (message.header, message.payload)
            return Incoming(
                header: header, payload: Array(reader.bytes[payload]),
                descriptors: DescriptorBox(message.takeDescriptors()))
        }
    }
}

/// The descriptors of a message that is handed around.
final class DescriptorBox {
    private var bundle: DescriptorBundle

    init(_ bundle: consuming DescriptorBundle) { self.bundle = bundle }

    var count: Int { bundle.count }

    func takeFirst() -> OwnedDescriptor? { bundle.takeFirst() }
}
