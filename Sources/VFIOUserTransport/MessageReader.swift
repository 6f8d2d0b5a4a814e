public import LinuxHost
public import VFIOUserWire

/// What has arrived from a peer and not been handled yet: bytes in any pieces, and the descriptors that belong to them.
///
/// Descriptors come with the bytes of one `sendmsg`, and a read never goes past such bytes. So they belong to the last
/// message that begins in the read that brought them, or, when none does, to the one that goes on through it: the
/// message `m` whose end is the first not before the end of that read.
///
/// A message without descriptors costs the heap nothing once the buffer has grown to its size.
public struct MessageReader: ~Copyable {
    /// Room for many small messages in one read; a longer message gets as much as it says it needs, which the framer
    /// has checked against the limit.
    private static let initialCapacity = 64 << 10

    public struct Message: ~Copyable {
        public let header: MessageHeader
        /// Where the payload lies in `bytes`.
        public let payload: Range<Int>
        let descriptors: DescriptorBundle
        /// Whether the kernel had to drop some.
        public let lostDescriptors: Bool

        public consuming func takeDescriptors() -> DescriptorBundle { descriptors }
    }

    public enum Next: ~Copyable {
        case message(Message)
        case incomplete
        case broken(id: MessageID, command: Command, error: WireError)
    }

    /// What one read came to.
    public enum Arrival: Hashable, Sendable {
        case nothing
        /// Some bytes; `mayBeMore` when the read stopped short of what may be there, at descriptors or at the end of the
        /// room.
        case bytes(mayBeMore: Bool)
        /// The peer has closed its side.
        case end
    }

    /// Descriptors that arrived, the next `count` of `pending`.
    private struct Batch {
        /// Where in `bytes` the read ended that brought them.
        var end: Int
        let count: Int
        let isIncomplete: Bool
    }

    public private(set) var bytes = [UInt8](repeating: 0, count: initialCapacity)
    /// The part of `bytes` that has arrived and not been handled.
    private var filled = 0..<0
    private var batches: [Batch] = []
    private var pending = DescriptorBundle()
    private let framer: MessageFramer
    private let maximumPendingDescriptors: Int

    /// - Parameter maximumPendingDescriptors: how many may have arrived with bytes that are no whole message yet. By
    ///   default what one `sendmsg` can carry: a message is read before the next one's descriptors are, so more belong to
    ///   a peer that piles them up on a message it never finishes.
    public init(
        maximumMessageSize: Int = MessageFramer.defaultMaximumMessageSize, maximumPendingDescriptors: Int = 253
    ) {
        framer = MessageFramer(maximumMessageSize: maximumMessageSize)
        self.maximumPendingDescriptors = maximumPendingDescriptors
    }

    /// Reads what has arrived, without waiting.
    ///
    /// - Throws: what `recvmsg(2)` answers, but not `EAGAIN` and `EINTR`; `ETOOMANYREFS` for more descriptors than any
    ///   message has.
    public mutating func receive(from transport: any Transport) throws(Errno) -> Arrival {
        makeRoom()
        let free = filled.upperBound..<bytes.count
        do throws(Errno) {
            var received = try Self.read(from: transport, into: &bytes, free)
            let mayBeMore = !received.descriptors.isEmpty || received.count == free.count
            filled = filled.lowerBound..<filled.upperBound + received.count
            if !received.descriptors.isEmpty || received.lostDescriptors {
                let count = received.descriptors.count
                guard pending.count + count <= maximumPendingDescriptors else { throw .tooManyReferences }
                batches.append(
                    Batch(end: filled.upperBound, count: count, isIncomplete: received.lostDescriptors))
                pending.append(contentsOf: received.descriptors.takeFirst(count))
            }
            return received.count > 0 ? .bytes(mayBeMore: mayBeMore) : .end
        } catch .wouldBlock {
            return .nothing
        } catch .interrupted {
            return .nothing
        }
    }

    private static func read(
        from transport: any Transport, into bytes: inout [UInt8], _ place: Range<Int>
    ) throws(Errno) -> ReceivedBytes {
        var received: ReceivedBytes?
        var failure = Errno.wouldBlock
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                let room = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[place])
                received = unsafe try transport.receive(into: room, waiting: false)
            } catch {
                failure = error
            }
        }
        guard let received = received.take() else { throw failure }
        return received
    }

    /// Takes the next whole message off the front.
    public mutating func next() -> Next {
        switch framer.examine(bytes.span.extracting(filled)) {
        case .needs: return .incomplete
        case .broken(let id, let command, let error): return .broken(id: id, command: command, error: error)
        case .message(let header):
            let end = filled.lowerBound + header.byteCount
            let payload = filled.lowerBound + MessageHeader.byteCount..<end
            filled = end..<filled.upperBound
            var count = 0
            var hasLost = false
            while let first = batches.first, first.end <= end {
                count += first.count
                hasLost = hasLost || first.isIncomplete
                batches.removeFirst()
            }
            return .message(
                Message(
                    header: header, payload: payload, descriptors: pending.takeFirst(count), lostDescriptors: hasLost))
        }
    }

    /// Moves what is there to the front when that helps, and grows the buffer when one message needs it.
    private mutating func makeRoom() {
        if filled.isEmpty {
            shift(by: filled.lowerBound)
            return
        }
        var wanted = filled.count + 1
        if case .needs(let more) = framer.examine(bytes.span.extracting(filled)) { wanted = filled.count + more }
        if filled.lowerBound + wanted > bytes.count { shift(by: filled.lowerBound) }
        if wanted > bytes.count { bytes.append(contentsOf: repeatElement(0, count: wanted - bytes.count)) }
    }

    private mutating func shift(by distance: Int) {
        guard distance > 0 else { return }
        for place in filled { bytes[place - distance] = bytes[place] }
        filled = filled.lowerBound - distance..<filled.upperBound - distance
        for index in batches.indices { batches[index].end -= distance }
    }
}
