/// The mappings of an address space in the order of their addresses: a B+tree that readers search without a lock.
///
/// What a reader goes by in a node never changes: a leaf that changes is replaced by a new one, with one store to the
/// pointer that leads to it; a node above is only replaced when its children become more or fewer. So a reader sees the
/// tree as it was at some moment since it began. Replaced nodes are retired: they are used again once every reader that
/// may have reached them has left. Up to 64 mappings the whole tree is a single sorted node.
///
/// A node above the leaves has a separator for each child: all mappings of a child end below the separator of the next.
/// None begins below its own, but for those of the first child.
///
/// One writer at a time.
@safe
struct MappingTree: ~Copyable {
    /// Where readers find the root.
    private let translation: Translation
    private var rootNode: TreeNode?
    private(set) var count = 0
    /// Nodes that readers may still be in.
    private(set) var retired: [TreeNode] = []
    /// Nodes that nobody is in, for the next that are needed.
    private var spare: [TreeNode] = []

    private static var maximumSpareCount: Int { 64 }

    init(_ translation: Translation) {
        self.translation = translation
    }

    deinit {
        if let node = rootNode { MappingTree.deallocate(below: node) }
        for node in retired { node.deallocate() }
        for node in spare { node.deallocate() }
    }

    private static func deallocate(below node: TreeNode) {
        if !node.isLeaf {
            for index in 0..<node.count { deallocate(below: node.child(index)) }
        }
        node.deallocate()
    }
}

// Searching

extension MappingTree {
    /// The mapping that holds an address. For readers in a section as well as for the writer.
    @inline(__always)
    static func find(_ iova: UInt64, from translation: Translation) -> Mapping? {
        guard var node = TreeNode(bits: translation.treeRoot) else { return nil }
        while !node.isLeaf { node = node.child(max(0, node.index(notAbove: iova))) }
        let index = node.index(notAbove: iova)
        guard index >= 0, iova <= node.last(index) else { return nil }
        return node.mapping(index)
    }

    /// The lowest mapping with an address in `range`.
    func first(overlapping range: IOVARange) -> Mapping? {
        var scan = mappings(overlapping: range)
        return scan.next()
    }

    func mappings(overlapping range: IOVARange) -> Scan {
        Scan(root: rootNode, range: range)
    }

    /// Mappings in ascending order. The tree must not change meanwhile.
    struct Scan: Sequence, IteratorProtocol {
        private let root: TreeNode?
        private var leaf: TreeNode?
        private var index = 0
        private let last: UInt64

        fileprivate init(root: TreeNode?, range: IOVARange) {
            self.root = root
            last = range.last.rawValue
            seek(range.first.rawValue)
        }

        mutating func next() -> Mapping? {
            guard let leaf, leaf.first(index) <= last else { return nil }
            let mapping = leaf.mapping(index)
            index += 1
            if index == leaf.count {
                let end = leaf.last(index - 1)
                if end == .max { self.leaf = nil } else { seek(end + 1) }
            }
            return mapping
        }

        /// Goes to the first mapping that ends at or after an address.
        private mutating func seek(_ iova: UInt64) {
            leaf = nil
            guard var node = root else { return }
            /// The subtree to the right of where the way down went, from as low as there is one.
            var right: TreeNode?
            while !node.isLeaf {
                let child = Swift.max(0, node.index(notAbove: iova))
                if child + 1 < node.count { right = node.child(child + 1) }
                node = node.child(child)
            }
            index = Swift.max(0, node.index(notAbove: iova))
            if node.last(index) < iova { index += 1 }
            if index < node.count {
                leaf = node
            } else if var node = right {
                while !node.isLeaf { node = node.child(0) }
                index = 0
                leaf = node
            }
        }
    }
}

// Inserting

extension MappingTree {
    /// What takes the place of a node that changed.
    private enum Replacement {
        /// The node is as it was, or has changed in place.
        case none
        case one(TreeNode)
        case two(TreeNode, TreeNode)
        case nothing
    }

    /// - Precondition: no mapping overlaps it.
    mutating func insert(_ mapping: Mapping) {
        count += 1
        guard let node = rootNode else {
            let leaf = makeNode(level: 0)
            leaf.append(mapping)
            leaf.seal()
            setRoot(leaf)
            return
        }
        switch insert(mapping, below: node, .both) {
        case .none, .nothing: break
        case .one(let new):
            setRoot(new)
            retired.append(node)
        case .two(let left, let right):
            let new = makeNode(level: node.level + 1)
            new.append(left, separator: left.first(0))
            new.append(right, separator: right.first(0))
            new.seal()
            setRoot(new)
            if left != node && right != node { retired.append(node) }
        }
    }

    /// The ends of the tree that a node stands at.
    private struct Ends {
        let lower, upper: Bool

        static let both = Ends(lower: true, upper: true)
    }

