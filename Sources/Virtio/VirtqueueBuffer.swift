import DMA

/// Guest memory that a driver has given to a device: bytes to read, then bytes to write.
///
/// The descriptors were read once, when the buffer was taken, and checked then; how the bytes are split over them makes no
/// difference. Used with the queue that it comes from, until it is completed or the device is reset.
public struct VirtqueueBuffer: Sendable {
    /// How many bytes the device may read; below 4 GiB, together with the others.
    public internal(set) var readableByteCount = 0
    /// How many bytes the device may write.
    public internal(set) var writableByteCount = 0
    /// The first descriptor, by which the driver knows the buffer.
    let head: UInt16
    private var count = 0
    private var readableCount = 0
    /// The first few segments, which is all that most buffers have, without a piece of the heap.
    private var near = InlineArray<4, IOVARange>(repeating: .everything)
    private var others: [IOVARange] = []

    init(head: UInt16) {
        self.head = head
    }

    /// Adds what a descriptor names behind what there is.
    mutating func append(_ range: IOVARange, isWritable: Bool) {
        if count < near.count { near[count] = range } else { others.append(range) }
        count += 1
        if isWritable {
            writableByteCount += Int(range.byteCountOfSegment)
        } else {
            readableByteCount += Int(range.byteCountOfSegment)
            readableCount = count
        }
    }

    /// The numbers of the segments that the device may read, and of those that it may write.
    var readable: Range<Int> { 0..<readableCount }
    var writable: Range<Int> { readableCount..<count }

    /// The range from the lowest to the highest address of some segments; `nil` for none.
    func bounds(of numbers: Range<Int>) -> IOVARange? {
        guard let number = numbers.first else { return nil }
        return numbers.reduce(segment(number)) { bounds, number in
            let next = segment(number)
            return IOVARange(first: min(bounds.first, next.first), last: max(bounds.last, next.last))
        }
    }

    /// The part of a segment that is left after the first `start` bytes, and not more than `limit` of it; `nil` if nothing
    /// is. `start` becomes what is to be skipped in the next segment.
    func part(of number: Int, skipping start: inout Int, atMost limit: Int) -> IOVARange? {
        let range = segment(number)
        let byteCount = Int(range.byteCountOfSegment)
        guard start < byteCount else {
            start -= byteCount
            return nil
        }
        defer { start = 0 }
        let first = range.first.rawValue + UInt64(start)
        return IOVARange(first: IOVA(first), last: IOVA(first + UInt64(min(limit, byteCount - start)) - 1))
    }

    func segment(_ number: Int) -> IOVARange { number < near.count ? near[number] : others[number - near.count] }
}

extension IOVARange {
    /// The size of a range that is known to be smaller than the space.
    var byteCountOfSegment: UInt64 { last.rawValue - first.rawValue + 1 }
}
