import DMA
import Randomness

/// Loads of eight bytes from mappings of a page each, and from the few huge mappings of a machine without an IOMMU.
func translate(_ settings: Settings, _ report: Report) throws {
    let memory = try SharedMemory.make()
    let contenders = ContenderKind.allCases
    var hot: [(String, [Figures])] = []
    var random: [(String, [Figures])] = []
    for size in settings.sizes([1, 4, 20, 64, 1000, 100_000, 1_000_000]) {
        var generator = SeededNumbers(seed: UInt64(size))
        let population = Population(mappingCount: size)
        let subjects = contenders.map { $0.make(memory) }
        for subject in subjects { population.populate(subject) }
        let hotKeys = population.hotKeys(count: Lookups.window)
        let randomKeys = population.randomKeys(atLeast: Lookups.window, using: &generator)
        hot.append((label(size), measure(subjects, hotKeys, settings)))
        random.append((label(size), measure(subjects, randomKeys, settings)))
    }
    let machine = try Machine()
    let subjects = try contenders.map { try machine.populate($0.make(machine.memory)) }
    hot.append((Machine.name, measure(subjects, machine.hotKeys, settings)))
    random.append((Machine.name, measure(subjects, machine.randomKeys, settings)))

    report.begin(
        "Translate",
        """
        ns for finding eight bytes and loading them, one thread. The look-ups do not depend on each other, as a device's do
        not. The bytes themselves are in the nearest cache. Hot: one address over and over; random: all mappings in a
        shuffled order that was computed before. "array" and "tree" have no protection against a writer.
        Aims: 10 ns at up to 20 mappings, hot; 45 ns at 100 000, random.
        """)
    report.write("\nHot:\n")
    report.table("translate-hot", unit: "ns", heading: "mappings", contenders: contenders, rows: hot)
    report.write("\nRandom:\n")
    report.table("translate-random", unit: "ns", heading: "mappings", contenders: contenders, rows: random)
}

enum Lookups {
    /// How many look-ups are done between two looks at the clock.
    static let window = 8192
    /// How many are done before each sample, untimed: the contenders in between have had the caches.
    static let warmUp = 1 << 17
}

/// Each sample begins with a pass over the keys that is not timed, or over a part of very many, and goes on behind it.
private func measure(_ subjects: [any Contender], _ keys: [IOVA], _ settings: Settings) -> [Figures] {
    let windows = keys.count / Lookups.window
    var checksum = Checksum()
    let figures = interleaved(Array(subjects.enumerated()), rounds: settings.rounds) { subject, round in
        let first = round * 7
        func load(_ turn: Int) {
            let start = (first + turn) % windows * Lookups.window
            checksum.add(subject.element.loadEach(keys.span.extracting(start..<start + Lookups.window)))
        }
        let warmUp = min(windows, Lookups.warmUp / Lookups.window)
        for turn in 0..<warmUp { load(turn) }
        return nanosecondsPerOperation(for: settings.sampleTime, count: Lookups.window) { load(warmUp + $0) }
    }
    precondition(checksum.value != 0, "every value in the memory is odd")
    return figures
}

/// The memory of a large virtual machine: below and above the holes for ROMs and devices, and a device's own memory.
private struct Machine {
    static let name = "4 huge"
    static let ranges = [
        IOVARange(first: IOVA(0), last: IOVA(0x9_ffff)),
        IOVARange(first: IOVA(0x10_0000), last: IOVA(0xbfff_ffff)),
        IOVARange(first: IOVA(0x1_0000_0000), last: IOVA(0xf_ffff_ffff)),
        IOVARange(first: IOVA(0x38_0000_0000), last: IOVA(0x38_00ff_ffff)),
    ]
    /// Offset and address are the same, so the file has holes wherever nothing is touched.
    let memory: MemoryObject
    let hotKeys, randomKeys: [IOVA]

    init() throws(DMAError) {
        memory = try MemoryObject.anonymous(byteCount: 0x38_0100_0000)
        var generator = SeededNumbers(seed: 4)
        // A few addresses in each: what is measured is finding them, not the processor's own page tables.
        let places = Machine.ranges.flatMap { range in
            let units = range.first.rawValue / 8...range.last.rawValue / 8
            return (0..<16).map { _ in IOVA(UInt64.random(in: units, using: &generator) * 8) }
        }
        for place in places {
            unsafe memory.bytes.storeBytes(of: 1, toByteOffset: Int(place.rawValue), as: UInt64.self)
        }
        randomKeys = (0..<Lookups.window / places.count).flatMap { _ in places.shuffled(using: &generator) }
        hotKeys = Array(repeating: places[40], count: Lookups.window)
    }

    func populate(_ contender: any Contender) throws(DMAError) -> any Contender {
        for range in Machine.ranges {
            try contender.map(range, offset: Int(range.first.rawValue), rights: [.read, .write])
        }
        return contender
    }
}
