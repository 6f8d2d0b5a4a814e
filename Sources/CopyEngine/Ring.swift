import DMA

/// A ring in the memory of the driver: where it is, and how far both sides have got.
struct Ring: Sendable {
    let base: IOVA
    /// A power of two; zero for no ring.
    let size: UInt32
    private let entryByteCount: UInt64
    /// The entry that is emptied next.
    private(set) var head: UInt32 = 0
    /// The entry that is filled next.
    private(set) var tail: UInt32 = 0

    /// - Parameter base: a multiple of 64, as the register holds no other.
    /// - Returns: `nil` for a ring that cannot be: not so many entries, or past the top of the addresses.
    init?(at base: UInt64, size: UInt64, entryByteCount: Int, sizes: ClosedRange<UInt64>) {
        guard sizes.contains(size), size.nonzeroBitCount == 1 else { return nil }
        let bytes = size * UInt64(entryByteCount)
        guard (try? IOVARange(first: IOVA(base), byteCount: bytes)) != nil else { return nil }
        self.base = IOVA(base)
        self.size = UInt32(size)
        self.entryByteCount = UInt64(entryByteCount)
    }

    var isEmpty: Bool { head == tail }

    /// How many entries can be filled.
    var room: Int { Int((head &- tail &- 1) & (size - 1)) }

    func address(of index: UInt32) -> IOVA { IOVA(base.rawValue + UInt64(index) * entryByteCount) }

    mutating func advanceHead() { head = (head + 1) & (size - 1) }

    mutating func advanceTail() { tail = (tail + 1) & (size - 1) }

    /// The other side has filled entries. `false` when there is no such entry.
    mutating func setTail(_ index: UInt64) -> Bool {
        guard index < size else { return false }
        tail = UInt32(index)
        return true
    }

    /// The other side has emptied entries. `false` when there is no such entry, or it was not filled.
    mutating func setHead(_ index: UInt64) -> Bool {
        guard index < size else { return false }
        let filled = (tail &- head) & (size - 1)
        guard (UInt32(index) &- head) & (size - 1) <= filled else { return false }
        head = UInt32(index)
        return true
    }
}
