import DMA
import Randomness
import Synchronization

/// Pin and unpin of a page at random places of one mapping, by one thread and by several.
func pins(_ settings: Settings, _ report: Report) throws {
    let byteCount: UInt64 = 1 << 30
    let whole = IOVARange(first: IOVA(0), last: IOVA(byteCount - 1))
    let memory = try MemoryObject.anonymous(byteCount: Int(byteCount))
    let contenders = ContenderKind.forThreads
    let subjects = try contenders.map { kind in
        let contender = kind.make(memory)
        try contender.map(whole, offset: 0, rights: [.read, .write])
        return contender
    }
    var generator = SeededNumbers(seed: 1)
    let pageSize = SharedMemory.pageSize
    let ranges = (0..<1024).map { _ in
        let first = UInt64.random(in: 0..<byteCount / pageSize, using: &generator) * pageSize
        return IOVARange(first: IOVA(first), last: IOVA(first + pageSize - 1))
    }
    let rows = try [1, 2, 8].map { threads in
        let figures = try interleaved(subjects, rounds: settings.rounds) { subject, _ in
            let crew = try Crew("pin", count: threads) { _, _ in
                subject.pinEach(ranges.span)
                return ranges.count
            }
            let pairsPerNanosecond = crew.rate(during: settings.threadedSampleTime)
            return Double(min(threads, Settings.processorCount)) / pairsPerNanosecond
        }
        return ("\(threads)", figures)
    }
    report.begin(
        "Pin and unpin",
        """
        ns for a pair on one mapping of 1 GiB, at random pages. With several threads: how long a pair takes a thread that
        runs, that is elapsed time × threads that run at once / pairs of all. At most \(Settings.processorCount) run at once here.
        Aims: 25 ns with one thread, 60 ns with eight.
        """)
    report.write("")
    report.table("pin", unit: "ns", heading: "threads", contenders: contenders, rows: rows)
}
