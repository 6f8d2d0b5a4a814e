import Synchronization

/// A node of a mapping tree: up to 64 entries, sorted by their first address.
///
///     header      level and number of entries
///     holes       what the writer remembers of the holes below
///     pivots      every eighth first address, so that a search looks at two cache lines of addresses
///     firsts      where each mapping begins; above the leaves, an address that no mapping of the child is below
///     targets     the mapping's record, or the child
///     lasts       where each mapping ends; in leaves
///
/// A node is built by appending, sealed, and then shown to readers. Afterwards only the pointers to children change,
/// and what is remembered of holes, which readers do not look at.
@safe
struct TreeNode: Equatable {
    static let capacity = 64
    private static let groupCount = 8

    private let base: UnsafeMutableRawPointer

    private struct Header {
        var level: Int32
        var count: Int32
    }

    /// What lies below a node.
    struct HoleSummary {
        let used: IOVARange
        /// The size in bytes of the largest hole between two of its mappings.
        let largestHole: UInt64
    }

    private static let holeOffset = 16
    private static let pivotOffset = 64
    private static let firstOffset = pivotOffset + groupCount * 8
    private static let targetOffset = firstOffset + capacity * 8
    private static let lastOffset = targetOffset + capacity * 8
    private static let size = lastOffset + capacity * 8

    /// What a pointer to a node holds; `nil` for zero.
    init?(bits: UInt) {
        guard let base = unsafe UnsafeMutableRawPointer(bitPattern: bits) else { return nil }
        unsafe self.base = base
    }

    private init(base: UnsafeMutableRawPointer) {
        unsafe self.base = base
    }

    var bits: UInt { UInt(bitPattern: unsafe base) }

    static func == (left: TreeNode, right: TreeNode) -> Bool { left.bits == right.bits }

    private var header: UnsafeMutablePointer<Header> { unsafe base.assumingMemoryBound(to: Header.self) }

    private var holes: UnsafeMutablePointer<HoleSummary?> {
        unsafe (base + TreeNode.holeOffset).assumingMemoryBound(to: HoleSummary?.self)
    }

    private var pivots: UnsafeMutablePointer<UInt64> {
        unsafe (base + TreeNode.pivotOffset).assumingMemoryBound(to: UInt64.self)
    }

    private var firsts: UnsafeMutablePointer<UInt64> {
        unsafe (base + TreeNode.firstOffset).assumingMemoryBound(to: UInt64.self)
    }

    private var targets: UnsafeMutablePointer<Atomic<UInt>> {
        unsafe (base + TreeNode.targetOffset).assumingMemoryBound(to: Atomic<UInt>.self)
    }

    private var lasts: UnsafeMutablePointer<UInt64> {
        unsafe (base + TreeNode.lastOffset).assumingMemoryBound(to: UInt64.self)
    }
}

// Reading. Indices are those of entries, which the caller has from `count` or `index(notAbove:)`.

extension TreeNode {
    var isLeaf: Bool { level == 0 }
    var level: Int { Int(unsafe header.pointee.level) }
    var count: Int { Int(unsafe header.pointee.count) }
    func first(_ index: Int) -> UInt64 { unsafe firsts[index] }
    func last(_ index: Int) -> UInt64 { unsafe lasts[index] }

    func mapping(_ index: Int) -> Mapping {
        // A leaf holds records and nothing else.
        let bits = unsafe targets[index].load(ordering: .relaxed)
        guard let record = unsafe UnsafeMutablePointer<MappingRecord>(bitPattern: bits) else {
            preconditionFailure("an entry of a leaf has a record")
        }
        return unsafe Mapping(record: record)
    }

    func child(_ index: Int) -> TreeNode {
        guard let child = TreeNode(bits: unsafe targets[index].load(ordering: .acquiring)) else {
            preconditionFailure("an entry above the leaves has a child")
        }
        return child
    }

    /// The last entry that begins at or below an address; −1 when there is none.
    ///
    /// Counts instead of branching, which no processor could predict.
    @inline(__always)
    func index(notAbove iova: UInt64) -> Int {
        let count = count
        var start = 0
        if count > TreeNode.groupCount {
            start = unsafe TreeNode.countNotAbove(iova, pivots) &* TreeNode.groupCount
            if start == TreeNode.capacity { return count &- 1 }
        }
        let notAbove = unsafe start &+ TreeNode.countNotAbove(iova, firsts + start)
        // What follows the entries compares as entries at the very top of the space.
        return min(notAbove, count) &- 1
    }

