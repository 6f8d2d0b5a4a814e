import DMA
import Randomness

/// Maps 64 pages in a random hole among the live mappings and unmaps them, by one call or by 64.
func pairs(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "Map and unmap",
        """
        ns for a pair: 64 pages are mapped one by one in a hole between live mappings, then unmapped by one call that covers
        the 64 or by 64 calls. Every batch is in another hole, in random order. The reader, where there is one, loads from
        random live mappings in a tight loop on a thread of its own.
        Aim: 1000 ns, a million a second, with one call for 64.
        """)
    for (name, work) in [("One call unmaps 64", unmapTogether), ("64 calls unmap one each", unmapOneByOne)] {
        for readers in [0, 1] {
            report.write("\n\(name), \(readers == 0 ? "no" : "one busy") reader:\n")
            let rows = try settings.sizes([1, 100, 10_000, 100_000, 1_000_000]).map { size in
                (label(size), try measure(size, readers: readers, settings, work))
            }
            report.table(
                "pairs, \(name), \(readers) readers", unit: "ns", heading: "live mappings",
                contenders: ContenderKind.forThreads, rows: rows)
        }
    }
}

private func unmapTogether(_ contender: any Contender, _ batch: [IOVARange]) {
    let whole = [IOVARange(first: batch[0].first, last: batch[batch.count - 1].last)]
    contender.mapEach(batch.span)
    contender.unmapEach(whole.span)
}

private func unmapOneByOne(_ contender: any Contender, _ batch: [IOVARange]) {
    contender.mapEach(batch.span)
    contender.unmapEach(batch.span)
}

private func measure(
    _ size: Int, readers: Int, _ settings: Settings, _ work: (any Contender, [IOVARange]) -> Void
) throws -> [Figures] {
    let memory = try SharedMemory.make()
    let population = Population(mappingCount: size)
    var generator = SeededNumbers(seed: UInt64(size))
    let holes = population.holes(count: 512, using: &generator)
    let keys = population.randomKeys(atLeast: Lookups.window, using: &generator)
    let subjects = ContenderKind.forThreads.map { $0.make(memory) }
    for subject in subjects { population.populate(subject) }
    return try interleaved(subjects, rounds: settings.rounds) { subject, round in
        let crew = try Crew("reader", count: readers) { _, turn in subject.loadSome(of: keys, turn) }
        crew.begin()
        defer { _ = crew.end() }
        return nanosecondsPerOperation(for: settings.sampleTime, count: Population.run) { turn in
            work(subject, holes[(turn + round * 7) % holes.count])
        }
    }
}

extension Contender {
    /// A short piece of a tight loop over the keys. Returns how many were loaded.
    func loadSome(of keys: [IOVA], _ turn: Int) -> Int {
        let count = 64
        let start = turn % (keys.count / count) * count
        precondition(loadEach(keys.span.extracting(start..<start + count)) != 0, "no value in the memory is zero")
        return count
    }
}
