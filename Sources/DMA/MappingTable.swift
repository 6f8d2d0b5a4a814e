/// All mappings of an address space: their records, their order, and a short way to them when they are many.
///
/// Changed with the lock of the address space held; searched by readers without it, through the translation. What a
/// change takes out of readers' way is retired, and used again once they have been drained.
@safe
final class MappingTable {
    /// Past this number of mappings the tree has more than one node, and the directory is worth what it costs.
    private static let directoryThreshold = TreeNode.capacity
    /// So many mappings have to go in a row, each leaving half of the threshold or less, before the directory goes too:
    /// it must not come and go with every burst of them.
    private static let patience = 1024

    private var slab = MappingSlab()
    private var tree: MappingTree
    private var directory: PageDirectory
    private var hasDirectory = false
    private let mayHaveDirectory: Bool
    /// How many mappings have gone since the table was last larger than half of the threshold.
    private var removalsWhileSmall = 0
    /// Removed mappings that readers may still look at.
    private var retiredMappings: [Mapping] = []

    /// What readers may still be in, on its way to be used again.
    struct Retired {
        fileprivate var mappings: [Mapping] = []
        fileprivate var nodes: [TreeNode] = []
        fileprivate var tables: [DirectoryTable] = []
    }

    init(_ translation: Translation) {
        tree = MappingTree(translation)
        directory = PageDirectory(translation)
        mayHaveDirectory = translation.pageShift >= PageDirectory.minimumPageShift
    }

    var count: Int { tree.count }

    func first(overlapping range: IOVARange) -> Mapping? { tree.first(overlapping: range) }

    /// The mapping that holds an address.
    func mapping(at iova: IOVA) -> Mapping? { tree.first(overlapping: IOVARange(first: iova, last: iova)) }

    /// Mappings in ascending order. The table must not change meanwhile.
    func mappings(overlapping range: IOVARange) -> MappingTree.Scan { tree.mappings(overlapping: range) }

    /// The mapping itself, if it is still there.
    func mapping(like claim: MappingClaim) -> Mapping? {
        guard let mapping = mapping(at: claim.range.first), claim.isOn(mapping) else { return nil }
        return mapping
    }

    func firstFit(in window: IOVARange, byteCount: UInt64, _ place: (IOVARange) -> IOVA?) -> IOVA? {
        tree.firstFit(in: window, byteCount: byteCount, place)
    }

    /// - Precondition: nothing is mapped in the range.
    @discardableResult
    func insert(
        _ range: IOVARange, backing: Backing, rights: AccessRights, grantableRights: AccessRights, inTransition: Bool
    ) -> Mapping {
        let mapping = slab.makeMapping(
            range: range, backing: backing, rights: rights, grantableRights: grantableRights, inTransition: inTransition
        )
        tree.insert(mapping)
        if hasDirectory {
            directory.insert(mapping, mappingCount: count)
        } else if mayHaveDirectory && count > MappingTable.directoryThreshold {
            hasDirectory = true
            for mapping in mappings(overlapping: .everything) { directory.insert(mapping, mappingCount: count) }
        }
        return mapping
    }

    /// Takes mappings out, which no reader is in and no pin counts on, and hands over the memory they kept.
    ///
    /// - Parameter mappings: ascending.
    func remove(_ mappings: [Mapping]) -> [Backing] {
        tree.remove(mappings)
        if hasDirectory {
            for mapping in mappings { directory.remove(mapping) }
            removalsWhileSmall = count > MappingTable.directoryThreshold / 2 ? 0 : removalsWhileSmall + mappings.count
            if removalsWhileSmall > MappingTable.patience {
                directory.removeAll()
                hasDirectory = false
            }
        }
        retiredMappings += mappings
        return mappings.map { $0.takeBacking() }
    }

    /// Takes everything out, when there are no readers any more, and hands over the memory.
    func removeAll() -> [Backing] {
        let backings = remove(Array(mappings(overlapping: .everything)))
        recycleRetired()
        return backings
    }

    /// How much is waiting for readers to be drained.
    var retiredCount: Int { retiredMappings.count + tree.retired.count + directory.retiredCount }

    /// Hands over what is retired to whoever drains the readers now.
    func takeRetired() -> Retired {
        defer { retiredMappings = [] }
        return Retired(mappings: retiredMappings, nodes: tree.takeRetired(), tables: directory.takeRetired())
    }

    /// Takes back what was retired before the readers were drained.
    func recycle(_ retired: Retired) {
        for mapping in retired.mappings { slab.free(mapping) }
        tree.recycle(retired.nodes)
        directory.recycle(retired.tables)
    }

    /// Takes back all that is retired, at a moment when no reader is anywhere.
    func recycleRetired() {
        recycle(takeRetired())
    }
}