    /// How many of the eight addresses at a pointer are not above an address.
    @inline(__always)
    private static func countNotAbove(_ iova: UInt64, _ group: UnsafeMutablePointer<UInt64>) -> Int {
        // A comparison is one byte, 0 or 1; asked with `?:` the compiler would branch.
        var count = unsafe unsafeBitCast(group[0] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[1] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[2] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[3] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[4] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[5] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[6] <= iova, to: UInt8.self)
        unsafe count &+= unsafeBitCast(group[7] <= iova, to: UInt8.self)
        return Int(count)
    }
}

// Building

extension TreeNode {
    static func allocate() -> TreeNode {
        let base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
        for offset in stride(from: targetOffset, to: lastOffset, by: 8) {
            unsafe (base + offset).initializeMemory(as: Atomic<UInt>.self, to: Atomic(0))
        }
        return unsafe TreeNode(base: base)
    }

    func deallocate() {
        unsafe base.deallocate()
    }

    func clear(level: Int) {
        unsafe header.initialize(to: Header(level: Int32(level), count: 0))
        unsafe holes.initialize(to: nil)
    }

    func append(_ mapping: Mapping) {
        let range = mapping.range
        append(first: range.first.rawValue, last: range.last.rawValue, target: UInt(bitPattern: unsafe mapping.record))
    }

    func append(_ child: TreeNode, separator: UInt64) {
        append(first: separator, last: 0, target: child.bits)
    }

    /// Appends entries of another node of the level.
    func append(from other: TreeNode, _ indices: Range<Int>) {
        let start = count
        precondition(start + indices.count <= TreeNode.capacity, "a node has room for what is appended")
        let (source, count) = (indices.lowerBound, indices.count)
        unsafe (firsts + start).update(from: other.firsts + source, count: count)
        unsafe (lasts + start).update(from: other.lasts + source, count: count)
        for index in 0..<count {
            unsafe targets[start + index].store(
                other.targets[source + index].load(ordering: .relaxed), ordering: .relaxed)
        }
        unsafe header.pointee.count += Int32(count)
    }

    private func append(first: UInt64, last: UInt64, target: UInt) {
        let index = count
        precondition(index < TreeNode.capacity, "a node has room for what is appended")
        unsafe firsts[index] = first
        unsafe lasts[index] = last
        unsafe targets[index].store(target, ordering: .relaxed)
        unsafe header.pointee.count += 1
    }

    /// Completes a node that nothing will be appended to.
    func seal() {
        let count = count
        // A search may end at the group behind the last entry.
        let padded = min(TreeNode.capacity, (count / TreeNode.groupCount + 1) * TreeNode.groupCount)
        for index in count..<padded { unsafe firsts[index] = .max }
        for group in 0..<TreeNode.groupCount {
            let index = group * TreeNode.groupCount + TreeNode.groupCount - 1
            unsafe pivots[group] = index < padded ? firsts[index] : .max
        }
    }

    func setChild(_ index: Int, to child: TreeNode) {
        unsafe targets[index].store(child.bits, ordering: .releasing)
    }
}

// Holes, which only the writer is interested in

extension TreeNode {
    /// Something below has changed.
    func forgetHoles() {
        unsafe holes.pointee = nil
    }

    /// Looks at each entry of the nodes below that changed since it was last asked.
    func holeSummary() -> HoleSummary {
        if let known = unsafe holes.pointee { return known }
        var largest: UInt64 = 0
        var lowest: IOVA?
        var highest = IOVA(0)
        for index in 0..<count {
            let (used, hole) = self.used(index)
            largest = max(largest, hole)
            if lowest != nil { largest = max(largest, used.first.rawValue - highest.rawValue - 1) }
            lowest = lowest ?? used.first
            highest = used.last
        }
        let summary = HoleSummary(used: IOVARange(first: lowest ?? highest, last: highest), largestHole: largest)
        unsafe holes.pointee = summary
        return summary
    }

    private func used(_ index: Int) -> (IOVARange, largestHole: UInt64) {
        if isLeaf { return (IOVARange(first: IOVA(first(index)), last: IOVA(last(index))), 0) }
        let summary = child(index).holeSummary()
        return (summary.used, summary.largestHole)
    }
}
