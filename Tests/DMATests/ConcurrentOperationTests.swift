import DMA
import Glibc
import LinuxHost
import Randomness
import Testing

/// What the pages of a concurrent run hold: a tag that says where a page is mapped, and for each device a slot that only
/// it writes to, with what says where it wrote. A page that is not mapped holds poison and nothing else.
///
/// Nobody but its mapper touches a page that is not mapped; so a device that gets at a page without a right to it sees
/// poison, or the tag of another address, or leaves something in the poison.
private struct Stamps {
    static let poison: UInt8 = 0xa5
    private static let slotSize: UInt64 = 64

    static func tag(space: Int, page number: UInt64) -> UInt64 { UInt64(space + 1) << 60 | number }

    static func slot(_ device: Int) -> UInt64 { slotSize * UInt64(device + 1) }

    static func note(_ device: Int, tag: UInt64) -> UInt64 { tag ^ (UInt64(device + 1) << 56) }

    static func load(_ object: MemoryObject, _ offset: UInt64) -> UInt64 {
        unsafe object.bytes.loadUnaligned(fromByteOffset: Int(offset), as: UInt64.self)
    }

    static func store(_ value: UInt64, _ object: MemoryObject, _ offset: UInt64) {
        unsafe object.bytes.storeBytes(of: value, toByteOffset: Int(offset), as: UInt64.self)
    }

    /// Prepares a page of a file for being mapped; whether it was as it was left.
    static func open(_ object: MemoryObject, _ offset: UInt64, tag: UInt64) -> Bool {
        let whole = range(offset, offset + page - 1)
        let wasClean = object.isFilled(whole, with: poison)
        object.fill(whole, with: 0)
        store(tag, object, offset)
        return wasClean
    }

    /// Takes a page back after its unmap; what is wrong with it.
    static func close(_ object: MemoryObject, _ offset: UInt64, tag: UInt64, devices: Int) -> String? {
        defer { object.fill(range(offset, offset + page - 1), with: poison) }
        if load(object, offset) != tag { return "the tag was overwritten" }
        for device in 0..<devices {
            let note = load(object, offset + slot(device))
            if note != 0 && note != Self.note(device, tag: tag) { return "device \(device) wrote elsewhere" }
        }
        return nil
    }
}

/// A part of a space that one thread maps and unmaps, so that it knows what every answer must be.
///
/// A page of it is shown by one of two pages of the file in turn: whoever still uses the last translation sees poison.
private struct Territory {
    static let pageCount: UInt64 = 512

    struct Holding {
        let first, count, bank: UInt64

        var last: UInt64 { first + count - 1 }
    }

    let space: Int
    /// The number of its first page in the space, and in the file, where it has twice as many.
    let firstPage: UInt64
    let filePage: UInt64
    var holdings: [Holding] = []
    private var bank: [UInt64]

    init(space: Int, firstPage: UInt64, filePage: UInt64) {
        self.space = space
        self.firstPage = firstPage
        self.filePage = filePage
        bank = [UInt64](repeating: 0, count: Int(Self.pageCount))
    }

    func range(_ holding: Holding) -> IOVARange { pages(firstPage + holding.first, holding.count) }

    func tag(_ number: UInt64) -> UInt64 { Stamps.tag(space: space, page: firstPage + number) }

    func offset(_ holding: Holding, _ number: UInt64) -> UInt64 {
        (filePage + holding.bank * Self.pageCount + number) * page
    }

    func isFree(_ first: UInt64, _ count: UInt64) -> Bool {
        !holdings.contains { $0.first < first + count && first <= $0.last }
    }

    mutating func take(_ first: UInt64, _ count: UInt64) -> Holding {
        let bank = 1 - bank[Int(first)]
        for number in first..<first + count { self.bank[Int(number)] = bank }
        return Holding(first: first, count: count, bank: bank)
    }
}

@Suite struct `Concurrent operations` {
    private static let deviceCount = 5

    /// What all threads of a run share.
    private final class World: Sendable {
        let object: MemoryObject
        let spaces: [IOAddressSpace]
        let territories: [Territory]
        let faults = Shared<[String]>([])
        let successes = Shared([Int](repeating: 0, count: deviceCount))
        let isOver = Shared(false)

