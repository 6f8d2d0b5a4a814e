import DMA

/// The guest memory that a command's data occupies, in order: what its physical region page entries say.
///
///     entry 1: the first page, from an offset on        ┌───────┐
///     entry 2, data up to a page more: the second page  │ ░░░░░░│ first, may begin anywhere
///     entry 2, more data: a list of the other pages     ├───────┤
///                                                       │░░░░░░░│ others begin at their page
///     a list that runs to the end of its page with      ├───────┤
///     entries to follow ends in the address of another  │░░░░   │ last, may end anywhere
///                                                       └───────┘
///
/// Base specification 2.0, section 4.1.1 (Physical Region Page Entry and List)
struct DataPages {
    /// Adjacent pages are joined.
    private(set) var ranges: [IOVARange] = []
    private let pageByteCount: UInt64

    /// - Parameters:
    ///   - byteCount: at most the maximum transfer, which bounds what is read of lists.
    ///   - readEntries: reads a number of entries of a list, all within one page.
    /// - Throws: `invalidPRPOffset` for an address that is not where it must be in its page; what `readEntries` throws.
    init(
        _ pointer: DataPointer, byteCount: UInt64, pageByteCount: UInt64,
        readEntries: (IOVA, Int) throws(Status) -> [IOVA]
    ) throws(Status) {
        precondition(byteCount > 0, "a command with a data pointer transfers something")
        self.pageByteCount = pageByteCount
        let offset = pointer.prp1.rawValue & (pageByteCount - 1)
        guard pointer.prp1.isAligned(to: 4) else { throw .invalidPRPOffset }
        let first = min(byteCount, pageByteCount - offset)
        append(pointer.prp1, first)
        var remaining = byteCount - first
        if remaining == 0 { return }
        if remaining <= pageByteCount {
            try append(page: pointer.prp2, &remaining)
            return
        }
        var list = pointer.prp2
        guard list.isAligned(to: DataPages.entryByteCount) else { throw .invalidPRPOffset }
        while remaining > 0 {
            let wanted = (remaining - 1) / pageByteCount + 1
            let room = (pageByteCount - list.rawValue & (pageByteCount - 1)) / DataPages.entryByteCount
            let entries = try readEntries(list, Int(min(wanted, room)))
            let isContinued = wanted > room
            for entry in isContinued ? entries.dropLast() : entries[...] { try append(page: entry, &remaining) }
            guard isContinued, let next = entries.last else { continue }
            // A list that continues begins at the start of a page, so that each further one has room for many entries.
            guard next.isAligned(to: pageByteCount) else { throw .invalidPRPOffset }
            list = next
        }
    }

    private static let entryByteCount: UInt64 = 8

    private mutating func append(page: IOVA, _ remaining: inout UInt64) throws(Status) {
        guard page.isAligned(to: pageByteCount) else { throw .invalidPRPOffset }
        let count = min(remaining, pageByteCount)
        append(page, count)
        remaining -= count
    }

    /// Adds bytes of one page, which cannot run past the top of the address space.
    private mutating func append(_ first: IOVA, _ byteCount: UInt64) {
        let last = IOVA(first.rawValue + (byteCount - 1))
        if let previous = ranges.last, previous.last.rawValue != .max, previous.last.rawValue + 1 == first.rawValue {
            ranges[ranges.count - 1] = IOVARange(first: previous.first, last: last)
        } else {
            ranges.append(IOVARange(first: first, last: last))
        }
    }
}
