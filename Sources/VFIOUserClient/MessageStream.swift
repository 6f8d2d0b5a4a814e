import LinuxHost
import VFIOUserWire

/// Whole messages over a socket, both ways, without ever waiting for one direction alone: what the peer sends while this
/// side sends is taken in, so that two full sockets never wait for each other.
struct MessageStream: ~Copyable {
    struct Incoming {
        let header: MessageHeader
        let payload: [UInt8]
        let descriptors: DescriptorBox
    }

    private enum Token {
        static let socket: UInt64 = 0
        static let counter: UInt64 = 1
    }

    private struct Arrival {
        /// Where in the stream the read ended that brought the descriptors.
        let end: Int
        let box: DescriptorBox
    }

    private struct Outgoing {
        var bytes: [UInt8]
        /// Lent by whoever waits for the message to be sent.
        var descriptors: [Int32]
    }

    /// More than one message carries; a peer that sends more of them ahead of their message is broken.
    private static let maximumPendingDescriptors = 253
    private static let readSize = 64 << 10

    private let socket: UNIXSocket
    private let poller: Poller
    private let framer: MessageFramer
    private var incoming: [UInt8] = []
    /// How much of `incoming` has been handed out, and where in the stream it begins.
    private var start = 0
    private var position = 0
    private var arrivals: [Arrival] = []
    private var outgoing: [Outgoing] = []
    private var readBuffer = [UInt8](repeating: 0, count: readSize)

    init(_ socket: UNIXSocket, maximumMessageSize: Int) throws(Errno) {
        let poller = try Poller()
        try poller.add(socket.descriptor.rawValue, token: Token.socket, interest: .readable)
        self.socket = socket
        self.poller = poller
        framer = MessageFramer(maximumMessageSize: maximumMessageSize)
    }

    func close() { socket.shutdown() }

    var hasOutgoing: Bool { !outgoing.isEmpty }

    /// Puts a message behind those that wait to be sent.
    mutating func enqueue(_ bytes: [UInt8], lending descriptors: [Int32] = []) {
        outgoing.append(Outgoing(bytes: bytes, descriptors: descriptors))
    }

    /// Sends what the socket takes at once.
    mutating func send() throws(Errno) {
        while let first = outgoing.first {
            let count = try sendOnce(first)
            guard count > 0 else { return }
            if count == first.bytes.count {
                outgoing.removeFirst()
            } else {
                // Descriptors went with the first byte.
                outgoing[0] = Outgoing(bytes: Array(first.bytes[count...]), descriptors: [])
            }
        }
    }

    private func sendOnce(_ message: Outgoing) throws(Errno) -> Int {
        var bundle = DescriptorBundle(adopting: message.descriptors)
        defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
        var result: Result<Int, Errno> = .success(0)
        unsafe message.bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                result = .success(unsafe try socket.send(buffer, descriptors: bundle, waiting: false))
            } catch {
                result = .failure(error)
            }
        }
        do throws(Errno) {
            return try result.get()
        } catch .wouldBlock {
            return 0
        }
    }

    /// Reads once what has arrived.
    ///
    /// - Returns: `false` when the peer has closed.
    mutating func receive() throws(Errno) -> Bool {
        var result: Result<Int, Errno> = .success(0)
        let box = DescriptorBox()
        unsafe readBuffer.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                var received = unsafe try socket.receive(into: buffer, waiting: false)
                while let descriptor = received.descriptors.takeFirst() { box.append(descriptor) }
                result = .success(received.count)
            } catch {
                result = .failure(error)
            }
        }
        do throws(Errno) {
            let count = try result.get()
            compact()
            incoming.append(contentsOf: readBuffer[..<count])
            if box.count > 0 { arrivals.append(Arrival(end: position + incoming.count, box: box)) }
            if arrivals.reduce(0, { $0 + $1.box.count }) > Self.maximumPendingDescriptors { throw .tooManyReferences }
            return count > 0
        } catch .wouldBlock {
            return true
        }
    }

    private mutating func compact() {
        guard start == incoming.count || start > Self.readSize else { return }
        incoming.removeFirst(start)
        position += start
        start = 0
    }

    /// Takes the next whole message off what has been received.
    ///
    /// A read never goes past bytes that carry descriptors, so these belong to the message that ends with the read, or
    /// in which it ended.
    mutating func next() throws(WireError) -> Incoming? {
        switch framer.examine(incoming.span.extracting(start..<incoming.count)) {
        case .needs: return nil
        case .broken(_, _, let error): throw error
        case .message(let header):
            let end = start + header.byteCount
            let payload = Array(incoming[start + MessageHeader.byteCount..<end])
            start = end
            let box = DescriptorBox()
            while let arrival = arrivals.first, arrival.end <= position + end {
                box.takeAll(from: arrival.box)
                arrivals.removeFirst()
            }
            return Incoming(header: header, payload: payload, descriptors: box)
        }
    }

    /// Waits until the peer has sent something, or takes something when there is something to send, or `counter` is
    /// signalled.
    ///
    /// - Returns: `false` when the deadline passed first.
    func wait(orFor counter: EventCounter? = nil, until deadline: MonotonicInstant?) throws(Errno) -> Bool {
        try poller.change(
            socket.descriptor.rawValue, token: Token.socket,
            interest: outgoing.isEmpty ? .readable : [.readable, .writable])
        guard let counter else { return try !poller.wait(timeout: deadline?.remaining).isEmpty }
        try poller.add(counter.rawDescriptor, token: Token.counter, interest: .readable)
        defer { poller.remove(counter.rawDescriptor) }
        return try !poller.wait(timeout: deadline?.remaining).isEmpty
    }
}

/// The descriptors of a message that is handed around.
final class DescriptorBox {
    private var bundle = DescriptorBundle()

    var count: Int { bundle.count }

    func append(_ descriptor: consuming OwnedDescriptor) { bundle.append(descriptor) }

    func takeFirst() -> OwnedDescriptor? { bundle.takeFirst() }

    func takeAll(from other: DescriptorBox) {
        while let descriptor = other.takeFirst() { bundle.append(descriptor) }
    }
}
