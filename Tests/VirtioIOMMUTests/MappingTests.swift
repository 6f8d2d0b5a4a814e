import DMA
import IOMMUTestDriver
import LinuxHost
import Testing
import VirtioIOMMU

@Suite struct `Mapping` {
    private let driver: IOMMUDriver
    private let device: Confined
    private let log = EventLog()

    init() throws {
        let log = log
        driver = try IOMMUDriver(report: { log.add($0) })
        device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
    }

    @Test func `V34 unknown flags, and MMIO without the feature, are refused`() {
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 8) == Status.invalid)
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 0x8000_0003) == Status.invalid)
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 7) == Status.ok)
        driver.start(without: VirtioFeatureBits.mmio)
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 7) == Status.invalid)
    }

    @Test func `V35 a domain that is not there, or translates nothing`() throws {
        let other = try Confined(driver, id: 0x28)
        #expect(driver.attach(other.id, to: 2, flags: 1) == Status.ok)
        #expect(driver.map(9, 0x8000...0x8fff, to: data) == Status.notFound)
        #expect(driver.map(2, 0x8000...0x8fff, to: data) == Status.invalid)
    }

    @Test func `V36 a range that does not end behind its beginning`() {
        #expect(driver.send(RequestBytes.map(1, 0x8000, 0x7fff, to: data)) == Status.invalid)
        #expect(driver.send(RequestBytes.map(1, 0x8000, 0x8000, to: data)) == Status.invalid)
        #expect(driver.send(RequestBytes.map(1, .max, 0, to: data)) == Status.invalid)
    }

    @Test func `V37 addresses that are not aligned, out of range, or too high`() throws {
        #expect(driver.map(1, 0x8001...0x8fff, to: data) == Status.outOfRange)
        #expect(driver.map(1, 0x8000...0x8ffe, to: data) == Status.outOfRange)
        #expect(driver.map(1, 0x8000...0x8fff, to: data + 1) == Status.outOfRange)
        #expect(driver.map(1, 0x8000...(1 << 48) + page - 1, to: 0) == Status.outOfRange)
        #expect(driver.map(1, (1 << 48)...(1 << 48) + page - 1, to: 0) == Status.outOfRange)
        #expect(driver.map(1, (1 << 48) - page...(1 << 48) - 1, to: data) == Status.ok)
        #expect(driver.map(1, 0x8000...0x9fff, to: UInt64.max - page + 1) == Status.outOfRange)
        var options = VirtioIOMMU.Options()
        options.inputRange = .everything
        let driver = try IOMMUDriver(options)
        let device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        driver[data + 4095] = 0x51
        #expect(driver.map(1, UInt64.max - 4095...UInt64.max, to: data) == Status.ok)
        #expect(try device.read(.max) == [0x51])
        #expect(driver.unmap(1, 0...UInt64.max) == Status.ok)
        #expect(!device.reaches(.max))
        #expect(driver.map(1, 0...UInt64.max, to: 0) == Status.invalid)
    }

    @Test func `V38 what overlaps a mapping or a reserved region is refused and changes nothing`() {
        driver[data] = 1
        driver[data + page] = 2
        #expect(driver.map(1, 0x8000...0x9fff, to: data) == Status.ok)
        for range in [0x7000...0x8fff, 0x8000...0x8fff, 0x9000...0xafff, 0x7000...0xbfff] as [ClosedRange<UInt64>] {
            #expect(driver.map(1, range, to: data + page) == Status.invalid)
        }
        #expect((try? device.read(0x8000)) == [1] && !device.reaches(0x7000) && !device.reaches(0xa000))
        #expect(driver.map(1, 0xfedf_f000...0xfee0_0fff, to: data) == Status.invalid)
        #expect(driver.map(1, 0xfeef_f000...0xfeff_ffff, to: data) == Status.invalid)
        #expect(driver.map(1, 0xfef0_0000...0xfef0_0fff, to: data) == Status.ok)
    }

    @Test func `V40 a mapping without rights is taken, and lets nothing through`() {
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 0) == Status.ok)
        #expect(!device.reaches(0x8000))
        #expect(throws: DMAError.notFound) { try device.write([1], to: 0x8000) }
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.invalid)
        #expect(driver.unmap(1, 0x8000...0x8fff) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
    }

    @Test func `V41 each direction needs its own right`() throws {
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 1) == Status.ok)
        #expect(driver.map(1, 0x9000...0x9fff, to: data, flags: 2) == Status.ok)
        #expect(device.reaches(0x8000) && !device.reaches(0x9000))
        #expect(throws: DMAError.notPermitted) { try device.write([1], to: 0x8000) }
        try device.write([0x52], to: 0x9000)
        #expect(driver[data] == 0x52)
    }

    @Test func `V42, V82 what is no memory is not shown as memory`() {
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 7) == Status.ok)
        #expect(!device.reaches(0x8000))
        #expect(driver.unmap(1, 0x8000...0x8fff) == Status.ok)
    }

    @Test func `V43 a mapping may lead past guest memory; accesses there fail`() throws {
        let end = UInt64(driver.memory.byteCount)
        #expect(driver.map(1, 0x8000...0x9fff, to: end - page) == Status.ok)
        driver[end - 1] = 0x53
        #expect(try device.read(0x8fff) == [0x53])
        #expect(!device.reaches(0x9000))
        #expect(driver.map(1, 0x10_0000...0x10_0fff, to: 1 << 46) == Status.ok)
        #expect(!device.reaches(0x10_0000))
    }

    @Test func `V44 what is mapped can be used when it is answered`() throws {
        for number in 0..<200 as Range<UInt64> {
            driver[data] = UInt8(number & 0xff)
            #expect(driver.map(1, number * page...number * page + page - 1, to: data) == Status.ok)
            #expect(try device.read(number * page) == [UInt8(number & 0xff)])
        }
    }

    @Test func `V45 a domain takes only so many mappings`() throws {
        var options = VirtioIOMMU.Options()
        options.maximumMappings = 3
        let driver = try IOMMUDriver(options)
        let device = try Confined(driver)
        let other = try Confined(driver, id: 0x28)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.attach(other.id, to: 2) == Status.ok)
        for number in 0..<3 as Range<UInt64> {
            #expect(driver.map(1, number * page...number * page + page - 1, to: data) == Status.ok)
        }
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.outOfMemory)
        #expect(!device.reaches(0x8000))
        #expect(driver.map(2, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.unmap(1, 0...page - 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
    }

    @Test func `V38, V45 a mapping that leads to too many sections leaves nothing behind`() throws {
        var options = VirtioIOMMU.Options()
        options.maximumMappings = 1
        let driver = try IOMMUDriver(options)
        let device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        let end = UInt64(driver.memory.byteCount)
        let extra = try MemoryObject.anonymous(byteCount: Int(2 * page))
        for number in 0..<2 as Range<UInt64> {
            try driver.space.map(
                .file(extra, offset: number * page), at: IOVA(end + number * page), byteCount: page,
                rights: [.read, .write])
        }
        #expect(driver.map(1, 0x8000...0xafff, to: end - page) == Status.outOfMemory)
        for address in [0x8000, 0x9000, 0xa000] as [UInt64] { #expect(!device.reaches(address)) }
        #expect(driver.unmap(1, 0...UInt64.max) == Status.ok)
        #expect(driver.map(1, 0x8000...0x9fff, to: end - page) == Status.ok)
        #expect(device.reaches(0x8fff) && device.reaches(0x9000) && !device.reaches(0xa000))
    }

    @Test func `V61 what is refused is counted and reported, for the driver does not look`() {
        #expect(driver.map(1, 0x8001...0x8fff, to: data) == Status.outOfRange)
        let rejected = log.rejections
        #expect(rejected.count == 1 && driver.iommu.statistics.rejectedCount == 1)
        #expect(rejected.first?.status == .outOfRange)
        #expect(
            rejected.first.map(String.init(describing:))
                == "request 2 refused with RANGE: map 0x8001-0x8fff -> 0x100000, rw in domain 1")
        for _ in 0..<200 { _ = driver.map(1, 0x8001...0x8fff, to: data) }
        #expect(driver.iommu.statistics.rejectedCount == 201)
        #expect((64...201).contains(log.rejections.count))
    }
}

