import CProcessCounters
import DMA
import DeviceModel
import Edu
import IOMMUTestDriver
import LinuxHost
import PCI
import Synchronization
import Testing
import VirtioIOMMU

/// An edu device behind an IOMMU, driven by its registers.
private final class ConfinedEdu: Sendable {
    let endpoint: IOMMUEndpoint
    let function: PCIFunction<Edu>
    let space = IOAddressSpace()

    init(_ driver: IOMMUDriver, id: UInt32) throws {
        endpoint = driver.iommu.endpoint(id: EndpointID(id))
        function = try Edu.makeFunction(dmaMaskBits: 64, route: endpoint)
        try space.map(
            .file(driver.memory, offset: 0), at: IOVA(0), byteCount: UInt64(driver.memory.byteCount),
            rights: [.read, .write])
        try connect()
    }

    func connect() throws {
        try function.attach(to: space)
        write(PCIRegion.configuration, 4, 2, 6)
    }

    func read(_ offset: UInt64) -> UInt64 {
        var bytes = [UInt8](repeating: 0, count: 4)
        var span = bytes.mutableSpan
        function.readRegion(0, at: offset, into: &span)
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func write(_ region: Int, _ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        function.writeRegion(region, at: offset, from: bytes.span)
    }

    /// Moves bytes between an address and the device's memory, and waits for the end.
    func transfer(at address: UInt64, byteCount: UInt64, toMemory: Bool) {
        write(0, 0x80, 8, toMemory ? 0x40000 : address)
        write(0, 0x88, 8, toMemory ? address : 0x40000)
        write(0, 0x90, 8, byteCount)
        write(0, 0x98, 8, toMemory ? 3 : 1)
        let nobody = Monitor(())
        var looks = 0
        while read(0x98) & 1 != 0 {
            looks += 1
            if looks > 100 { _ = nobody.wait(until: .after(.microseconds(50))) { _ in nil as Void? } }
        }
    }
}

@Suite struct `Many at once` {
    /// Runs `body` with the lock checker watching, and expects it to have nothing to say but that things took time.
    private func watched(_ body: () throws -> Void) throws {
        let reports = try LockChecker.withRecording { () throws in try body() }
        for report in reports where !report.isMatterOfTime { Issue.record("\(report)") }
    }