        init() throws {
            var configuration = IOAddressSpace.Configuration()
            configuration.unmapWait = .seconds(600)
            spaces = [IOAddressSpace(configuration), IOAddressSpace(configuration)]
            let last = UInt64.max / page + 1
            let places: [UInt64] = [0, (1 << 27) - 256, (1 << 36) - 256, last - Territory.pageCount]
            territories = places.indices.map { index in
                Territory(
                    space: index % 2, firstPage: places[index], filePage: UInt64(index) * 2 * Territory.pageCount)
            }
            let byteCount = UInt64(places.count) * 2 * Territory.pageCount * page
            object = try .anonymous(byteCount: Int(byteCount))
            object.fill(range(0, byteCount - 1), with: Stamps.poison)
        }

        func fault(_ text: @autoclosure () -> String) { faults.update { $0.append(text()) } }

        /// Whether each device got at memory often enough for the run to mean something.
        var isBusy: Bool { successes.value.allSatisfy { $0 >= 500 } }
    }

    /// Maps and unmaps in its territory, and looks at every page that comes back.
    private static func map(in world: World, _ start: Territory, operations: Int, seed: UInt64) {
        var territory = start
        var random = SeededNumbers(seed: seed)
        let space = world.spaces[territory.space]
        var target = 0
        var operation = 0
        while operation < operations || !(world.isBusy || !world.faults.value.isEmpty) {
            if operation % 700 == 0 { target = [3, 40, 62, 68, 150, 400].randomElement(using: &random) ?? 0 }
            operation += 1
            let first = UInt64.random(in: 0..<Territory.pageCount, using: &random)
            let size: UInt64 = Int.random(in: 0..<8, using: &random) == 0 ? .random(in: 1...24, using: &random) : 1
            let count = min(size, Territory.pageCount - first)
            let fault: String?
            if territory.holdings.count < target || Int.random(in: 0..<10, using: &random) == 0 {
                fault = mapOne(world.object, space, &territory, first, count)
            } else if Int.random(in: 0..<4, using: &random) == 0 {
                fault = unmapBatch(world.object, space, &territory, random: &random)
            } else {
                fault = unmapSome(world.object, space, &territory, first, random: &random)
            }
            if let fault { world.fault("seed \(seed), operation \(operation), space \(territory.space): \(fault)") }
            if operation % 200 == 0 { check(world, territory, "seed \(seed), operation \(operation)") }
        }
        check(world, territory, "seed \(seed), at the end")
    }

    private static func mapOne(
        _ object: MemoryObject, _ space: IOAddressSpace, _ territory: inout Territory, _ first: UInt64, _ count: UInt64
    ) -> String? {
        let isFree = territory.isFree(first, count)
        let holding = isFree ? territory.take(first, count) : Territory.Holding(first: first, count: count, bank: 0)
        if isFree {
            for number in first..<first + count {
                let offset = territory.offset(holding, number)
                guard Stamps.open(object, offset, tag: territory.tag(number)) else {
                    return "page \(number) was written to after its unmap"
                }
            }
            territory.holdings.append(holding)
        }
        let error = errorOf { () throws(DMAError) in
            try space.map(
                .file(object, offset: territory.offset(holding, first)), at: territory.range(holding).first,
                byteCount: count * page, rights: [.read, .write])
        }
        return error == (isFree ? nil : .exists) ? nil : "map \(territory.range(holding)): \(String(describing: error))"
    }

    private static func unmapSome(
        _ object: MemoryObject, _ space: IOAddressSpace, _ territory: inout Territory, _ first: UInt64,
        random: inout SeededNumbers
    ) -> String? {
        let length: UInt64 = Int.random(in: 0..<3, using: &random) == 0 ? .random(in: 1...60, using: &random) : 1
        var (from, to) = (first, min(first + length, Territory.pageCount) - 1)
        if Int.random(in: 0..<3, using: &random) != 0, let victim = territory.holdings.randomElement(using: &random) {
            (from, to) = (victim.first, victim.last)
        }
        let request = pages(territory.firstPage + from, to - from + 1)
        let touched = territory.holdings.filter { $0.first <= to && from <= $0.last }.sorted { $0.first < $1.first }
        let whole = touched.prefix { from <= $0.first && $0.last <= to }
        let expected: DMAError? = touched.isEmpty || whole.count < touched.count ? .notFound : nil
        let error = errorOf { () throws(DMAError) in
            let byteCount = try space.unmap(request)
            if byteCount != whole.reduce(0, { $0 + $1.count * page }) { throw .overflow }
        }
        territory.holdings.removeAll { from <= $0.first && $0.last <= to && $0.first <= (whole.last?.first ?? 0) }
        if error != expected { return "unmap \(request): \(String(describing: error))" }
        return close(Array(whole), object, territory)
    }

