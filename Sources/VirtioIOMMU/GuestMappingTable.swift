import DMA

/// The mappings of one domain as the guest made them, in the order of their addresses.
///
/// Sorted runs of a few hundred mappings each, with the first address of each run beside them: a search is two bisections,
/// a change moves what is in one run. A run that is full becomes two; one that becomes empty goes.
struct GuestMappingTable: Sendable {
    /// The number of mappings in a run at most: few enough to be moved in a moment, and enough that a million mappings are
    /// some thousand runs.
    private static let runCapacity = 256

    private var runs: [[GuestMapping]] = []
    /// The first address of each run.
    private var firsts: [UInt64] = []
    private(set) var count = 0

    /// The mapping that holds an address.
    func mapping(at iova: IOVA) -> GuestMapping? {
        guard let run = run(notAbove: iova.rawValue) else { return nil }
        let index = Self.index(above: iova.rawValue, in: runs[run]) - 1
        let mapping = runs[run][index]
        return mapping.range.contains(iova) ? mapping : nil
    }

    func overlaps(_ range: IOVARange) -> Bool {
        // Of the mappings that begin at or before the end of the range, the last one ends last.
        guard let run = run(notAbove: range.last.rawValue) else { return false }
        let index = Self.index(above: range.last.rawValue, in: runs[run]) - 1
        return runs[run][index].range.last >= range.first
    }

    /// Whether a mapping lies partly inside and partly outside a range.
    func isSplit(by range: IOVARange) -> Bool {
        [range.first, range.last].contains { edge in
            guard let mapping = mapping(at: edge) else { return false }
            return !range.contains(mapping.range)
        }
    }

    /// Enters a mapping, which overlaps no other.
    mutating func insert(_ mapping: GuestMapping) {
        let first = mapping.range.first.rawValue
        count += 1
        guard !runs.isEmpty else {
            runs.append([mapping])
            firsts.append(first)
            return
        }
        let run = run(notAbove: first) ?? 0
        runs[run].insert(mapping, at: Self.index(above: first, in: runs[run]))
        firsts[run] = runs[run][0].range.first.rawValue
        if runs[run].count > Self.runCapacity { split(run) }
    }

    private mutating func split(_ run: Int) {
        let middle = runs[run].count / 2
        let upper = Array(runs[run][middle...])
        runs[run].removeSubrange(middle...)
        runs.insert(upper, at: run + 1)
        firsts.insert(upper[0].range.first.rawValue, at: run + 1)
    }

    /// Takes out the mappings in a range, none of which reaches beyond it, and calls `body` with each, ascending.
    mutating func removeAll(in range: IOVARange, _ body: (GuestMapping) -> Void) {
        guard !runs.isEmpty else { return }
        var run = run(notAbove: range.first.rawValue) ?? 0
        var empty: Range<Int>?
        while run < runs.count, firsts[run] <= range.last.rawValue {
            let start = Self.index(notBelow: range.first.rawValue, in: runs[run])
            let end = Self.index(above: range.last.rawValue, in: runs[run])
            if start < end {
                for mapping in runs[run][start..<end] { body(mapping) }
                count -= end - start
                if end - start == runs[run].count {
                    empty = (empty?.lowerBound ?? run)..<run + 1
                } else {
                    runs[run].removeSubrange(start..<end)
                    firsts[run] = runs[run][0].range.first.rawValue
                }
            }
            run += 1
        }
        if let empty {
            runs.removeSubrange(empty)
            firsts.removeSubrange(empty)
        }
    }

    /// Calls `body` with every mapping, ascending.
    func forEach(_ body: (GuestMapping) -> Void) {
        for run in runs { for mapping in run { body(mapping) } }
    }

    /// The last run that begins at or below an address.
    private func run(notAbove iova: UInt64) -> Int? {
        var low = 0
        var high = firsts.count
        while low < high {
            let middle = (low + high) / 2
            if firsts[middle] <= iova { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? nil : low - 1
    }

    /// The index of the first mapping of a run that begins above an address.
    private static func index(above iova: UInt64, in run: [GuestMapping]) -> Int {
        var low = 0
        var high = run.count
        while low < high {
            let middle = (low + high) / 2
            if run[middle].range.first.rawValue <= iova { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private static func index(notBelow iova: UInt64, in run: [GuestMapping]) -> Int {
        iova == 0 ? 0 : index(above: iova - 1, in: run)
    }
}
