public import LinuxHost
public import VFIOUserWire

/// What has arrived from a peer and not been handled yet: bytes in any pieces, and the descriptors that belong to them.
///
/// Descriptors come with the bytes of one `sendmsg`, and a read never goes past such bytes. So they belong to the last
/// message that begins in the read that brought them, or, when none does, to the one that goes on through it: the
/// message `m` whose end is the first not before the end of that read.
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

    private struct Arrival: ~Copyable {
        /// Where in `bytes` the read ended that brought the descriptors.
        var end: Int
        var descriptors: DescriptorBundle
        let isIncomplete: Bool
    }

    public private(set) var bytes = [UInt8](repeating: 0, count: initialCapacity)
    /// The part of `bytes` that has arrived and not been handled.
    private var filled = 0..<0
    private var arrivals: [ArrivalBox] = []
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

    /// Noncopyable values cannot be array elements yet.
    private final class ArrivalBox {
        var arrival: Arrival

        init(_ arrival: consuming Arrival) {
            self.arrival = arrival
        }
    }

    /// Reads what has arrived.
    ///
    /// - Returns: `false` when the peer has closed its side.
    /// - Throws: what `recvmsg(2)` answers, but not `EAGAIN`; `ETOOMANYREFS` for more descriptors than any message has.
    public mutating func receive(from transport: any Transport) throws(Errno) -> Bool {
        makeRoom()
        var result: Result<Int, Errno> = .success(0)
        let free = filled.upperBound..<bytes.count
        let descriptorRoom = maximumPendingDescriptors - pendingDescriptorCount
        var arrival: Arrival?
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                let room = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[free])
                var received = unsafe try transport.receive(into: room, waiting: false)
                result = .success(received.count)
                if !received.descriptors.isEmpty || received.lostDescriptors {
                    var descriptors = DescriptorBundle()
                    swap(&descriptors, &received.descriptors)
                    if descriptors.count > descriptorRoom { throw .tooManyReferences }
                    arrival = Arrival(
                        end: free.lowerBound + received.count, descriptors: descriptors,
                        isIncomplete: received.lostDescriptors)
                }
            } catch {
                result = .failure(error)
            }
        }
        if let arrival { arrivals.append(ArrivalBox(arrival)) }
        do throws(Errno) {
            let count = try result.get()
            filled = filled.lowerBound..<filled.upperBound + count
            return count > 0
        } catch .wouldBlock {
            return true
        }
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
            var descriptors = DescriptorBundle()
            var lost = false
            while let first = arrivals.first, first.arrival.end <= end {
                var taken = DescriptorBundle()
                swap(&taken, &first.arrival.descriptors)
                descriptors.append(contentsOf: taken)
                lost = lost || first.arrival.isIncomplete
                arrivals.removeFirst()
            }
            return .message(
                Message(header: header, payload: payload, descriptors: descriptors, lostDescriptors: lost))
        }
    }

    private var pendingDescriptorCount: Int { arrivals.reduce(0) { $0 + $1.arrival.descriptors.count } }

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
        for box in arrivals { box.arrival.end -= distance }
    }
}
