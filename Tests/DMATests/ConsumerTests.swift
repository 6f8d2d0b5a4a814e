import DMA
import Glibc
import LinuxHost
import Testing

/// A second page table: it takes whole granules inside its aperture, once each, and refuses what it is told to.
final class PageTable: MappingConsumer {
    private struct State {
        var entries: [IOVARange: AccessRights] = [:]
        var backings: [IOVARange: MappingBacking] = [:]
        var log: [String] = []
        var refused: IOVARange?
        var violations = 0
    }

    let aperture: IOVARange
    let granule: UInt64
    private let state = Monitor(State())
    private let onCall: (@Sendable () -> Void)?

    init(aperture: IOVARange = .everything, granule: UInt64 = 1, onCall: (@Sendable () -> Void)? = nil) {
        self.aperture = aperture
        self.granule = granule
        self.onCall = onCall
    }

    var entries: [IOVARange] { state.withLock { $0.entries.keys.sorted { $0.first < $1.first } } }
    var log: [String] { state.withLock { $0.log } }
    var violations: Int { state.withLock { $0.violations } }

    /// Whether the entry for `range` shows the object's bytes from `offset` on.
    func shows(_ object: MemoryObject, offset: UInt64, at range: IOVARange) -> Bool {
        guard case .file(let shown, let place)? = state.withLock({ $0.backings[range] }) else { return false }
        return shown === object && place == offset
    }

    func refuse(_ range: IOVARange?) { state.withLock { $0.refused = range } }

    func map(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) throws(DMAError) {
        onCall?()
        try state.withLock { (state) throws(DMAError) in
            if state.refused == range { throw .outOfMemory }
            let isFit =
                aperture.contains(range) && range.first.isAligned(to: granule) && range.byteCount % granule == 0
                && !state.entries.keys.contains(where: range.overlaps)
            if !isFit { state.violations += 1 }
            state.entries[range] = rights
            state.backings[range] = backing
            state.log.append("map \(range)")
        }
    }

    func unmap(_ range: IOVARange) {
        onCall?()
        state.withLock { state in
            if state.entries.removeValue(forKey: range) == nil { state.violations += 1 }
            state.log.append("unmap \(range)")
        }
    }
}