@Suite struct `Unmapping` {
    private let driver: IOMMUDriver
    private let device: Confined
    private let log = EventLog()

    init() throws {
        let log = log
        driver = try IOMMUDriver(report: { log.add($0) })
        device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
    }

    @Test func `V39, V65 a range removes whole mappings or none`() {
        for number in 0..<4 as Range<UInt64> {
            let first = 0x8000 + number * 0x2000
            #expect(driver.map(1, first...first + 0x1fff, to: data) == Status.ok)
        }
        #expect(driver.unmap(1, 0x8000...0xafff) == Status.outOfRange)
        #expect(driver.unmap(1, 0x9000...0xbfff) == Status.outOfRange)
        #expect(driver.unmap(1, 0xb000...0xb000) == Status.outOfRange)
        for number in 0..<4 as Range<UInt64> { #expect(device.reaches(0x8000 + number * 0x2000)) }
        #expect(driver.unmap(1, 0x7000...0xbfff) == Status.ok)
        #expect(!device.reaches(0x8000) && !device.reaches(0xa000) && device.reaches(0xc000))
    }

    @Test func `V46 a domain that is not there, or translates nothing; the reserved field is ignored`() throws {
        let other = try Confined(driver, id: 0x28)
        #expect(driver.attach(other.id, to: 2, flags: 1) == Status.ok)
        #expect(driver.unmap(9, 0...1) == Status.notFound)
        #expect(driver.unmap(2, 0...1) == Status.invalid)
        #expect(driver.send(RequestBytes.unmap(1, 0, 1, reserved: .max)) == Status.ok)
    }

    @Test func `V47 what is not mapped, or not aligned, can be unmapped`() {
        #expect(driver.unmap(1, 3...77) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.unmap(1, 0x7fff...0x9001) == Status.ok)
        #expect(!device.reaches(0x8000))
    }

    @Test func `V48 a range that ends before it begins, and the one of everything`() {
        #expect(driver.send(RequestBytes.unmap(1, 1, 0)) == Status.invalid)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.map(1, 0x10_0000...0x10_0fff, to: data) == Status.ok)
        #expect(driver.unmap(1, 0...UInt64.max) == Status.ok)
        #expect(!device.reaches(0x8000) && !device.reaches(0x10_0000))
    }

    /// The standard's examples: maps, the range that is unmapped, its status, and what is left.
    @Test(
        arguments: [
            ([], 0...4, Status.ok, []),
            ([0...9], 0...9, Status.ok, []),
            ([0...4, 5...9], 0...9, Status.ok, []),
            ([0...9], 0...4, Status.outOfRange, [0, 9]),
            ([0...4, 5...9], 0...4, Status.ok, [5, 9]),
            ([0...4], 0...9, Status.ok, []),
            ([0...4, 10...14], 0...14, Status.ok, []),
        ] as [([ClosedRange<UInt64>], ClosedRange<UInt64>, UInt8, [UInt64])])
    func `V49, V1 the examples of the standard, with a granule of one byte`(
        maps: [ClosedRange<UInt64>], unmapped: ClosedRange<UInt64>, status: UInt8, left: [UInt64]
    ) throws {
        var options = VirtioIOMMU.Options()
        options.pageSizeMask = 1
        let driver = try IOMMUDriver(options)
        let device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        for range in maps { #expect(driver.map(1, range, to: data + range.lowerBound) == Status.ok) }
        for range in maps { #expect(device.reaches(range.lowerBound) && device.reaches(range.upperBound)) }
        #expect(driver.unmap(1, unmapped) == status)
        for address in 0..<16 as Range<UInt64> {
            let isLeft = !left.isEmpty && (left[0]...left[1]).contains(address)
            #expect(device.reaches(address) == isLeft)
        }
    }

    @Test func `V50, V86 an unmap is answered when no device can write there any more, however long that takes`() throws
    {
        try keepingPins {
            let own = try Self()
            let (driver, device, log) = (own.driver, own.device, own.log)
            #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
            #expect(driver.map(1, 0x9000...0x9fff, to: data) == Status.ok)
            try device.model.pin(IOVARange(first: IOVA(0x8000), last: IOVA(0x8fff)), keeps: true)
            let (first, _) = driver.requests.lay(RequestChain(RequestBytes.unmap(1, 0x8000, 0x8fff)), slot: 0)
            let (second, _) = driver.requests.lay(RequestChain(RequestBytes.unmap(1, 0x9000, 0x9fff)), slot: 1)
            driver.requests.offer([first, second])
            driver.kick(driver.requests)
            // After a second it is said that it takes long; the device can do nothing new there meanwhile.
            driver.wait { log.waits > 0 }
            #expect(driver.requests.usedCount == 0)
            #expect(throws: DMAError.invalid) { try device.write([1], to: 0x8000) }
            #expect(!device.reaches(0x9000))
            device.model.letGo()
            #expect(driver.waitForUsed(driver.requests).head == first)
            #expect(driver.waitForUsed(driver.requests).head == second)
            #expect(driver.requests.bytes(of: 0x10000..<0x10001) == [Status.ok])
            #expect(!device.reaches(0x8000))
        }
    }

    @Test func `V64 what a batch unmaps can be mapped anew in the same batch, and moved`() throws {
        driver[data] = 1
        driver[data + page] = 2
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        let batch: [[UInt8]] = [
            RequestBytes.unmap(1, 0x8000, 0x8fff),
            RequestBytes.map(1, 0x9000, 0x9fff, to: data),
            RequestBytes.map(1, 0x8000, 0x8fff, to: data + page),
            RequestBytes.unmap(1, 0x9000, 0x9fff),
            RequestBytes.unmap(1, 0x9000, 0x9fff),
            RequestBytes.map(1, 0x8000, 0x9fff, to: data),
        ]
        #expect(driver.send(batch: batch) == [0, 0, 0, 0, 0, Status.invalid])
        #expect(try device.read(0x8000) == [2])
        #expect(!device.reaches(0x9000))
        let move: [[UInt8]] = [
            RequestBytes.unmap(1, 0x8000, 0x8fff), RequestBytes.attach(device.id, to: 2),
            RequestBytes.map(2, 0x8000, 0x8fff, to: data), RequestBytes.detach(device.id, from: 2),
        ]
        #expect(driver.send(batch: move) == [0, 0, 0, 0])
        #expect(try device.read(data) == [1])
    }

    @Test func `V63 as many requests as the queue has room for are one batch`() {
        let before = driver.iommu.statistics.batchCount
        let maps = (0..<128).map { RequestBytes.map(1, $0 * page, $0 * page + page - 1, to: data) }
        #expect(driver.send(batch: maps).allSatisfy { $0 == Status.ok })
        let unmaps = (0..<128).map { RequestBytes.unmap(1, $0 * page, $0 * page + page - 1) }
        #expect(driver.send(batch: unmaps).allSatisfy { $0 == Status.ok })
        #expect(driver.iommu.statistics.batchCount - before <= 4)
        #expect((0..<128).allSatisfy { !device.reaches($0 * page) })
    }
}
