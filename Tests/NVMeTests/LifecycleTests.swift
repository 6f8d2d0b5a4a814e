import Testing

@Suite struct LifecycleTests {
    @Test func `the registers say what the controller is`() throws {
        let driver = try NVMeTestDriver()
        let capabilities = driver.read64(0)
        #expect(capabilities & 0xffff == 1023)
        #expect(capabilities >> 16 & 1 == 1, "contiguous queues required")
        #expect(capabilities >> 37 & 0xff == 1, "the NVM command set alone")
        #expect(capabilities >> 48 & 0xf == 0, "pages of 4 KiB at least")
        #expect(capabilities >> 59 & 0b11 == 0b01, "ready with media")
        #expect(driver.read32(8) == 0x0002_0000)
        #expect(driver.status == 0)
        #expect(driver.read32(0x68) & 0xffff >= UInt32(capabilities >> 24 & 0xff))
    }

    @Test func `read-only registers and reserved bits hold`() throws {
        let driver = try NVMeTestDriver()
        let before = driver.read64(0)
        for offset in stride(from: UInt64(0), to: 0x100, by: 8) where offset != 0x10 {
            driver.write64(.max, at: offset)
        }
        #expect(driver.read64(0) == before)
        #expect(driver.read32(8) == 0x0002_0000)
        #expect(driver.read32(0x24) == 0x0fff_0fff)
        #expect(driver.read64(0x28) == ~0xfff)
        #expect(driver.read64(0x38) == 0)
    }

    @Test func `enable, ready, disable, not ready, and again`() throws {
        let driver = try NVMeTestDriver()
        for _ in 0..<3 {
            driver.enable()
            #expect(driver.status == NVMeTestDriver.ready)
            #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
            driver.disable()
            #expect(driver.status == 0)
        }
    }

    @Test(arguments: [0, 1, 2, 3]) func `an enable that makes no sense is fatal, and a reset heals it`(variant: Int)
        throws
    {
        let driver = try NVMeTestDriver()
        driver.startEnabling()
        driver.disable()
        switch variant {
        case 0: driver.write32(0x0000_0000, at: 0x24)
        case 1:
            driver.write32(0x0fff_0fff, at: 0x24)
            driver.write64(.max, at: 0x28)
        default: break
        }
        // A page size that is too large; a command set that is not there.
        let configuration: UInt32 = variant == 2 ? 1 | 15 << 7 : variant == 3 ? 1 | 6 << 4 : 1
        driver.write32(configuration, at: 0x14)
        #expect(driver.status == NVMeTestDriver.fatal)
        driver.disable()
        #expect(driver.status == 0)
        driver.enable()
        #expect(driver.status == NVMeTestDriver.ready)
    }

    @Test func `an admin queue outside memory is fatal when it is used`() throws {
        let driver = try NVMeTestDriver()
        driver.write32(0x001f_001f, at: 0x24)
        driver.write64(0x4000_0000_0000, at: 0x28)
        driver.write64(driver.admin.completionBase, at: 0x30)
        driver.write32(0x0046_0001, at: 0x14)
        #expect(driver.status == NVMeTestDriver.ready)
        driver.write32(1, at: 0x1000)
        driver.wait { driver.status == NVMeTestDriver.ready | NVMeTestDriver.fatal }
        driver.disable()
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test func `a completion queue outside memory is fatal when it is used`() throws {
        let driver = try NVMeTestDriver()
        driver.write32(0x001f_001f, at: 0x24)
        driver.write64(driver.admin.submissionBase, at: 0x28)
        driver.write64(0x4000_0000_0000, at: 0x30)
        driver.write32(0x0046_0001, at: 0x14)
        driver.submit(Command(Opcode.getFeatures, [10: 7]))
        driver.wait { driver.status == NVMeTestDriver.ready | NVMeTestDriver.fatal }
    }

    @Test func `nothing is fetched while the function is no bus master`() throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        driver.setBusMaster(false)
        driver.submit(Command(Opcode.getFeatures, [10: 7]))
        #expect(driver.poll() == nil)
        #expect(driver.status == NVMeTestDriver.ready)
        driver.setBusMaster(true)
        #expect(try driver.next().status == 0)
    }

    @Test(arguments: [1, 2] as [UInt32]) func `a shutdown flushes and says when it is done`(kind: UInt32) throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        let before = driver.store.flushes
        driver.write32(driver.read32(0x14) | kind << 14, at: 0x14)
        driver.wait { driver.status >> 2 & 0b11 == 0b10 }
        #expect(driver.store.flushes == before + 1)
        driver.disable()
        driver.enable()
        #expect(driver.status == NVMeTestDriver.ready)
    }

    @Test func `a controller that was never enabled shuts down, too`() throws {
        let driver = try NVMeTestDriver()
        driver.write32(1 << 14, at: 0x14)
        driver.wait { driver.status >> 2 & 0b11 == 0b10 }
    }

    @Test func `doorbells of a controller that is not enabled do nothing`() throws {
        let driver = try NVMeTestDriver()
        for offset in stride(from: UInt64(0x1000), to: 0x2000, by: 4) { driver.write32(5, at: offset) }
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test func `dropping a controller that was never used ends its threads`() throws {
        for _ in 0..<20 { _ = try NVMeTestDriver() }
    }
}
