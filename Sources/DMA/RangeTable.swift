/// Values under address ranges that never overlap, in ascending order.
///
/// Two levels of sorted arrays: chunks of at most `capacity` entries. A search halves its way through both; an insertion
/// or removal moves the entries of one chunk, and now and then the list of chunks. At a hundred thousand entries that is
/// some 700 chunks.
struct RangeTable<Value> {
    struct Entry {
        let range: IOVARange
        let value: Value
    }

    private struct Chunk {
        /// Never empty.
        var entries: [Entry]
        /// The size of the largest hole between two entries of the chunk, `nil` when that has to be found out again.
        var largestHole: UInt64?
    }

    fileprivate struct Position {
        var chunk: Int
        var index: Int
    }

    /// Larger chunks cost more to move, smaller ones make the list of them longer.
    private static var capacity: Int { 256 }

    private var chunks: [Chunk] = []
    /// The first address of each chunk, so that finding a chunk does not visit the others.
    private var firsts: [IOVA] = []
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }

    /// The entry that holds `address`.
    func entry(at address: IOVA) -> Entry? {
        first(overlapping: IOVARange(first: address, last: address))
    }

    /// The lowest entry with an address in `range`.
    func first(overlapping range: IOVARange) -> Entry? {
        guard let position = position(notBelow: range.first) else { return nil }
        let entry = chunks[position.chunk].entries[position.index]
        return entry.range.first <= range.last ? entry : nil
    }

    /// All entries with an address in `range`, ascending.
    func entries(overlapping range: IOVARange) -> Scan {
        Scan(table: self, position: position(notBelow: range.first), last: range.last)
    }

    /// - Precondition: no entry overlaps `range`.
    mutating func insert(_ value: Value, at range: IOVARange) {
        precondition(first(overlapping: range) == nil, "two mappings overlap")
        count += 1
        let entry = Entry(range: range, value: value)
        guard !chunks.isEmpty else {
            chunks.append(Chunk(entries: [entry]))
            firsts.append(range.first)
            return
        }
        let chunk = max(0, chunkCount(startingNotAbove: range.first) - 1)
        let index = entryCount(inChunk: chunk, startingNotAbove: range.first)
        chunks[chunk].entries.insert(entry, at: index)
        chunks[chunk].largestHole = nil
        if index == 0 { firsts[chunk] = range.first }
        if chunks[chunk].entries.count > Self.capacity { split(chunk) }
    }

    /// Removes the entry that begins at `first` and returns its value, `nil` when there is none.
    @discardableResult
    mutating func remove(beginningAt first: IOVA) -> Value? {
        guard let position = position(notBelow: first) else { return nil }
        let entry = chunks[position.chunk].entries[position.index]
        guard entry.range.first == first else { return nil }
        count -= 1
        chunks[position.chunk].entries.remove(at: position.index)
        chunks[position.chunk].largestHole = nil
        if chunks[position.chunk].entries.isEmpty {
            chunks.remove(at: position.chunk)
            firsts.remove(at: position.chunk)
        } else {
            if position.index == 0 { firsts[position.chunk] = chunks[position.chunk].entries[0].range.first }
            mergeIfSmall(position.chunk)
        }
        return entry.value
    }

    /// The lowest place in `window` that `place` finds in a hole of at least `byteCount` bytes.
    ///
    /// Chunks without such a hole are passed over, so the cost is that of the chunks, not of the entries.
    mutating func firstFit(
        in window: IOVARange, byteCount: UInt64, _ place: (IOVARange) -> IOVA?
    ) -> IOVA? {
        var hole: IOVA? = window.first
        func fit(endingBefore next: IOVA?) -> IOVA? {
            guard let first = hole else { return nil }
            var last = window.last
            if let next {
                guard next > first else { return nil }
                last = min(last, IOVA(next.rawValue - 1))
            }
            guard first <= last else { return nil }
            let range = IOVARange(first: first, last: last)
            return range.byteCount >= byteCount ? place(range) : nil
        }
        guard var position = position(notBelow: window.first) else { return fit(endingBefore: nil) }
        while position.chunk < chunks.count {
            let largestHole = largestHole(inChunk: position.chunk)
            let entries = chunks[position.chunk].entries
            while position.index < entries.count {
                let range = entries[position.index].range
                if range.first > window.last { return fit(endingBefore: range.first) }
                if let iova = fit(endingBefore: range.first) { return iova }
                if largestHole < byteCount { position.index = entries.count - 1 }
                hole = entries[position.index].range.last.successor
                position.index += 1
            }
            position = Position(chunk: position.chunk + 1, index: 0)
        }
        return fit(endingBefore: nil)
    }

    private mutating func largestHole(inChunk chunk: Int) -> UInt64 {
        if let known = chunks[chunk].largestHole { return known }
        let entries = chunks[chunk].entries
        var largest: UInt64 = 0
        for index in entries.indices.dropFirst() {
            let hole = entries[index].range.first.rawValue - entries[index - 1].range.last.rawValue - 1
            largest = max(largest, hole)
        }
        chunks[chunk].largestHole = largest
        return largest
    }

    private mutating func split(_ chunk: Int) {
        let half = chunks[chunk].entries.count / 2
        let upper = Array(chunks[chunk].entries[half...])
        chunks[chunk].entries.removeSubrange(half...)
        chunks.insert(Chunk(entries: upper), at: chunk + 1)
        firsts.insert(upper[0].range.first, at: chunk + 1)
    }

    /// Joins a chunk that is a quarter full with its successor when both together leave room to grow.
    private mutating func mergeIfSmall(_ chunk: Int) {
        guard chunks[chunk].entries.count <= Self.capacity / 4, chunk + 1 < chunks.count else { return }
        guard chunks[chunk].entries.count + chunks[chunk + 1].entries.count <= Self.capacity / 2 else { return }
        let upper = chunks.remove(at: chunk + 1)
        firsts.remove(at: chunk + 1)
        chunks[chunk].entries.append(contentsOf: upper.entries)
    }

    /// The first entry that ends at or after `address`.
    private func position(notBelow address: IOVA) -> Position? {
        guard !chunks.isEmpty else { return nil }
        let chunk = max(0, chunkCount(startingNotAbove: address) - 1)
        let after = entryCount(inChunk: chunk, startingNotAbove: address)
        if after > 0, chunks[chunk].entries[after - 1].range.last >= address {
            return Position(chunk: chunk, index: after - 1)
        }
        if after < chunks[chunk].entries.count { return Position(chunk: chunk, index: after) }
        return chunk + 1 < chunks.count ? Position(chunk: chunk + 1, index: 0) : nil
    }

    private func chunkCount(startingNotAbove address: IOVA) -> Int {
        partition(firsts.count) { firsts[$0] <= address }
    }

    private func entryCount(inChunk chunk: Int, startingNotAbove address: IOVA) -> Int {
        let entries = chunks[chunk].entries
        return partition(entries.count) { entries[$0].range.first <= address }
    }

    /// How many of the indices below `count` satisfy a condition that holds for all below some index and none above.
    private func partition(_ count: Int, _ holds: (Int) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if holds(middle) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Entries in ascending order, of the table as it was.
    struct Scan: Sequence, IteratorProtocol {
        fileprivate let table: RangeTable
        private var position: Position?
        private let last: IOVA

        fileprivate init(table: RangeTable, position: Position?, last: IOVA) {
            self.table = table
            self.position = position
            self.last = last
        }

        mutating func next() -> Entry? {
            guard var here = position else { return nil }
            let entries = table.chunks[here.chunk].entries
            let entry = entries[here.index]
            guard entry.range.first <= last else {
                position = nil
                return nil
            }
            here.index += 1
            if here.index == entries.count { here = Position(chunk: here.chunk + 1, index: 0) }
            position = here.chunk < table.chunks.count ? here : nil
            return entry
        }
    }
}

extension IOVA {
    /// The address after this one, `nil` at the top of the space.
    var successor: IOVA? { rawValue == .max ? nil : IOVA(rawValue + 1) }
    /// The address before this one, `nil` at the bottom of the space.
    var predecessor: IOVA? { rawValue == 0 ? nil : IOVA(rawValue - 1) }
}
