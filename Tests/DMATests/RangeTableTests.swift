import Testing

@testable import DMA

/// The table against the simplest thing that has the same answers: a sorted array of ranges.
@Suite struct `The range table` {
    private func check(_ table: RangeTable<Int>, _ reference: [(IOVARange, Int)], _ comment: Comment) {
        let entries = Array(table.entries(overlapping: .everything))
        #expect(entries.map(\.range) == reference.map(\.0), comment)
        #expect(entries.map(\.value) == reference.map(\.1), comment)
        #expect(table.count == reference.count, comment)
    }

    @Test(arguments: [1, 2] as [UInt64])
    func `answers like a sorted array through random insertions and removals`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var table = RangeTable<Int>()
        var reference: [(IOVARange, Int)] = []
        let span: UInt64 = 1 << 14
        for step in 0..<10_000 {
            let comment: Comment = "seed \(seed), step \(step)"
            let first = UInt64.random(in: 0..<span, using: &random)
            let probe = range(first, min(span - 1, first + UInt64.random(in: 0..<8, using: &random)))
            let hits = reference.filter { $0.0.overlaps(probe) }
            // Grow for a while, then shrink, so that chunks split and merge.
            let wantsInsertion = Int.random(in: 0..<10, using: &random) < ((step / 2500) % 2 == 0 ? 8 : 2)
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
                #expect(table.first(overlapping: probe)?.value == expected.first?.1, comment)
                #expect(table.entries(overlapping: probe).map(\.value) == expected.map(\.1), comment)
                #expect(
                    table.entry(at: probe.first)?.value == expected.first { $0.0.contains(probe.first) }?.1, comment)
            }
            if step % 1000 == 0 { check(table, reference, comment) }
        }
        check(table, reference, "seed \(seed), at the end")
    }

    @Test(arguments: [5, 6] as [UInt64])
    func `finds the lowest hole that a scan of all holes finds`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var table = RangeTable<Int>()
        var taken: [IOVARange] = []
        var next: UInt64 = 0
        for index in 0..<2000 {
            next += UInt64.random(in: 0..<40, using: &random)
            let entry = range(next, next + UInt64.random(in: 0..<40, using: &random))
            table.insert(index, at: entry)
            taken.append(entry)
            next = entry.last.rawValue + 1
        }
        for probe in 0..<300 {
            // Changes between the searches, so that remembered holes go stale.
            let victim = taken.remove(at: Int.random(in: 0..<taken.count, using: &random))
            table.remove(beginningAt: victim.first)
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
            let found = table.firstFit(in: window, byteCount: size) { $0.first }
            #expect(found == expected, "seed \(seed), probe \(probe), \(size) bytes in \(window)")
        }
    }

    @Test func `holds ranges at both ends of the space`() {
        var table = RangeTable<String>()
        table.insert("top", at: range(.max, .max))
        table.insert("bottom", at: range(0, 0))
        #expect(table.entries(overlapping: .everything).map(\.value) == ["bottom", "top"])
        #expect(table.entry(at: IOVA(.max))?.value == "top")
        #expect(table.firstFit(in: .everything, byteCount: .max - 1) { $0.first } == IOVA(1))
        #expect(table.firstFit(in: .everything, byteCount: .max) { $0.first } == nil)
        table.remove(beginningAt: IOVA(0))
        table.remove(beginningAt: IOVA(.max))
        #expect(table.isEmpty)
        #expect(table.firstFit(in: .everything, byteCount: .max) { $0.first } == IOVA(0))
    }

    @Test func `keeps a hundred thousand entries in order whatever the order of insertion`() {
        var random = SeededGenerator(seed: 8)
        var table = RangeTable<UInt64>()
        let numbers = (0..<100_000 as Range<UInt64>).shuffled(using: &random)
        for number in numbers { table.insert(number, at: pages(number)) }
        #expect(table.entries(overlapping: .everything).map(\.value) == Array(0..<100_000))
        let removed = numbers.dropLast().map { table.remove(beginningAt: IOVA($0 * page)) }
        #expect(removed == numbers.dropLast().map { $0 })
        #expect(table.count == 1)
    }
}