@Suite struct `Consumers` {
    let object: MemoryObject
    let space = IOAddressSpace()

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
    }

    @Test func `a consumer is told of every mapping, before, during and after its attachment`() throws {
        try space.map(object, pages: pages(1))
        let table = PageTable()
        try space.attach(table)
        try space.map(object, pages: pages(2))
        try space.copy(pages(1, 2), from: space, to: iova(10 * page), rights: .read)
        #expect(table.entries == [pages(1), pages(2), pages(10), pages(11)])
        try space.unmap(pages(1, 2))
        #expect(table.entries == [pages(10), pages(11)])
        space.detach(table)
        #expect(table.entries == [])
        #expect(space.ranges == [pages(10), pages(11)])
        try space.map(object, pages: pages(20))
        #expect(table.entries == [])
        #expect(table.violations == 0)
    }

    @Test func `M6, M9 a consumer that refuses makes the map fail without a trace`() throws {
        let agreeable = PageTable()
        let refusing = PageTable()
        try space.attach(agreeable)
        try space.attach(refusing)
        refusing.refuse(pages(1))
        let peer = PeerMemory(byteCount: 1)
        #expect(throws: DMAError.outOfMemory) {
            try space.map(.remote(peer), at: iova(page), byteCount: page, rights: .read)
        }
        #expect(space.mappings() == [])
        #expect(agreeable.entries == [])
        #expect(peer.revocations == 0)
        refusing.refuse(nil)
        try space.map(.remote(peer), at: iova(page), byteCount: page, rights: .read)
        #expect(agreeable.entries == [pages(1)])
        #expect(agreeable.violations + refusing.violations == 0)
    }

    @Test func `M44 a copy of which a consumer refuses one piece leaves none`() throws {
        try space.map(object, pages: pages(1))
        try space.map(object, pages: pages(2))
        let table = PageTable()
        try space.attach(table)
        table.refuse(pages(11))
        #expect(throws: DMAError.outOfMemory) {
            try space.copy(pages(1, 2), from: space, to: iova(10 * page), rights: .read)
        }
        #expect(space.ranges == [pages(1), pages(2)])
        #expect(table.entries == [pages(1), pages(2)])
    }

    @Test func `M51 a consumer that refuses a mapping is not attached`() throws {
        for page in [1, 2, 3] as [UInt64] { try space.map(object, pages: pages(page)) }
        let table = PageTable(aperture: pages(0, 32), granule: page)
        table.refuse(pages(3))
        #expect(throws: DMAError.outOfMemory) { try space.attach(table) }
        #expect(table.entries == [])
        #expect(space.alignment == 1)
        #expect(space.usableRanges == [.everything])
        table.refuse(nil)
        try space.attach(table)
        #expect(table.entries == [pages(1), pages(2), pages(3)])
    }

    @Test func `M51 a granule is a power of two, at most a page, and fits the mappings`() throws {
        for granule in [0, 3, 2 * page] as [UInt64] {
            #expect(throws: DMAError.invalid) { try space.attach(PageTable(granule: granule)) }
        }
        try space.map(.file(object, offset: 0), at: iova(0), byteCount: 512, rights: .read)
        #expect(throws: DMAError.addressInUse) { try space.attach(PageTable(granule: 1024)) }
        let table = PageTable(granule: 512)
        try space.attach(table)
        #expect(space.alignment == 512)
        space.detach(table)  // M53
        #expect(space.alignment == 1)
    }

    @Test func `M51 what is outside the aperture becomes reserved, unless something is there`() throws {
        let table = PageTable(aperture: pages(4, 8))
        try space.map(object, pages: pages(1))
        #expect(throws: DMAError.addressInUse) { try space.attach(table) }
        try space.unmap(pages(1))
        try space.allow([pages(11, 2)])
        #expect(throws: DMAError.addressInUse) { try space.attach(table) }
        try space.allow([])
        try space.attach(table)
        #expect(space.usableRanges == [pages(4, 8)])
        #expect(throws: DMAError.invalid) { try space.map(object, pages: pages(3)) }
        space.detach(table)
        #expect(space.usableRanges == [.everything])
    }

    @Test func `M52 a consumer is attached once`() throws {
        let table = PageTable()
        try space.attach(table)
        #expect(throws: DMAError.exists) { try space.attach(table) }
        try space.attach(PageTable())
        space.detach(table)
        space.detach(table)
        try space.attach(table)
    }

    @Test
    func `M1, M5, M31, R50 while consumers forget a mapping it is there for maps and unmaps and not for accesses`()
        throws
    {
        let entered = Shared(0)
        let mayLeave = Shared(false)
        let isHolding = Shared(false)
        let table = PageTable {
            guard isHolding.value else { return }
            entered.update { $0 += 1 }
            mayLeave.wait { $0 }
        }
        try space.attach(table)
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        try space.map(object, pages: pages(1))
        isHolding.update { $0 = true }
        let thread = try OSThread(name: "unmapper") { _ = try? space.unmap(pages(1)) }
        entered.wait { $0 == 1 }
        #expect(errorOf { () throws(DMAError) in try access.pin(pages(1), rights: .read).unpin() } == .notFound)
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(1)) } == .notFound)
        #expect(throws: DMAError.exists) { try space.map(object, pages: pages(1)) }
        #expect(throws: DMAError.busy) { try space.unmap(pages(1)) }
        mayLeave.update { $0 = true }
        thread.join()
        #expect(space.mappings() == [])
        // M5: the same while it is being set up.
        mayLeave.update { $0 = false }
        let mapper = try OSThread(name: "mapper") { try? space.map(object, pages: pages(2)) }
        entered.wait { $0 == 2 }
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(2)) } == .notFound)
        #expect(throws: DMAError.exists) { try space.map(object, pages: pages(2)) }
        #expect(throws: DMAError.busy) { try space.unmap(.everything) }
        mayLeave.update { $0 = true }
        mapper.join()
        #expect(try access.read(pages(2)).count == Int(page))
        access.destroy()
    }

    @Test func `R87 a mapping whose pins stay is not taken from the consumers`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let space = IOAddressSpace(configuration)
        let table = PageTable()
        try space.attach(table)
        try space.map(object, pages: pages(1))
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        let pinned = try access.pin(pages(1), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(1)) } }
        #expect(table.entries == [pages(1)])
        pinned.unpin()
        try space.unmap(pages(1))
        #expect(table.entries == [])
        access.destroy()
    }

    @Test func `a space that goes takes its mappings from its consumers`() throws {
        let table = PageTable()
        do {
            let space = IOAddressSpace()
            try space.attach(table)
            try space.map(object, pages: pages(1))
        }
        #expect(table.entries == [])
        #expect(table.violations == 0)
    }

    @Test func `M3 attaching and detaching while others map and unmap keeps the table exact`() throws {
        let table = PageTable()
        let threads = try (0..<2 as Range<UInt64>).map { number in
            try OSThread(name: "churn \(number)") {
                for step in 0..<300 as Range<UInt64> {
                    let target = pages(number * 32 + step % 32)
                    try? space.map(object, pages: target)
                    if step % 3 == 0 { _ = try? space.unmap(target) }
                    if step % 64 == 63 { _ = try? space.unmap(pages(number * 32, 32)) }
                }
            }
        }
        for _ in 0..<100 {
            try space.attach(table)
            space.detach(table)
            #expect(table.entries == [])
        }
        try space.attach(table)
        for thread in threads { thread.join() }
        #expect(table.entries == space.ranges)
        #expect(table.violations == 0)
    }

    @Test func `M1, M25 a mapping in transition is busy even if it sticks out of the request, and cannot be copied`()
        throws
    {
        let entered = Shared(false)
        let mayLeave = Shared(false)
        let isHolding = Shared(false)
        let table = PageTable {
            guard isHolding.value else { return }
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        try space.attach(table)
        try space.map(object, pages: pages(1, 4))
        isHolding.update { $0 = true }
        let thread = try OSThread(name: "unmapper") { _ = try? space.unmap(pages(1, 4)) }
        entered.wait { $0 }
        #expect(throws: DMAError.busy) { try space.unmap(pages(2)) }
        #expect(throws: DMAError.busy) { try space.unmap(.everything) }
        let other = IOAddressSpace()
        #expect(throws: DMAError.notFound) { try other.copy(pages(1), from: space, to: nil, rights: .read) }
        // Elsewhere nothing is in the way.
        isHolding.update { $0 = false }
        try space.map(object, pages: pages(9))
        try space.unmap(pages(9))
        mayLeave.update { $0 = true }
        thread.join()
        #expect(space.mappings() == [])
        #expect(table.entries == [])
    }

    @Test func `M3 a consumer that comes while a map is half done waits for it and sees the mapping`() throws {
        let entered = Shared(false)
        let mayLeave = Shared(false)
        let slow = PageTable {
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        try space.attach(slow)
        let late = PageTable()
        let mapper = try OSThread(name: "mapper") { try? space.map(object, pages: pages(1)) }
        entered.wait { $0 }
        let attacher = try OSThread(name: "attacher") { try? space.attach(late) }
        for _ in 0..<100 { sched_yield() }
        #expect(late.entries == [])
        mayLeave.update { $0 = true }
        mapper.join()
        attacher.join()
        #expect(late.entries == [pages(1)])
        #expect(late.log == ["map \(pages(1))"])
    }

    @Test func `M3 an unmap waits for a consumer that is coming, which is told to forget then`() throws {
        for number in 0..<3 as Range<UInt64> { try space.map(object, pages: pages(number)) }
        let (entered, mayLeave) = (Shared(false), Shared(false))
        // The first call takes its time.
        let slow = PageTable {
            let isFirst = entered.update { hasEntered in
                defer { hasEntered = true }
                return !hasEntered
            }
            if isFirst { mayLeave.wait { $0 } }
        }
        let attacher = try OSThread(name: "attacher") { try? space.attach(slow) }
        entered.wait { $0 }
        let unmapper = try OSThread(name: "unmapper") { _ = try? space.unmap(pages(2)) }
        // Time for an unmap that does not wait.
        usleep(20_000)
        mayLeave.update { $0 = true }
        for thread in [attacher, unmapper] { thread.join() }
        #expect(slow.entries == [pages(0), pages(1)])
        #expect(slow.violations == 0)
    }

    @Test func `M3 a map waits for a consumer that is coming, and is not known to one that does not come`() throws {
        for number in 0..<2 as Range<UInt64> { try space.map(object, pages: pages(number)) }
        let (entered, mayLeave) = (Shared(false), Shared(false))
        let slow = PageTable {
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        slow.refuse(pages(1))
        let attacher = try OSThread(name: "attacher") { try? space.attach(slow) }
        entered.wait { $0 }
        let mapper = try OSThread(name: "mapper") { try? space.map(object, pages: pages(2)) }
        usleep(20_000)
        mayLeave.update { $0 = true }
        for thread in [attacher, mapper] { thread.join() }
        #expect(slow.entries == [])
        #expect(space.ranges == [pages(0), pages(1), pages(2)])
    }

    @Test func `M9 of several consumers those that agreed are told to forget, and pins elsewhere stay`() throws {
        try space.map(object, pages: pages(5))
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        let pinned = try access.pin(pages(5), rights: .read)
        let tables = (0..<3).map { _ in PageTable() }
        for table in tables { try space.attach(table) }
        tables[1].refuse(pages(1, 3))
        #expect(throws: DMAError.outOfMemory) { try space.map(object, pages: pages(1, 3)) }
        let undone = ["map \(pages(5))", "map \(pages(1, 3))", "unmap \(pages(1, 3))"]
        #expect(tables.map(\.entries) == [[pages(5)], [pages(5)], [pages(5)]])
        #expect(tables.map(\.log) == [undone, ["map \(pages(5))"], ["map \(pages(5))"]])
        #expect(space.mappings() == [MappingSnapshot(pages(5), [.read, .write], pins: 1)])
        pinned.unpin()
        access.destroy()
    }

    @Test func `M51 an aperture may end at the last byte of the space, or be one byte of it`() throws {
        let upper = PageTable(aperture: range(1 << 63, .max))
        try space.attach(upper)
        #expect(space.usableRanges == [range(1 << 63, .max)])
        try space.map(.file(object, offset: 0), at: iova(.max), byteCount: 1, rights: .read)
        #expect(upper.entries == [range(.max, .max)])
        let last = PageTable(aperture: range(.max, .max))
        try space.attach(last)
        #expect(space.usableRanges == [range(.max, .max)])
        #expect(throws: DMAError.invalid) {
            try space.map(.file(object, offset: 0), at: iova(.max - 1), byteCount: 1, rights: .read)
        }
        space.detach(upper)
        #expect(space.usableRanges == [range(.max, .max)])
        space.detach(last)
        #expect(upper.violations + last.violations == 0)
    }

    @Test func `M51 what keeps a consumer away leaves no trace, in the order granule, mappings, aperture`() throws {
        try space.map(.file(object, offset: 0), at: iova(100), byteCount: 100, rights: .read)
        func error(_ aperture: IOVARange, _ granule: UInt64) -> DMAError? {
            errorOf { () throws(DMAError) in try space.attach(PageTable(aperture: aperture, granule: granule)) }
        }
        #expect(error(pages(5), 2 * page) == .invalid)
        #expect(error(pages(5), 8) == .addressInUse)
        #expect(error(pages(5), 1) == .addressInUse)
        #expect(error(range(0, 198), 1) == .addressInUse)
        #expect(error(range(101, .max), 1) == .addressInUse)
        #expect([space.usableRanges.count, Int(space.alignment)] == [1, 1])
        #expect(error(range(100, 199), 4) == nil)
        #expect(space.usableRanges == [range(100, 199)])
        #expect(space.alignment == 4)
    }

    @Test func `M53 a consumer that leaves takes back what was its own and nothing of the others`() throws {
        let coarse = PageTable(aperture: pages(2, 30), granule: page)
        let fine = PageTable(aperture: pages(0, 16), granule: 512)
        let reservation = try space.reserve(pages(8))
        try space.attach(coarse)
        try space.attach(fine)
        try space.map(object, pages: pages(4))
        #expect(space.usableRanges == [pages(2, 6), pages(9, 7)])
        #expect(space.alignment == page)
        space.detach(coarse)
        #expect(coarse.entries == [])
        #expect(fine.entries == [pages(4)])
        #expect(space.usableRanges == [pages(0, 8), pages(9, 7)])
        #expect(space.alignment == 512)
        try space.map(.file(object, offset: 512), at: iova(512), byteCount: 512, rights: .read)
        reservation.release()
        space.detach(fine)
        #expect(space.usableRanges == [.everything])
        #expect(space.alignment == 1)
        #expect(space.mappings().count == 2)
        #expect(coarse.violations + fine.violations == 0)
    }
}
