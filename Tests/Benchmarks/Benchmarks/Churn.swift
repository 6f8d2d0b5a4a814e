import DMA
import LinuxHost
import Randomness

/// How much of its speed a reader keeps while a writer maps and unmaps a hundred thousand times a second.
func churn(_ settings: Settings, _ report: Report) throws {
    let size = 100_000
    let contenders = ContenderKind.forThreads
    let memory = try SharedMemory.make()
    let population = Population(mappingCount: size)
    var generator = SeededNumbers(seed: 5)
    let keys = population.randomKeys(atLeast: Lookups.window, using: &generator)
    let holes = population.holes(count: 512, using: &generator).map { $0[0] }
    let subjects = contenders.map { $0.make(memory) }
    for subject in subjects { population.populate(subject) }

    var results: [[Churn]] = Array(repeating: [], count: subjects.count)
    _ = try interleaved(Array(subjects.enumerated()), rounds: settings.rounds) { subject, _ in
        results[subject.offset].append(try Churn(subject.element, keys, holes, settings.threadedSampleTime))
        return 0
    }

    report.begin(
        "Reading beside a churning writer",
        """
        One thread loads from \(label(size)) mappings in random order, in a tight loop. Another maps and unmaps a page every
        10 µs, and watches the clock in between; idle means that it only watches the clock. The share is the one of the
        same round. Aim: 90 %.
        """)
    var table = MarkdownTable(["", "idle, million/s", "churning, million/s", "share, %", "pairs a second"])
    for (kind, rounds) in zip(contenders, results) {
        let columns = ["idle", "churning", "share", "pairs"]
        // The first is of the round to warm up.
        let figures = [\Churn.idle, \.churning, \.share, \.pairs].map { part in
            Figures(rounds.dropFirst().map { $0[keyPath: part] })
        }
        for (column, figure) in zip(columns, figures) { report.record("churn", kind.name, column, column, figure) }
        table.add([kind.name] + figures.map(\.text))
    }
    report.write("\n" + table.text)
}

/// What one round found of one contender.
private struct Churn {
    /// Millions of loads a second.
    let idle, churning: Double
    /// Pairs of map and unmap a second that the writer managed.
    let pairs: Double

    var share: Double { churning / idle * 100 }

    init(_ contender: any Contender, _ keys: [IOVA], _ pages: [IOVARange], _ duration: Duration) throws {
        func rate(_ writer: (_ turn: Int) -> Void) throws -> (loads: Double, turns: Double) {
            let crew = try Crew("reader", count: 1) { _, turn in contender.loadSome(of: keys, turn) }
            var turns = 0
            let loads = crew.rate(during: duration) { turns = everyTenMicroseconds(for: duration, writer) }
            return (loads * 1000, Double(turns) * 1e9 / Double(duration / .nanoseconds(1)))
        }
        idle = try rate { _ in }.loads
        (churning, pairs) = try rate { turn in
            let page = pages.span.extracting(turn % pages.count..<turn % pages.count + 1)
            contender.mapEach(page)
            contender.unmapEach(page)
        }
    }
}

/// Calls `body` at these times, or as soon as it can; what is missed is made up for, up to ten milliseconds of it. Returns
/// how often `body` ran.
private func everyTenMicroseconds(for duration: Duration, _ body: (_ turn: Int) -> Void) -> Int {
    let end = MonotonicInstant.after(duration)
    var turn = 0
    var next = MonotonicInstant.now.nanoseconds
    while true {
        let now = MonotonicInstant.now
        if now >= end { return turn }
        if now.nanoseconds < next { continue }
        body(turn)
        turn += 1
        next = max(next + 10_000, now.nanoseconds - 10_000_000)
    }
}