    private mutating func insert(_ mapping: Mapping, below node: TreeNode, _ ends: Ends) -> Replacement {
        if node.isLeaf { return insert(mapping, intoLeaf: node, ends) }
        node.forgetHoles()
        let index = max(0, node.index(notAbove: mapping.range.first.rawValue))
        let childEnds = Ends(lower: ends.lower && index == 0, upper: ends.upper && index == node.count - 1)
        let child = node.child(index)
        let last = mapping.range.last.rawValue
        // A search for the mapping's last address must not go to the next child.
        let isBeyond = index + 1 < node.count && node.first(index + 1) <= last
        switch insert(mapping, below: child, childEnds) {
        case .none, .nothing:
            return isBeyond ? copy(node, with: child, nil, at: index, upTo: last) : .none
        case .one(let new):
            retired.append(child)
            if isBeyond { return copy(node, with: new, nil, at: index, upTo: last) }
            node.setChild(index, to: new)
            return .none
        case .two(let left, let right):
            if left != child && right != child { retired.append(child) }
            return copy(node, with: left, right, at: index, upTo: last)
        }
    }

    private mutating func insert(_ mapping: Mapping, intoLeaf node: TreeNode, _ ends: Ends) -> Replacement {
        let position = node.index(notAbove: mapping.range.first.rawValue) + 1
        let count = node.count
        if count < TreeNode.capacity {
            let new = makeNode(level: 0)
            new.append(from: node, 0..<position)
            new.append(mapping)
            new.append(from: node, position..<count)
            new.seal()
            return .one(new)
        }
        // Addresses that are given out in order fill one leaf after the other. Only at the ends of the tree: downwards
        // from the next leaf to a full one, each mapping would have a leaf of its own.
        if (position == count && ends.upper) || (position == 0 && ends.lower) {
            let new = makeNode(level: 0)
            new.append(mapping)
            new.seal()
            return position == 0 ? .two(new, node) : .two(node, new)
        }
        let half = count / 2
        let (left, right) = (makeNode(level: 0), makeNode(level: 0))
        left.append(from: node, 0..<min(position, half))
        if position <= half {
            left.append(mapping)
            left.append(from: node, position..<half)
            right.append(from: node, half..<count)
        } else {
            right.append(from: node, half..<position)
            right.append(mapping)
            right.append(from: node, position..<count)
        }
        left.seal()
        right.seal()
        return .two(left, right)
    }

    /// One node, or two, like a node but for the child at `index`, which has become one or two others with mappings up to
    /// `last`.
    private mutating func copy(
        _ node: TreeNode, with left: TreeNode, _ right: TreeNode?, at index: Int, upTo last: UInt64
    ) -> Replacement {
        let count = node.count
        let lower = makeNode(level: node.level)
        var upper: TreeNode?
        // As in a leaf, the upper node begins with the last child where addresses are given out in order.
        let isFull = right != nil && count == TreeNode.capacity
        let half = !isFull ? count : index == count - 1 ? index : count / 2
        for position in 0..<count {
            if position == half { upper = makeNode(level: node.level) }
            let target = upper ?? lower
            if position == index {
                // The first child may have come to hold addresses below its separator.
                target.append(left, separator: min(node.first(index), left.first(0)))
                if let right { target.append(right, separator: right.first(0)) }
            } else {
                let separator = node.first(position)
                let isNext = position == index + 1 && separator <= last
                target.append(node.child(position), separator: isNext ? last + 1 : separator)
            }
        }
        lower.seal()
        guard let upper else { return .one(lower) }
        upper.seal()
        return .two(lower, upper)
    }
}

// Removing

extension MappingTree {
    /// Takes mappings out, those that follow each other in a leaf at once.
    ///
    /// - Precondition: they are there, and given in ascending order.
    mutating func remove(_ mappings: [Mapping]) {
        var rest = mappings[...]
        while !rest.isEmpty { removeFirst(of: &rest) }
    }

    private mutating func removeFirst(of rest: inout ArraySlice<Mapping>) {
        guard let node = rootNode else { preconditionFailure("a mapping that is removed is there") }
        let countBefore = rest.count
        defer { count -= countBefore - rest.count }
        switch remove(&rest, below: node) {
        case .none, .two: return
        case .nothing: setRoot(nil)
        case .one(let new) where !new.isLeaf && new.count == 1:
            setRoot(new.child(0))
            spare.append(new)
        case .one(let new): setRoot(new)
        }
        retired.append(node)
    }

    private mutating func remove(_ rest: inout ArraySlice<Mapping>, below node: TreeNode) -> Replacement {
        guard let first = rest.first?.range.first.rawValue else { return .none }
        let index = max(0, node.index(notAbove: first))
        if node.isLeaf {
            precondition(node.first(index) == first, "a mapping that is removed is there")
            var end = index
            while end < node.count, let next = rest.first, next.range.first.rawValue == node.first(end) {
                rest.removeFirst()
                end += 1
            }
            return copy(node, without: index..<end)
        }
        node.forgetHoles()
        let child = node.child(index)
        switch remove(&rest, below: child) {
        case .none, .two: return .none
        case .nothing:
            retired.append(child)
            return copy(node, without: index..<index + 1)
        case .one(let new):
            retired.append(child)
            if new.count < TreeNode.capacity / 4, let merged = merge(new, at: index, in: node) { return .one(merged) }
            node.setChild(index, to: new)
            return .none
        }
    }

