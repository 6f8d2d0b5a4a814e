import VFIOUserWire

/// One direction of a socket, cut into messages.
///
/// Descriptors belong to the last message that begins in the bytes that brought them, and to the message under way if
/// none does, as for everybody who reads a UNIX socket.
struct MessageAssembler {
    struct Assembled {
        var bytes: [UInt8]
        var descriptors: [RecordedDescriptor] = []
        var lostDescriptors = false
    }

    private struct Arrival {
        /// Where in the stream the bytes end that brought the descriptors.
        let end: Int
        let descriptors: [RecordedDescriptor]
        let lostDescriptors: Bool
    }

    /// How much handed-out room may be left in front before the rest is moved there.
    private static let maximumGap = 64 << 10

    private var pending: [UInt8] = []
    /// How much of `pending` has been handed out.
    private var start = 0
    /// Where in the stream `pending` begins.
    private var position = 0
    private var arrivals: [Arrival] = []
    private var isBroken = false
    private let framer: MessageFramer

    /// - Parameter maximumMessageSize: unless told otherwise more than any session takes: what ends a connection is the
    ///   session's to say, and a recorder must not know better. Room is taken for what has arrived, not for what is stated.
    init(maximumMessageSize: Int = Int(UInt32.max)) {
        framer = MessageFramer(maximumMessageSize: maximumMessageSize)
    }

    /// Takes bytes as one call sent or received them.
    mutating func append(_ bytes: some Collection<UInt8>, _ descriptors: [RecordedDescriptor], lost: Bool) {
        if start == pending.count || start > Self.maximumGap {
            position += start
            pending.removeSubrange(..<start)
            start = 0
        }
        pending.append(contentsOf: bytes)
        if !descriptors.isEmpty || lost {
            arrivals.append(
                Arrival(end: position + pending.count, descriptors: descriptors, lostDescriptors: lost))
        }
    }

    /// The next whole message.
    mutating func next() -> Assembled? {
        guard !isBroken else { return nil }
        switch framer.examine(pending.span.extracting(start..<pending.count)) {
        case .needs: return nil
        case .broken:
            isBroken = true
            return nil
        case .message(let header): return take(header.byteCount)
        }
    }

    /// What is left, which makes no message.
    mutating func rest() -> Assembled? {
        let count = pending.count - start
        return count == 0 ? nil : take(count)
    }

    private mutating func take(_ count: Int) -> Assembled {
        var assembled = Assembled(bytes: Array(pending[start..<start + count]))
        start += count
        while let arrival = arrivals.first, arrival.end <= position + start {
            assembled.descriptors += arrival.descriptors
            assembled.lostDescriptors = assembled.lostDescriptors || arrival.lostDescriptors
            arrivals.removeFirst()
        }
        return assembled
    }
}