    @Test func `edu moves bytes through mappings, and nothing once they are gone`() throws {
        try watched {
            let driver = try IOMMUDriver()
            let edu = try ConfinedEdu(driver, id: 8)
            driver.start()
            #expect(driver.attach(8, to: 1) == Status.ok)
            #expect(driver.map(1, 0x8000...0x9fff, to: data) == Status.ok)
            for byte in 0..<256 as Range<UInt64> { driver[data + 0xff0 + byte] = UInt8(byte) }
            edu.transfer(at: 0x8ff0, byteCount: 256, toMemory: false)
            edu.transfer(at: 0x9800, byteCount: 256, toMemory: true)
            for byte in 0..<256 as Range<UInt64> { #expect(driver[data + 0x1800 + byte] == UInt8(byte)) }
            #expect(driver.unmap(1, 0x8000...0x9fff) == Status.ok)
            for byte in 0..<256 as Range<UInt64> { driver[data + 0x1800 + byte] = 0 }
            edu.transfer(at: 0x9800, byteCount: 256, toMemory: true)
            for byte in 0..<256 as Range<UInt64> { #expect(driver[data + 0x1800 + byte] == 0) }
            edu.function.detach()
        }
    }

    /// A device writes only where it may: every page has one owner, and a page that is unmapped keeps what it has.
    @Test func `V32, V60 eight devices beside maps, unmaps and moves; nothing arrives after an unmap`() throws {
        try watched {
            let driver = try IOMMUDriver()
            let devices = try (0..<8 as Range<UInt32>).map { try ConfinedEdu(driver, id: $0 + 8) }
            driver.start()
            for number in 0..<8 as Range<UInt32> {
                #expect(driver.attach(number + 8, to: number % 3) == Status.ok)
            }
            let flag = Flag()
            let threads = try devices.enumerated().map { number, device in
                try OSThread(name: "edu driver") {
                    var turn: UInt64 = 0
                    while !flag.isSet {
                        device.transfer(
                            at: harmless + (turn + UInt64(number)) % 16 * page, byteCount: 64, toMemory: turn % 2 == 0)
                        turn += 1
                    }
                }
            }
            for round in 0..<24 as Range<UInt64> {
                for domain in 0..<3 as Range<UInt32> {
                    let place = data + UInt64(domain) * 0x20000
                    let maps = (0..<16 as Range<UInt64>).map { index in
                        RequestBytes.map(
                            domain, harmless + index * page, harmless + index * page + page - 1,
                            to: place + index * page)
                    }
                    #expect(driver.send(batch: maps).allSatisfy { $0 == Status.ok })
                }
                let mover = UInt32(round % 8) + 8
                let domain = UInt32(round % 8) % 3
                #expect(driver.detach(mover, from: domain) == Status.ok)
                #expect(driver.attach(mover, to: domain) == Status.ok)
                for domain in 0..<3 as Range<UInt32> {
                    #expect(driver.unmap(domain, 0...UInt64.max) == Status.ok)
                    let place = data + UInt64(domain) * 0x20000
                    let before = unsafe Array(driver.memory.bytes[Int(place)..<Int(place) + 0x10000])
                    for _ in 0..<20 { driver.settle() }
                    #expect(unsafe Array(driver.memory.bytes[Int(place)..<Int(place) + 0x10000]) == before)
                }
            }
            flag.set()
            for thread in threads { thread.join() }
            for device in devices { device.function.detach() }
        }
    }

    @Test func `devices come and go while their endpoints move`() throws {
        try watched {
            let driver = try IOMMUDriver()
            let devices = try (0..<4 as Range<UInt32>).map { try ConfinedEdu(driver, id: $0 + 8) }
            driver.start()
            let flag = Flag()
            let threads = try devices.map { device in
                try OSThread(name: "edu client") {
                    var turn = 0
                    while !flag.isSet {
                        device.transfer(at: harmless, byteCount: 16, toMemory: true)
                        if turn % 3 == 0 {
                            device.function.reset()
                            device.write(PCIRegion.configuration, 4, 2, 6)
                        } else {
                            device.function.detach()
                            try? device.connect()
                        }
                        turn += 1
                    }
                }
            }
            for round in 0..<300 as Range<UInt32> {
                let id = round % 4 + 8
                #expect(driver.attach(id, to: round % 3 + 1) == Status.ok)
                if round % 5 == 0 { driver.configure(36, 1, UInt64(round / 5 % 2)) }
                #expect(driver.map(round % 3 + 1, harmless...harmless + page - 1, to: data) != nil)
                if round % 7 == 0 { #expect(driver.detach(id, from: round % 3 + 1) == Status.ok) }
                if round % 50 == 49 { driver.start() }
            }
            flag.set()
            for thread in threads { thread.join() }
            for device in devices { device.function.detach() }
        }
    }

    @Test func `guest memory comes and goes beside maps and unmaps`() throws {
        try watched {
            let driver = try IOMMUDriver()
            let device = try Confined(driver)
            driver.start()
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            let extra = try MemoryObject.anonymous(byteCount: 0x10000)
            let flag = Flag()
            let space = driver.space
            let place: UInt64 = 1 << 32
            let thread = try OSThread(name: "client") {
                while !flag.isSet {
                    let range = try? IOVARange(first: IOVA(place), byteCount: 0x10000)
                    try? space.map(
                        .file(extra, offset: 0), at: IOVA(place), byteCount: 0x10000, rights: [.read, .write])
                    if let range { _ = try? space.unmap(range) }
                }
            }
            for round in 0..<400 as Range<UInt64> {
                let first = 0x8000 + round % 4 * 0x10000
                #expect(driver.map(1, first...first + 0xffff, to: place) == Status.ok)
                _ = device.reaches(first + 0x8000)
                #expect(driver.unmap(1, first...first + 0xffff) == Status.ok)
                #expect(!device.reaches(first + 0x8000))
            }
            flag.set()
            thread.join()
        }
    }

    @Test func `a hundred thousand mappings come and go without descriptors or memory areas`() throws {
        let driver = try IOMMUDriver()
        let device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        func churn(_ count: UInt64) {
            for start in stride(from: 0, to: count, by: 64) {
                let maps = (start..<start + 64).map {
                    RequestBytes.map(1, $0 * page, $0 * page + page - 1, to: data + $0 % 256 * page)
                }
                #expect(driver.send(batch: maps).allSatisfy { $0 == Status.ok })
                let unmaps = (start..<start + 64).map { RequestBytes.unmap(1, $0 * page, $0 * page + page - 1) }
                #expect(driver.send(batch: unmaps).allSatisfy { $0 == Status.ok })
            }
        }
        churn(6400)
        let descriptors = count_of_descriptors()
        let areas = count_of_memory_areas()
        churn(100_032)
        // What earlier tests had may close meanwhile.
        #expect(count_of_descriptors() <= descriptors)
        // The heap may grow by an area or two of its own.
        #expect(count_of_memory_areas() <= areas + 4)
    }
}

/// Where nobody minds what a device that translates nothing writes.
private let harmless: UInt64 = 0x30_0000

/// Something that one thread says to others.
private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)

    var isSet: Bool { value.load(ordering: .acquiring) }

    func set() { value.store(true, ordering: .releasing) }
}
