import DMA
import IOMMUTestDriver
import LinuxHost
import Testing
import VirtioIOMMU

@Suite struct `Faults` {
    private let driver: IOMMUDriver
    private let device: Confined
    private let log = EventLog()

    init() throws {
        var options = VirtioIOMMU.Options()
        options.startsInBypass = false
        let log = log
        driver = try IOMMUDriver(options, report: { log.add($0) })
        device = try Confined(driver)
        driver.start()
    }

    /// An event by the standard's table.
    private func event(_ reason: UInt8, _ flags: UInt32, _ address: UInt64) -> [UInt8] {
        [reason, 0, 0, 0] + [UInt8(flags & 0xff), UInt8(flags >> 8), 0, 0] + [UInt8(device.id), 0, 0, 0, 0, 0, 0, 0]
            + (0..<8).map { UInt8(truncatingIfNeeded: address >> (8 * $0)) }
    }

    private func attach() { #expect(driver.attach(device.id, to: 1) == Status.ok) }

    @Test func `V8, V57 an endpoint that is attached to nothing`() throws {
        driver.offerEventBuffers(4)
        #expect(throws: DMAError.notFound) { try device.read(0x1234) }
        #expect(driver.nextEvent() == event(1, 0x101, 0x1234))
        let fault = try #require(log.waitForFaults(1).first)
        #expect(fault.cause == .notAttached && fault.domain == nil && fault.rights == .read)
        #expect(
            fault.description == "DMA of an endpoint that is attached to no domain: endpoint 00:04.0 read 0x1234")
    }

