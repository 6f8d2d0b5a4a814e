import DMA
import LinuxHost
import PCI
import Testing

@Suite struct ResetTests {
    private func started(_ reach: GuestRAM.Reach = .shared) throws -> (NVMeTestDriver, page: UInt64) {
        let driver = try NVMeTestDriver(reach: reach)
        driver.enable()
        try driver.createPair(1)
        return (driver, driver.ram.allocate(4096))
    }

    @Test(arguments: GuestRAM.Reach.allCases)
    func `a disabled controller is ready until its last command has ended, which completes nowhere`(
        reach: GuestRAM.Reach
    ) throws {
        let (driver, page) = try started(reach)
        driver.store.hold()
        driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        driver.write32(0, at: 0x14)
        #expect(driver.status == NVMeTestDriver.ready)
        driver.store.letGo()
        driver.wait { driver.status == 0 }
        #expect(driver.poll(1) == nil)
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test func `a controller that is enabled too soon becomes ready when its old commands have ended`() throws {
        let (driver, page) = try started()
        driver.store.hold()
        driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        driver.write32(0, at: 0x14)
        driver.startEnabling()
        #expect(driver.status == 0)
        driver.submit(Command(Opcode.getFeatures, [10: 7]))
        driver.store.letGo()
        driver.wait { driver.status == NVMeTestDriver.ready }
        #expect(driver.poll() == nil, "a doorbell before the controller is ready is none")
        driver.ring(driver.admin)
        #expect(try driver.next().status == 0)
    }

    @Test func `after a reset, memory is not written on account of earlier commands`() throws {
        let (driver, page) = try started(.messages)
        try driver.store.put([UInt8](repeating: 0xaa, count: 512), at: 0)
        driver.store.hold()
        driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        driver.function.reset()
        #expect(driver.status == 0)
        driver.store.letGo()
        driver.wait { !driver.isExecuting }
        #expect(driver.ram.read(page, 512) == [UInt8](repeating: 0, count: 512))
        driver.setBusMaster(true)
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test func `a function-level reset waits for commands that hold guest memory`() throws {
        let (driver, page) = try started()
        driver.store.hold()
        driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        let isReset = Monitor(false)
        let function = driver.function
        let thread = try OSThread(name: "reset") {
            function.reset()
            isReset.update { $0 = true }
        }
        driver.store.letGo()
        thread.join()
        #expect(isReset.withLock { $0 })
        #expect(!driver.isExecuting || driver.poll(1) == nil)
        #expect(driver.read64(0x28) == 0, "registers are back at their reset values")
        #expect(driver.read32(0x14) == 0)
    }

    @Test func `memory can be unmapped while commands run, which then fail`() throws {
        let (driver, page) = try started()
        let far = try MemoryObject.anonymous(byteCount: 4096)
        let address = IOVA(0x8000_0000)
        for round in 0..<200 {
            try driver.ram.space.map(.file(far, offset: 0), at: address, byteCount: 4096, rights: [.read, .write])
            driver.submit(.blocks(Opcode.read, UInt64(round), 8, prp1: address.rawValue), to: 1)
            if round % 2 == 0 { for _ in 0..<(round * 10) { _ = driver.status } }
            try driver.ram.space.unmap(IOVARange(first: address, byteCount: 4096))
            let status = try driver.next(1).status
            #expect(status == 0 || status == 0x004)
        }
        #expect(try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1).status == 0)
    }

    @Test func `resets and commands in every order leave a controller that works`() throws {
        let (driver, page) = try started(.mixed)
        for round in 0..<100 {
            for number in 0..<8 { driver.submit(.blocks(Opcode.read, UInt64(number), 8, prp1: page), to: 1) }
            for _ in 0..<(round % 10 * 20) { _ = driver.status }
            if round % 3 == 0 {
                driver.function.reset()
                driver.setBusMaster(true)
            } else {
                driver.disable()
            }
            driver.enable()
            #expect(driver.status == NVMeTestDriver.ready)
            try driver.createPair(1, entries: 16)
            #expect(try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1).status == 0)
        }
    }
}
