import Randomness
import Testing

@testable import DMA

/// The table against the simplest thing that has the same answers: a sorted array of ranges. A mapping is told from the
/// others by the offset of its memory.
@Suite struct `The mapping table` {
    private final class Table {
        let translation: Translation
        let mappings: MappingTable
        private let object: MemoryObject

        init() throws {
            translation = Translation(pageSize: page)
            mappings = MappingTable(translation)
            object = try MemoryObject.anonymous(byteCount: 1 << 20)
        }

        deinit {
            _ = mappings.removeAll()
            translation.deallocate()
        }

        func insert(_ number: UInt64, at range: IOVARange) {
            mappings.insert(
                range, backing: .file(object, offset: number), rights: .read, grantableRights: .read,
                inTransition: false)
        }

        func remove(beginningAt first: IOVA) -> UInt64? {
            guard let mapping = mappings.mapping(at: first), mapping.range.first == first else { return nil }
            let number = mapping.offset
            _ = mappings.remove([mapping])
            if mappings.retiredCount > 100 { mappings.recycleRetired() }
            return number
        }

        func numbers(overlapping range: IOVARange = .everything) -> [UInt64] {
            mappings.mappings(overlapping: range).map(\.offset)
        }

        /// What a reader finds, and what the tree alone finds.
        func find(_ iova: IOVA) -> [UInt64?] {
            [translation.find(iova)?.offset, MappingTree.find(iova.rawValue, from: translation)?.offset]
        }
    }

    private func check(_ table: Table, _ reference: [(IOVARange, UInt64)], _ comment: Comment) {
        // As one condition: the difference of thousands of entries helps nobody.
        let ranges = table.mappings.mappings(overlapping: .everything).map(\.range)
        let isSame = ranges == reference.map(\.0) && table.numbers() == reference.map(\.1)
        #expect(isSame && table.mappings.count == reference.count, comment)
    }

    /// How large the mappings are and how far apart, which decides what of them the directory knows.
    enum Layout: CaseIterable {
        case bytes, pages, blocks, sparse

        var unit: UInt64 {
            switch self {
            case .bytes: 1
            case .pages: page
            case .blocks: page * 300
            case .sparse: 1 << 47
            }
        }
    }

    @Test(arguments: Layout.allCases)
    func `answers like a sorted array through random insertions and removals`(layout: Layout) throws {
        let seed: UInt64 = 1
        var random = SeededNumbers(seed: seed)
        let table = try Table()
        var reference: [(IOVARange, UInt64)] = []
        let span: UInt64 = 1 << 14
        for step in 0..<10_000 as Range<UInt64> {
            let comment: Comment = "\(layout), seed \(seed), step \(step)"
            let number = UInt64.random(in: 0..<span, using: &random)
            let lastNumber = min(span - 1, number + UInt64.random(in: 0..<8, using: &random))
            let probe = range(number * layout.unit, lastNumber * layout.unit + (layout.unit - 1))
            let hits = reference.filter { $0.0.overlaps(probe) }
            // Grow for a while, then shrink, so that nodes split and merge and the directory comes and goes.
            let wantsInsertion = Int.random(in: 0..<10, using: &random) < ((step / 2500) % 2 == 0 ? 8 : 1)
            if hits.isEmpty && wantsInsertion {
                table.insert(step, at: probe)
                let index = reference.firstIndex { $0.0.first > probe.first } ?? reference.count
                reference.insert((probe, step), at: index)
            } else if let hit = hits.first, !wantsInsertion {
                #expect(table.remove(beginningAt: hit.0.first) == hit.1, comment)
                reference.removeAll { $0.0 == hit.0 }
                #expect(table.remove(beginningAt: hit.0.first) == nil, comment)
            }
            if step % 16 == 0 {
                let expected = reference.filter { $0.0.overlaps(probe) }
                #expect(table.mappings.first(overlapping: probe)?.offset == expected.first?.1, comment)
                #expect(table.numbers(overlapping: probe) == expected.map(\.1), comment)
                for iova in [probe.first, probe.last] {
                    let found = expected.first { $0.0.contains(iova) }?.1
                    #expect(table.mappings.mapping(at: iova)?.offset == found, comment)
                    #expect(table.find(iova) == [found, found], comment)
                }
            }
            if step % 1000 == 0 { check(table, reference, comment) }
        }
        check(table, reference, "\(layout), seed \(seed), at the end")
    }