    @Test func `V57, V69 what is not mapped, or not for that, is told with address and direction`() throws {
        attach()
        #expect(driver.map(1, 0x8000...0x8fff, to: data, flags: 1) == Status.ok)
        driver.offerEventBuffers(4)
        #expect(!device.reaches(0x9000))
        #expect(driver.nextEvent() == event(2, 0x101, 0x9000))
        #expect(throws: DMAError.notPermitted) { try device.write([1], to: 0x8004) }
        #expect(driver.nextEvent() == event(2, 0x102, 0x8004))
        #expect(throws: DMAError.notFound) {
            try device.model.pin(IOVARange(first: IOVA(0xa000), last: IOVA(0xafff)))
        }
        #expect(driver.nextEvent() == event(2, 0x103, 0xa000))
        let faults = log.waitForFaults(3)
        #expect(faults[0].cause == .neverMapped)
        let never = "DMA to an address that was never mapped: endpoint 00:04.0"
        #expect(faults[0].description == "\(never) read 0x9000 in domain 1")
        guard case .notPermitted(let mapping) = faults[1].cause else {
            Issue.record("\(faults[1])")
            return
        }
        #expect(mapping.request == 2 && mapping.rights == .read && mapping.physical == data)
        #expect(faults[2].description == "\(never) held 0xa000 in domain 1")
    }

    @Test func `V58 the first address that fails is told, once for each access`() throws {
        attach()
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.map(1, 0x9000...0x9fff, to: data, flags: 1) == Status.ok)
        driver.offerEventBuffers(4)
        #expect(throws: DMAError.notFound) { try device.read(0x8ff0, 0x2000) }
        #expect(driver.nextEvent() == event(2, 0x101, 0xa000))
        #expect(throws: DMAError.notPermitted) { try device.write([UInt8](repeating: 0, count: 0x100), to: 0x8f80) }
        #expect(driver.nextEvent() == event(2, 0x102, 0x9000))
        #expect(log.waitForFaults(2).count == 2)
    }

    @Test func `V56 without a buffer, or with a small one, faults are dropped and counted`() throws {
        attach()
        #expect(!device.reaches(0x9000))
        _ = log.waitForFaults(1)
        driver.wait { driver.iommu.statistics.untoldFaultCount == 1 }
        driver.offerEventBuffers(1, byteCount: 23)
        #expect(!device.reaches(0xa000))
        #expect(driver.waitForUsed(driver.events).byteCount == 0)
        #expect(driver.iommu.statistics.untoldFaultCount == 2)
        driver.offerEventBuffers(1)
        #expect(!device.reaches(0xb000))
        #expect(driver.nextEvent() == event(2, 0x101, 0xb000))
        #expect(driver.status & 64 == 0)
    }

    @Test func `V58 a storm is told of 64 times a second, and the rest counted`() throws {
        attach()
        for _ in 0..<1000 { #expect(!device.reaches(0x9000)) }
        _ = log.waitForFaults(64)
        driver.wait { driver.iommu.statistics.faultCount + driver.iommu.statistics.suppressedFaultCount == 1000 }
        let other = try Confined(driver, id: 0x28)
        let before = log.faults.count
        #expect(!other.reaches(0x9000))
        #expect(log.waitForFaults(before + 1).last?.endpoint == EndpointID(0x28))
    }

    @Test func `DMA after unmap is called that, with when and by which request`() throws {
        attach()
        #expect(driver.map(1, 0x123_0000...0x123_0fff, to: 0x7f000, flags: 3) == Status.ok)
        #expect(driver.map(1, 0x124_0000...0x124_0fff, to: 0x7f000, flags: 3) == Status.ok)
        #expect(driver.unmap(1, 0x123_0000...0x123_0fff) == Status.ok)
        #expect(throws: DMAError.notFound) { try device.write([1], to: 0x123_0010) }
        let fault = try #require(log.waitForFaults(1).first)
        guard case .unmapped(let ended) = fault.cause else {
            Issue.record("\(fault)")
            return
        }
        #expect(ended.mapping.request == 2 && ended.request == 4)
        #expect(ended.mapping.time <= ended.time && ended.time <= fault.time)
        let words = fault.description.split(separator: " ").filter { !$0.contains(".") || $0 == "00:04.0" }
        #expect(
            words.joined(separator: " ")
                == "DMA after unmap: endpoint 00:04.0 wrote 0x1230010, mapped ms before by request 2 "
                + "(0x1230000-0x1230fff -> 0x7f000, rw), unmapped ms before by request 4")
        // Mapped again, it is again what it was; unmapped again, the latest counts.
        #expect(driver.map(1, 0x123_0000...0x123_0fff, to: 0x7f000, flags: 1) == Status.ok)
        #expect(throws: DMAError.notPermitted) { try device.write([1], to: 0x123_0010) }
        #expect(driver.unmap(1, 0...UInt64.max) == Status.ok)
        #expect(throws: DMAError.notFound) { try device.write([1], to: 0x123_0010) }
        let faults = log.waitForFaults(3)
        if case .notPermitted(let mapping) = faults[1].cause {
            #expect(mapping.request == 5)
        } else {
            Issue.record("\(faults[1])")
        }
        if case .unmapped(let ended) = faults[2].cause {
            #expect(ended.mapping.request == 5 && ended.request == 6)
        } else {
            Issue.record("\(faults[2])")
        }
    }

    @Test func `a mapping that leads to no memory is called that`() throws {
        attach()
        #expect(driver.map(1, 0x8000...0x8fff, to: 1 << 40) == Status.ok)
        #expect(driver.map(1, 0x9000...0x9fff, to: data, flags: 7) == Status.ok)
        #expect(!device.reaches(0x8000))
        #expect(!device.reaches(0x9000))
        for fault in log.waitForFaults(2) {
            #expect(fault.description.hasPrefix("DMA to what is no guest memory: endpoint 00:04.0 read 0x"))
        }
    }

    @Test func `V55 an access to a reserved address fails and is told`() throws {
        attach()
        driver.offerEventBuffers(1)
        #expect(throws: DMAError.notFound) { try device.write([1, 0, 0, 0], to: 0xfee0_1004) }
        #expect(driver.nextEvent() == event(2, 0x102, 0xfee0_1004))
        #expect(
            log.waitForFaults(1).first?.description
                == "DMA to reserved addresses: endpoint 00:04.0 wrote 0xfee01004, reserved 0xfee00000-0xfeefffff")
    }

    @Test func `in bypass there are no faults of translation`() throws {
        #expect(driver.attach(device.id, to: 1, flags: 1) == Status.ok)
        #expect(!device.reaches(1 << 40))
        #expect(driver.attach(device.id, to: 2) == Status.ok)
        #expect(!device.reaches(0x1000))
        #expect(log.waitForFaults(1).map(\.address) == [IOVA(0x1000)])
    }

    @Test func `faults are reported before there is a driver`() throws {
        driver.reset()
        #expect(!device.reaches(0x1000))
        #expect(log.waitForFaults(1).first?.cause == .notAttached)
    }
}