    /// Unmaps some holdings, and now and then a page between them, as one operation.
    private static func unmapBatch(
        _ object: MemoryObject, _ space: IOAddressSpace, _ territory: inout Territory,
        random: inout SeededNumbers
    ) -> String? {
        var victims: [Territory.Holding] = []
        territory.holdings.shuffle(using: &random)
        for _ in 0..<Int.random(in: 1...24, using: &random) {
            if let victim = territory.holdings.popLast() { victims.append(victim) }
        }
        var ranges = victims.map(territory.range)
        let extra = UInt64.random(in: 0..<Territory.pageCount, using: &random)
        if territory.isFree(extra, 1) { ranges.append(pages(territory.firstPage + extra)) }
        let error = errorOf { () throws(DMAError) in
            let byteCount = try space.unmapAll(in: ranges)
            if byteCount != victims.reduce(0, { $0 + $1.count * page }) { throw .overflow }
        }
        if let error { return "unmap \(ranges): \(error)" }
        return close(victims, object, territory)
    }

    /// Takes back the pages of what was unmapped.
    private static func close(
        _ holdings: [Territory.Holding], _ object: MemoryObject, _ territory: Territory
    ) -> String? {
        for holding in holdings {
            for number in holding.first...holding.last {
                let offset = territory.offset(holding, number)
                let fault = Stamps.close(object, offset, tag: territory.tag(number), devices: deviceCount)
                if let fault { return "page \(number) of \(territory.range(holding)): \(fault)" }
            }
        }
        return nil
    }

    /// Compares what the space says of a territory with what its owner knows.
    private static func check(_ world: World, _ territory: Territory, _ when: String) {
        let whole = pages(territory.firstPage, Territory.pageCount)
        let all = world.spaces[territory.space].mappings()
        if zip(all, all.dropFirst()).contains(where: { $0.range.last >= $1.range.first }) {
            world.fault("\(when): mappings overlap")
        }
        let real = all.filter { whole.overlaps($0.range) }
        let expected = territory.holdings.map(territory.range).sorted { $0.first < $1.first }
        guard real.map(\.range) != expected else { return }
        let model = expected.map { MappingSnapshot($0, [.read, .write]) }
        let drawing = Drawing(real.map { MappingSnapshot($0.range, $0.rights) }, model).lines
        world.fault("\(when), space \(territory.space), real | expected:\n" + drawing.joined(separator: "\n"))
    }

    /// Reads, writes and pins anywhere, and looks whether it got at what the address means.
    private static func work(in world: World, _ holder: PinHolder, device: Int, spaces: [Int], seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        while !world.isOver.value {
            let territory = world.territories[Int.random(in: 0..<world.territories.count, using: &random)]
            let number = territory.firstPage + UInt64.random(in: 0..<Territory.pageCount - 1, using: &random)
            let tags = spaces.map { Stamps.tag(space: $0, page: number) }
            let first = number * page
            var fault: String?
            let error = errorOf { () throws(DMAError) in
                switch Int.random(in: 0..<5, using: &random) {
                case 0:
                    let value = word(try holder.access.read(range(first, first + 7)))
                    if !tags.contains(value) { fault = "read \(value)" }
                case 1:
                    // From the end of a page into the next, whose tag comes last.
                    let next = Stamps.tag(space: 0, page: number + 1) & ~(15 << 60)
                    let value = word(try holder.access.read(range(first + page - 8, first + page + 7)).suffix(8))
                    if value & ~(15 << 60) != next { fault = "read \(value) behind" }
                case 2:
                    // Only where there is no doubt in which space it will be.
                    guard spaces.count == 1 else { return }
                    var note = Stamps.note(device, tag: tags[0])
                    let bytes = unsafe withUnsafeBytes(of: &note) { unsafe Array($0) }
                    try holder.access.write(bytes, to: iova(first + Stamps.slot(device)))
                default:
                    fault = try pin(
                        holder, number, device: device, tags: tags, count: .random(in: 1...3, using: &random))
                }
                world.successes.update { $0[device] += 1 }
            }
            if let fault { world.fault("device \(device), seed \(seed), page \(number): \(fault)") }
            if let error, error != .notFound, error != .invalid {
                world.fault("device \(device), seed \(seed), page \(number): \(error)")
            }
            if let fault = use(holder, device: device, spaces: spaces) {
                world.fault("device \(device), seed \(seed), a kept pin: \(fault)")
            }
            if Int.random(in: 0..<3, using: &random) == 0 { holder.unpinAny() }
        }
    }