    private mutating func copy(_ node: TreeNode, without indices: Range<Int>) -> Replacement {
        let count = node.count
        if count == indices.count { return .nothing }
        let new = makeNode(level: node.level)
        new.append(from: node, 0..<indices.lowerBound)
        new.append(from: node, indices.upperBound..<count)
        new.seal()
        return .one(new)
    }

    /// A node in which the small node that is to be the child at `index` is joined with a neighbour; `nil` when that would
    /// leave no room to grow with either.
    private mutating func merge(_ small: TreeNode, at index: Int, in node: TreeNode) -> TreeNode? {
        let count = node.count
        let room = TreeNode.capacity * 3 / 4 - small.count
        let lowerIndex: Int
        if index + 1 < count, node.child(index + 1).count <= room {
            lowerIndex = index
        } else if index > 0, node.child(index - 1).count <= room {
            lowerIndex = index - 1
        } else {
            return nil
        }
        let lower = lowerIndex == index ? small : node.child(lowerIndex)
        let upper = lowerIndex == index ? node.child(index + 1) : small
        let joined = makeNode(level: small.level)
        joined.append(from: lower, 0..<lower.count)
        if joined.isLeaf {
            joined.append(from: upper, 0..<upper.count)
        } else {
            // The separator of a node's first child may be above what has come to it since.
            joined.append(upper.child(0), separator: node.first(lowerIndex + 1))
            joined.append(from: upper, 1..<upper.count)
        }
        joined.seal()
        let new = makeNode(level: node.level)
        new.append(from: node, 0..<lowerIndex)
        new.append(joined, separator: node.first(lowerIndex))
        new.append(from: node, lowerIndex + 2..<count)
        new.seal()
        retired.append(lowerIndex == index ? upper : lower)
        spare.append(small)
        return new
    }
}

// Holes

extension MappingTree {
    /// The lowest place in `window` that `place` finds in a hole of at least `byteCount` bytes.
    ///
    /// Subtrees without such a hole are passed over.
    func firstFit(in window: IOVARange, byteCount: UInt64, _ place: (IOVARange) -> IOVA?) -> IOVA? {
        var search = HoleSearch(window: window, byteCount: byteCount)
        if let node = rootNode, let found = firstFit(below: node, &search, place) { return found }
        return search.rest.flatMap(place)
    }

    private func firstFit(
        below node: TreeNode, _ search: inout HoleSearch, _ place: (IOVARange) -> IOVA?
    ) -> IOVA? {
        for index in 0..<node.count where !search.isOver {
            let used: IOVARange
            if node.isLeaf {
                used = IOVARange(first: IOVA(node.first(index)), last: IOVA(node.last(index)))
            } else {
                let child = node.child(index)
                let summary = child.holeSummary()
                if summary.largestHole >= search.byteCount {
                    if let found = firstFit(below: child, &search, place) { return found }
                    continue
                }
                used = summary.used
            }
            if let hole = search.hole(before: used), let found = place(hole) { return found }
        }
        return nil
    }

    /// How far a search for a hole has come.
    private struct HoleSearch {
        let window: IOVARange
        let byteCount: UInt64
        /// The first address that may be free; `nil` when there is none left.
        private var next: IOVA?

        init(window: IOVARange, byteCount: UInt64) {
            self.window = window
            self.byteCount = byteCount
            next = window.first
        }

        var isOver: Bool { next == nil }

        /// What is free from where the search stands to the end of the window, if it is large enough.
        var rest: IOVARange? { next.flatMap { hole($0, window.last) } }

        /// What is free up to addresses that are used, if it is large enough, and goes on behind them.
        mutating func hole(before used: IOVARange) -> IOVARange? {
            guard let first = next else { return nil }
            if used.first > window.last {
                next = nil
                return hole(first, window.last)
            }
            if used.last >= first {
                next = used.last.successor.flatMap { $0 > window.last ? nil : $0 }
            }
            guard used.first > first, let last = used.first.predecessor else { return nil }
            return hole(first, last)
        }

        private func hole(_ first: IOVA, _ last: IOVA) -> IOVARange? {
            let range = IOVARange(first: first, last: last)
            return range.byteCount >= byteCount ? range : nil
        }
    }
}

// Nodes

extension MappingTree {
    private mutating func setRoot(_ node: TreeNode?) {
        rootNode = node
        translation.treeRoot = node?.bits ?? 0
    }

    private mutating func makeNode(level: Int) -> TreeNode {
        let node = spare.popLast() ?? TreeNode.allocate()
        node.clear(level: level)
        return node
    }

    /// Hands over the retired nodes to whoever is about to drain the readers.
    mutating func takeRetired() -> [TreeNode] {
        defer { retired = [] }
        return retired
    }

    /// Takes back nodes that no reader is in any more.
    mutating func recycle(_ nodes: [TreeNode]) {
        for node in nodes { recycle(node) }
    }

    private mutating func recycle(_ node: TreeNode) {
        if spare.count < MappingTree.maximumSpareCount { spare.append(node) } else { node.deallocate() }
    }
}
