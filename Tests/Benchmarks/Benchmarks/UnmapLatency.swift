import DMA
import LinuxHost
import Randomness

/// How long an unmap takes while devices read other mappings all the time.
func unmapLatency(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "Unmap beside eight busy readers",
        """
        ns for an unmap of one page beside 64 others that are read. Of the nine threads \(Settings.processorCount) run at once here.
        Paced readers read 64 bytes about every 2 µs and compute in between; tight readers do nothing but read. The writer
        sleeps for 20 µs before each pair. In each round the median, the 99th percentile and the highest of all unmaps are
        taken; shown is the median of the rounds. When a reader loses the processor in the middle of a read, an unmap may
        have to wait until it has it again. Aim: 50 µs for the 99th percentile.
        """)
    for pace in ReaderPace.allCases {
        report.write("\n\(pace.rawValue) readers:\n")
        let distributions = try measure(pace, settings)
        let rows = Distribution.parts.map { part, name in
            (name, distributions.map { rounds in Figures(rounds.map { $0[keyPath: part] }) })
        }
        report.table(
            "unmap-latency, \(pace.rawValue)", unit: "ns", heading: "unmap", contenders: ContenderKind.forThreads,
            rows: rows)
    }
}

private enum ReaderPace: String, CaseIterable {
    case paced = "Paced"
    case tight = "Tight"
}

/// What one round says of its unmaps, in nanoseconds.
private struct Distribution {
    let median, late, highest: Double

    static var parts: [(KeyPath<Distribution, Double>, String)] {
        [(\.median, "median"), (\.late, "99 % at most"), (\.highest, "highest")]
    }

    init(_ samples: [Double]) {
        let figures = Figures(samples)
        median = figures.median
        late = figures.percentile(0.99)
        highest = figures.highest
    }
}

private func measure(_ pace: ReaderPace, _ settings: Settings) throws -> [[Distribution]] {
    let memory = try SharedMemory.make()
    let population = Population(mappingCount: 64)
    var generator = SeededNumbers(seed: 8)
    let keys = population.randomKeys(atLeast: Lookups.window, using: &generator)
    let pages = population.hole(0)
    let subjects = ContenderKind.forThreads.map { $0.make(memory) }
    for subject in subjects { population.populate(subject) }
    var distributions: [[Distribution]] = Array(repeating: [], count: subjects.count)
    _ = try interleaved(Array(subjects.enumerated()), rounds: settings.rounds) { subject, _ in
        let otherWork = settings.otherWork
        let crew = try Crew("reader", count: 8) { [contender = subject.element] number, turn in
            contender.readOnce(keys[(turn + number * 1000) % keys.count], pace, otherWork)
        }
        crew.begin()
        let samples = unmapSamples(subject.element, pages, settings)
        _ = crew.end()
        distributions[subject.offset].append(Distribution(samples))
        return 0
    }
    // The first is of the round to warm up.
    return distributions.map { Array($0.dropFirst()) }
}

extension Contender {
    fileprivate func readOnce(_ key: IOVA, _ pace: ReaderPace, _ otherWork: OtherWork) -> Int {
        do throws(DMAError) {
            let line = try readLine(key)
            switch pace {
            case .tight: precondition(line[0] != 0, "no value in the memory is zero")
            case .paced: precondition(otherWork.spend(microseconds: 2, line[0]) != 0, "odd numbers stay odd")
            }
        } catch {
            fail("read", error)
        }
        return 1
    }
}

/// The time of each unmap. Where one takes very long there are fewer.
private func unmapSamples(_ contender: any Contender, _ pages: [IOVARange], _ settings: Settings) -> [Double] {
    let wanted = settings.isQuick ? 200 : 2000
    let end = MonotonicInstant.after(settings.isQuick ? .seconds(1) : .seconds(5))
    var samples: [Double] = []
    samples.reserveCapacity(wanted)
    while samples.count < wanted, samples.count < 20 || .now < end {
        let page = pages.span.extracting(samples.count % pages.count..<samples.count % pages.count + 1)
        pause(.microseconds(20))
        contender.mapEach(page)
        let start = MonotonicInstant.now
        contender.unmapEach(page)
        samples.append(Double(MonotonicInstant.now.nanoseconds - start.nanoseconds))
    }
    return samples
}