    private static func word(_ bytes: some Sequence<UInt8>) -> UInt64 {
        bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Pins some pages, checks and marks each, and keeps the pin.
    private static func pin(
        _ holder: PinHolder, _ number: UInt64, device: Int, tags: [UInt64], count: UInt64
    ) throws(DMAError) -> String? {
        var fault: String?
        guard let range = try? IOVARange(first: iova(number * page), byteCount: count * page) else { return nil }
        unsafe try holder.pin(range) { segment, done in
            unsafe mark(segment, done, device: device, tags: tags, &fault)
        }
        return fault
    }

    /// Does the same with the memory of a pin that was kept: the mappings are still there.
    private static func use(_ holder: PinHolder, device: Int, spaces: [Int]) -> String? {
        var fault: String?
        unsafe holder.useOldestPin { range, segment, done in
            let tags = spaces.map { Stamps.tag(space: $0, page: range.first.rawValue / page) }
            unsafe mark(segment, done, device: device, tags: tags, &fault)
        }
        return fault
    }

    private static func mark(
        _ segment: UnsafeMutableRawBufferPointer, _ done: Int, device: Int, tags: [UInt64], _ fault: inout String?
    ) {
        for place in stride(from: 0, to: segment.count, by: Int(page)) {
            let index = UInt64(done + place) / page
            let value = unsafe segment.loadUnaligned(fromByteOffset: place, as: UInt64.self)
            guard tags.contains(where: { $0 + index == value }) else {
                fault = "a pin shows \(value) in page \(index)"
                return
            }
            let slot = place + Int(Stamps.slot(device))
            unsafe segment.storeBytes(of: Stamps.note(device, tag: value), toByteOffset: slot, as: UInt64.self)
        }
    }

    @Test func `R75, R89 devices see what an address means or nothing, while mappings come and go`() throws {
        let operations = max(2000, RandomPlan.operationCount / 20)
        let seed = RandomPlan.firstSeed
        print("concurrent operations: \(operations) by each of 4 threads, seed \(seed)")
        let world = try World()
        let holders = (0..<Self.deviceCount).map { _ in PinHolder() }
        // Two devices stay in each space, and the last moves.
        for (index, holder) in holders.enumerated() { try holder.access.attach(to: world.spaces[index % 2]) }
        var devices: [OSThread] = []
        for (index, holder) in holders.enumerated() {
            devices.append(
                try OSThread(name: "device \(index)") {
                    let spaces = index == Self.deviceCount - 1 ? [0, 1] : [index % 2]
                    Self.work(in: world, holder, device: index, spaces: spaces, seed: seed + UInt64(index))
                })
        }
        devices.append(
            try OSThread(name: "mover") {
                var round = 0
                while !world.isOver.value {
                    round += 1
                    let access = holders[Self.deviceCount - 1].access
                    let error = errorOf { () throws(DMAError) in try access.replace(with: world.spaces[round % 2]) }
                    if let error { world.fault("move \(round): \(error)") }
                    let visitor = DMAAccess(needsPin: true) { _ in }
                    try? visitor.attach(to: world.spaces[round % 2])
                    visitor.destroy()
                    usleep(100)
                }
            })
        let mappers = try world.territories.enumerated().map { index, territory in
            try OSThread(name: "mapper \(index)") {
                Self.map(in: world, territory, operations: operations, seed: seed + 100 + UInt64(index))
            }
        }
        for mapper in mappers { mapper.join() }
        world.isOver.update { $0 = true }
        for device in devices { device.join() }
        for holder in holders { holder.access.destroy() }
        print("concurrent operations: the devices got at memory \(world.successes.value) times")
        #expect(world.faults.value.prefix(4) == [], "seed \(seed)")
        #expect(world.spaces.flatMap { $0.mappings() }.allSatisfy { $0.pinCount == 0 && !$0.isBlocked })
        for space in world.spaces { try space.unmap(.everything) }
    }
}
