import DMA
import LinuxHost
import Randomness

/// How long 64 unmaps take that come together, as one operation and one after the other.
func unmapBatch(_ settings: Settings, _ report: Report) throws {
    let readerCount = 8
    report.begin(
        "64 unmaps together",
        """
        µs for the unmaps of 64 pages that lie anywhere between live mappings: as one operation, by 64 calls, and for
        comparison a computation that takes as long as the one operation does undisturbed. Readers, where there are some,
        read 4 KiB from other pages all the time; with the thread that unmaps they are \(readerCount + 1), of which
        \(Settings.processorCount) run at once here. That thread sleeps for 20 µs before. Shown is the median, and the share that
        took longer than \(label(Int(Timing.limit))) µs, of all samples of a round; what the computation has of it is the
        scheduler's. Aim: a batch within \(label(Int(Timing.limit))) µs beside \(readerCount) readers.
        """)
    var table = MarkdownTable(
        ["live mappings, readers"]
            + Way.allCases.flatMap { ["\($0.rawValue), µs", "above \(label(Int(Timing.limit))) µs, %"] })
    for size in [1000, 100_000] {
        let scene = try Scene(size)
        let computation = Figures((0..<200).map { scene.microseconds(.together, $0, settings.otherWork, 0) }).median
        for readers in [0, readerCount] {
            let row = "\(label(size)), \(readers)"
            var cells = [row]
            for (way, rounds) in try measure(scene, readers: readers, settings, computation) {
                for (unit, part) in [("µs", \Timing.median), ("%", \.shareAbove)] {
                    let figures = Figures(rounds.map { $0[keyPath: part] })
                    report.record("unmap-batch", row, way.rawValue, unit, figures)
                    cells.append(figures.text)
                }
            }
            table.add(cells)
        }
    }
    report.write("\n" + table.text)
}

private enum Way: String, CaseIterable {
    case together = "one operation"
    case oneByOne = "64 calls"
    case computing = "computing"
}

/// What one round says of its samples.
private struct Timing {
    static let limit = 100.0

    /// In microseconds.
    let median: Double
    let shareAbove: Double

    init(_ samples: [Double]) {
        median = Figures(samples).median
        shareAbove = Double(samples.count { $0 > Timing.limit }) / Double(samples.count) * 100
    }
}

/// An address space with live mappings, and the pages that come and go between them.
private struct Scene: Sendable {
    let contender: OutboardContender
    let keys: [IOVA]
    private let batches: [[IOVARange]]

    init(_ size: Int) throws {
        contender = OutboardContender(try SharedMemory.make(), patience: true)
        let population = Population(mappingCount: size)
        population.populate(contender)
        var generator = SeededNumbers(seed: 64)
        keys = (0..<size).shuffled(using: &generator).prefix(8192).map { population.range($0).first }
        // A page of 64 holes, or of as many as there are.
        let holes = population.holes(count: 64, using: &generator)
        batches = (0..<64).map { batch in
            holes.enumerated().map { hole, pages in pages[(batch + hole) % 64] }.shuffled(using: &generator)
        }
    }

    /// Maps a batch and tells how long it takes to unmap it in some way, or to compute for a while.
    func microseconds(_ way: Way, _ turn: Int, _ otherWork: OtherWork, _ computation: Double) -> Double {
        let batch = batches[turn % batches.count]
        contender.mapEach(batch.span)
        pause(.microseconds(20))
        let start = MonotonicInstant.now
        switch way {
        case .together: contender.unmapTogether(batch)
        case .oneByOne: contender.unmapEach(batch.span)
        case .computing: precondition(otherWork.spend(microseconds: computation, 1) != 0, "odd numbers stay odd")
        }
        let end = MonotonicInstant.now
        if way == .computing { contender.unmapTogether(batch) }
        return Double(end.nanoseconds - start.nanoseconds) / 1000
    }

    /// Copies a page out.
    func readPage(_ turn: Int) -> Int {
        unsafe withUnsafeTemporaryAllocation(byteCount: Int(SharedMemory.pageSize), alignment: 64) { buffer in
            do throws(DMAError) {
                unsafe try contender.read(keys[turn % keys.count], into: buffer)
            } catch {
                fail("read", error)
            }
            precondition(unsafe buffer.load(as: UInt64.self) != 0, "no value in the memory is zero")
        }
        return 1
    }
}

/// Each way with its rounds.
private func measure(
    _ scene: Scene, readers: Int, _ settings: Settings, _ computation: Double
) throws -> [(Way, [Timing])] {
    var timings: [Way: [Timing]] = [:]
    let wanted = settings.isQuick ? 200 : 2000
    _ = try interleaved(Way.allCases, rounds: settings.rounds) { way, _ in
        let crew = try Crew("reader", count: readers) { number, turn in scene.readPage(turn + number * 1000) }
        crew.begin()
        let end = MonotonicInstant.after(settings.isQuick ? .seconds(1) : .seconds(5))
        var samples: [Double] = []
        while samples.count < wanted, samples.count < 20 || .now < end {
            samples.append(scene.microseconds(way, samples.count, settings.otherWork, computation))
        }
        _ = crew.end()
        timings[way, default: []].append(Timing(samples))
        return 0
    }
    // The first is of the round to warm up.
    return Way.allCases.map { ($0, Array((timings[$0] ?? []).dropFirst())) }
}