    @Test(arguments: [5, 6] as [UInt64])
    func `finds the lowest hole that a scan of all holes finds`(seed: UInt64) throws {
        var random = SeededNumbers(seed: seed)
        let table = try Table()
        var taken: [IOVARange] = []
        var next: UInt64 = 0
        for index in 0..<2000 as Range<UInt64> {
            next += UInt64.random(in: 0..<40, using: &random)
            let entry = range(next, next + UInt64.random(in: 0..<40, using: &random))
            table.insert(index, at: entry)
            taken.append(entry)
            next = entry.last.rawValue + 1
        }
        for probe in 0..<300 {
            // Changes between the searches, so that remembered holes go stale.
            let victim = taken.remove(at: Int.random(in: 0..<taken.count, using: &random))
            #expect(table.remove(beginningAt: victim.first) != nil)
            let first = UInt64.random(in: 0..<next, using: &random)
            let window = range(first, first + UInt64.random(in: 0..<next, using: &random))
            let size = UInt64.random(in: 1..<60, using: &random)
            var expected: IOVA?
            var cursor: IOVA? = window.first
            for entry in taken where entry.overlaps(window) {
                if let hole = cursor, hole < entry.first, entry.first.rawValue - hole.rawValue >= size {
                    expected = hole
                    break
                }
                cursor = entry.last.successor
            }
            if expected == nil, let hole = cursor, hole <= window.last,
                window.last.rawValue - hole.rawValue >= size - 1
            {
                expected = hole
            }
            let found = table.mappings.firstFit(in: window, byteCount: size) { $0.first }
            #expect(found == expected, "seed \(seed), probe \(probe), \(size) bytes in \(window)")
        }
    }

    @Test func `holds ranges at both ends of the space`() throws {
        let table = try Table()
        table.insert(2, at: range(.max, .max))
        table.insert(1, at: range(0, 0))
        #expect(table.numbers() == [1, 2])
        #expect(table.find(IOVA(.max)) == [2, 2])
        #expect(table.mappings.firstFit(in: .everything, byteCount: .max - 1) { $0.first } == IOVA(1))
        #expect(table.mappings.firstFit(in: .everything, byteCount: .max) { $0.first } == nil)
        #expect(table.remove(beginningAt: IOVA(0)) == 1)
        #expect(table.remove(beginningAt: IOVA(.max)) == 2)
        #expect(table.mappings.count == 0)
        #expect(table.mappings.firstFit(in: .everything, byteCount: .max) { $0.first } == IOVA(0))
    }

    @Test func `keeps a hundred thousand mappings in order whatever the order of insertion`() throws {
        var random = SeededNumbers(seed: 8)
        let table = try Table()
        let numbers = (0..<100_000 as Range<UInt64>).shuffled(using: &random)
        for number in numbers { table.insert(number, at: pages(number)) }
        let areInOrder = table.numbers() == Array(0..<100_000)
        #expect(areInOrder)
        #expect(numbers.allSatisfy { table.find(pages($0).last) == [$0, $0] })
        #expect(numbers.dropLast().allSatisfy { table.remove(beginningAt: IOVA($0 * page)) == $0 })
        #expect(table.mappings.count == 1)
    }

    @Test func `the directory covers the whole space, its top page included`() throws {
        let table = try Table()
        let topPage = range(.max - page + 1, .max)
        for number in 0..<100 as Range<UInt64> { table.insert(number, at: pages(number * 2)) }
        table.insert(500, at: topPage)
        table.insert(600, at: range(1 << 40, (1 << 50) - 1))
        #expect(PageDirectory.find(.max, from: table.translation)?.offset == 500)
        #expect(PageDirectory.find((1 << 45) + 5, from: table.translation)?.offset == 600)
        #expect(table.find(pages(1).first) == [nil, nil])
        #expect(table.remove(beginningAt: topPage.first) == 500)
        #expect(PageDirectory.find(.max, from: table.translation) == nil)
    }

    @Test func `mappings that the directory has no room for come and go`() throws {
        let table = try Table()
        // Two tables for each, and all that a space with few mappings may have.
        for number in 0..<520 as Range<UInt64> {
            table.insert(number, at: range(number << 30, (number << 30) + page - 1))
        }
        let far: UInt64 = 1 << 50
        table.insert(1000, at: range(far, far + page - 1))
        #expect(table.find(IOVA(far)) == [1000, 1000])
        #expect(table.remove(beginningAt: IOVA(far)) == 1000)
        #expect(table.find(IOVA(far)) == [nil, nil])
        #expect((0..<520 as Range<UInt64>).allSatisfy { table.remove(beginningAt: IOVA($0 << 30)) == $0 })
        #expect(table.mappings.count == 0)
    }

    @Test(arguments: Descent.allCases)
    func `nodes are not left almost empty`(descent: Descent) throws {
        let table = try Table()
        let count: UInt64 = 20_000
        switch descent {
        case .downwards:
            // A full leaf at the bottom, and a guest that gives out addresses from the top.
            for number in 0..<64 as Range<UInt64> { table.insert(number, at: pages(number)) }
            for number in (64..<count).reversed() { table.insert(number, at: pages(number)) }
        case .thinned:
            for number in 0..<count { table.insert(number, at: pages(number)) }
            for number in 0..<count where number % 64 != 0 {
                #expect(table.remove(beginningAt: pages(number).first) == number)
            }
        }
        let root = try #require(TreeNode(bits: table.translation.treeRoot))
        #expect(leafCount(below: root) * 16 <= table.mappings.count)
    }

    /// Orders of insertion and removal that meet the same nodes again and again.
    enum Descent: CaseIterable {
        case downwards, thinned
    }

    private func leafCount(below node: TreeNode) -> Int {
        if node.isLeaf { return 1 }
        return (0..<node.count).reduce(0) { $0 + leafCount(below: node.child($1)) }
    }
}
