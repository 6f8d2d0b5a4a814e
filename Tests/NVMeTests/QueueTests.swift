import DeviceModel
import LinuxHost
import NVMe
import PCI
import Testing

@Suite struct QueueTests {
    private func started(
        adminEntries: Int = 32, options: (inout NVMeController.Options) -> Void = { _ in }
    ) throws -> (NVMeTestDriver, page: UInt64) {
        let driver = try NVMeTestDriver(options: options, adminEntries: adminEntries)
        driver.enable()
        return (driver, driver.ram.allocate(4096))
    }

    private func size(_ entries: Int, _ id: Int) -> UInt32 { UInt32(entries - 1) << 16 | UInt32(id) }

    @Test func `completion queues that cannot be are refused`() throws {
        let (driver, page) = try started { $0.queuePairs = 4 }
        func create(_ sizeAndID: UInt32, flags: UInt32 = 0b11, vector: UInt32 = 0, at base: UInt64? = nil) throws
            -> UInt16
        {
            try driver.run(Command(0x05, prp1: base ?? page, [10: sizeAndID, 11: flags | vector << 16])).status
        }
        #expect(try create(size(8, 0)) == 0x101)
        #expect(try create(size(8, 5)) == 0x101)
        #expect(try create(size(8, 65535)) == 0x101)
        #expect(try create(size(1, 1)) == 0x102)
        #expect(try create(size(1025, 1)) == 0x102)
        #expect(try create(size(65536, 1)) == 0x102)
        #expect(try create(size(8, 1), flags: 0b10) == 0x002, "scattered")
        #expect(try create(size(8, 1), vector: 5) == 0x108)
        #expect(try create(size(8, 1), vector: 65535) == 0x108)
        #expect(try create(size(8, 1), at: page + 16) == 0x013)
        #expect(try create(size(1024, 1), at: .max - 4095) == 0x002, "past the top of the address space")
        #expect(try create(size(1024, 1)) == 0)
        #expect(try create(size(8, 1)) == 0x101, "it exists")
    }

    @Test func `submission queues that cannot be are refused`() throws {
        let (driver, page) = try started { $0.queuePairs = 4 }
        #expect(try driver.run(Command(0x05, prp1: page, [10: size(8, 2), 11: 0b11])).status == 0)
        func create(_ sizeAndID: UInt32, flags: UInt32 = 1, completion: UInt32 = 2, at base: UInt64? = nil) throws
            -> UInt16
        {
            try driver.run(Command(0x01, prp1: base ?? page, [10: sizeAndID, 11: flags | completion << 16])).status
        }
        #expect(try create(size(8, 0)) == 0x101)
        #expect(try create(size(8, 5)) == 0x101)
        #expect(try create(size(8, 1), completion: 0) == 0x101)
        #expect(try create(size(8, 1), completion: 5) == 0x101)
        #expect(try create(size(8, 1), completion: 1) == 0x100)
        #expect(try create(size(1, 1)) == 0x102)
        #expect(try create(size(1025, 1)) == 0x102)
        #expect(try create(size(8, 1), flags: 0) == 0x002)
        #expect(try create(size(8, 1), at: page + 64) == 0x013)
        #expect(try create(size(8, 1)) == 0)
        #expect(try create(size(8, 1)) == 0x101)
    }

    @Test(arguments: [0, 7 << 16 | 4 << 20, 6 << 16 | 5 << 20] as [UInt32])
    func `entry sizes count when a queue is made, not when the controller is enabled`(wrong: UInt32) throws {
        let driver = try NVMeTestDriver()
        driver.enable(entrySizes: wrong)
        let page = driver.ram.allocate(4096)
        #expect(try driver.run(Command(0x05, prp1: page, [10: size(8, 1), 11: 0b11])).status == 0x102)
        driver.write32(1 | NVMeTestDriver.entrySizes, at: 0x14)
        try driver.createPair(1)
        driver.write32(1 | wrong, at: 0x14)
        #expect(try driver.run(Command(0x05, prp1: page, [10: size(8, 2), 11: 0b11])).status == 0x102)
    }

    @Test func `queues are deleted in order, and can be made again`() throws {
        let (driver, _) = try started()
        #expect(try driver.run(Command(0x00, [10: 1])).status == 0x101)
        #expect(try driver.run(Command(0x04, [10: 1])).status == 0x101)
        #expect(try driver.run(Command(0x00, [10: 0])).status == 0x101)
        #expect(try driver.run(Command(0x04, [10: 0])).status == 0x101)
        #expect(try driver.run(Command(0x00, [10: 65535])).status == 0x101)
        for _ in 0..<3 {
            try driver.createPair(1)
            #expect(try driver.run(Command(Opcode.flush, namespace: 1), on: 1).status == 0)
            #expect(try driver.run(Command(0x04, [10: 1])).status == 0x10c, "commands still come to it")
            #expect(try driver.run(Command(0x00, [10: 1])).status == 0)
            #expect(try driver.run(Command(0x04, [10: 1])).status == 0)
        }
    }

    @Test func `a queue is gone when its last command has completed`() throws {
        let (driver, page) = try started()
        try driver.createPair(1)
        driver.store.hold()
        driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        // The two deletions are executed side by side: one of them finds that the other was there first.
        let deletions = Set((0..<2).map { _ in driver.submit(Command(0x00, [10: 1])) })
        let refused = try driver.next()
        #expect(refused.status == 0x101, "it is being deleted")
        #expect(driver.poll() == nil && driver.poll(1) == nil)
        driver.store.letGo()
        let end = try driver.next()
        #expect(end.status == 0)
        #expect(Set([refused.command, end.command]) == deletions)
        #expect(driver.poll(1)?.status == 0, "the command completed first")
    }

    @Test func `sixty-four pairs work side by side`() throws {
        let (driver, page) = try started()
        for id in 1...64 { try driver.createPair(UInt16(id), entries: 8) }
        for round in 0..<6 {
            for id in 1...64 { driver.submit(.blocks(Opcode.read, UInt64(round), 1, prp1: page), to: UInt16(id)) }
        }
        for id in 1...64 { for _ in 0..<6 { #expect(try driver.next(UInt16(id)).status == 0) } }
    }

    @Test func `a full completion queue holds commands back and loses none`() throws {
        let (driver, page) = try started()
        try driver.createPair(1, entries: 64, completionEntries: 4)
        for number in 0..<60 { driver.submit(.blocks(Opcode.read, UInt64(number), 1, prp1: page), to: 1) }
        var seen: Set<UInt16> = []
        while seen.count < 60 {
            // Three completions fit; they are acknowledged together.
            var batch: [NVMeTestDriver.Completion] = []
            while batch.count < min(3, 60 - seen.count) { batch.append(try driver.next(1, acknowledging: false)) }
            #expect(driver.poll(1, acknowledging: false) == nil)
            for completion in batch { #expect(completion.status == 0 && seen.insert(completion.command).inserted) }
            driver.withQueue(1) { driver.acknowledge($0) }
        }
    }

    @Test(arguments: [1, 4]) func `a slow disk does not hold up admin commands`(workers: Int) throws {
        let (driver, page) = try started { $0.workers = workers }
        try driver.createPair(1)
        driver.store.hold()
        let count = workers + 3
        for _ in 0..<count { driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1) }
        driver.store.waitUntilHeld(workers)
        for _ in 0..<3 { #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0) }
        let deletion = driver.submit(Command(0x00, [10: 1]))
        #expect(try driver.run(Command(Opcode.abort, [10: 1])).result == 1)
        #expect(driver.poll(1) == nil, "no more is executed at a time than the options say")
        driver.store.letGo()
        #expect(try driver.next().command == deletion)
    }

    @Test func `rings wrap many times with every slot in use`() throws {
        let (driver, page) = try started()
        try driver.createPair(1, entries: 8)
        for round in 0..<100 {
            driver.withQueue(1) { queue in
                for _ in 0..<7 { driver.put(.blocks(Opcode.read, UInt64(round), 1, prp1: page), &queue) }
                driver.ring(queue)
            }
            var commands: Set<UInt16> = []
            for _ in 0..<7 { commands.insert(try driver.next(1).command) }
            #expect(commands == Set((0..<7).map { UInt16(round * 7 + $0) }))
        }
    }

    @Test func `the submission queue head tells which slots are free`() throws {
        let (driver, page) = try started()
        try driver.createPair(1, entries: 16)
        for number in 1...40 {
            let end = try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1)
            #expect(end.submissionQueueHead == UInt16(number % 16))
        }
    }

    @Test func `several submission queues share a completion queue`() throws {
        let (driver, page) = try started()
        try driver.createPair(1)
        let base = driver.ram.allocate(64 * 64)
        #expect(try driver.run(Command(0x01, prp1: base, [10: size(64, 2), 11: 1 << 16 | 1])).status == 0)
        var second = try #require(driver.queues[1])
        second = NVMeTestDriver.Queue(
            id: 2, submissionBase: base, completionBase: second.completionBase, submissionEntries: 64,
            completionEntries: 64)
        driver.submit(.blocks(Opcode.read, 0, 1, prp1: page), to: 1)
        driver.put(.blocks(Opcode.read, 0, 1, prp1: page), &second)
        driver.ring(second)
        let queues = try Set([driver.next(1).submissionQueue, driver.next(1).submissionQueue])
        #expect(queues == [1, 2])
    }

    @Test(
        arguments: [
            (0x1008, 64, 1), (0x1008, 65535, 1), (0x1008, 0x1_0000, 1), (0x100c, 64, 1), (0x100c, 1, 1),
            (0x1000, 32, 1), (0x1004, 5, 1), (0x1010, 0, 0), (0x1014, 0, 0), (0x1fff & ~3, 1, 0),
        ] as [(UInt64, UInt32, UInt32)])
    func `a doorbell that makes no sense is an event and nothing else`(
        offset: UInt64, value: UInt32, information: UInt32
    ) throws {
        let (driver, page) = try started()
        try driver.createPair(1)
        let request = driver.submit(Command(Opcode.eventRequest))
        driver.write32(value, at: offset)
        let event = try driver.next()
        #expect(event.command == request && event.status == 0)
        #expect(event.result == information << 8 | 1 << 16, "an error event, told in log page 1")
        #expect(try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1).status == 0)
        #expect(try driver.run(Command(Opcode.getLogPage, prp1: page, [10: 1 | 15 << 16])).status == 0)
        #expect(driver.ram.read(page, 1) == [1], "the first entry of the error log")
    }

    @Test func `each pair interrupts by its vector, the admin queue by the first`() throws {
        let (driver, page) = try started()
        let counters = try (0..<65).map { _ in try EventCounter() }
        driver.function.interrupts.connect(.msix, from: 0, to: counters)
        // Enable MSI-X and unmask the vectors where we keep the table, as a guest would.
        let capability = try #require(driver.capability(0x11))
        driver.function.writeRegion(7, at: capability + 2, from: ([0x00, 0x80] as [UInt8]).span)
        for vector in 0..<65 { driver.write32(0, at: 0x2000 + UInt64(vector * 16) + 12) }
        try driver.createPair(1)
        try driver.createPair(3)
        driver.wait { counters[0].drain() > 0 }
        for counter in counters { counter.drain() }
        _ = try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 3)
        driver.wait { counters[3].drain() > 0 }
        #expect(counters[1].drain() == 0)
        _ = try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1)
        driver.wait { counters[1].drain() > 0 }
        #expect(counters[3].drain() == 0)
    }

    @Test func `without messages the line is up while completions wait`() throws {
        let (driver, _) = try started()
        let line = try EventCounter()
        driver.function.interrupts.connect(.intx, from: 0, to: [line])
        driver.submit(Command(Opcode.getFeatures, [10: 7]))
        driver.wait { line.drain() > 0 }
        driver.function.interrupts.unmask(.intx, 0)
        #expect(line.drain() == 1, "still up: nobody has acknowledged")
        driver.write32(1, at: 0x0c)
        driver.function.interrupts.unmask(.intx, 0)
        #expect(line.drain() == 0, "masked by register")
        #expect(driver.read32(0x0c) == 1 && driver.read32(0x10) == 1)
        driver.write32(1, at: 0x10)
        #expect(line.drain() == 1)
        #expect(try driver.next().status == 0)
        driver.function.interrupts.unmask(.intx, 0)
        #expect(line.drain() == 0)
    }
}

extension NVMeTestDriver {
    /// Where a capability begins in configuration space.
    fileprivate func capability(_ id: UInt8) -> UInt64? {
        var bytes = [UInt8](repeating: 0, count: 256)
        var span = bytes.mutableSpan
        function.readRegion(7, at: 0, into: &span)
        var offset = Int(bytes[0x34])
        while offset >= 0x40 {
            if bytes[offset] == id { return UInt64(offset) }
            offset = Int(bytes[offset + 1])
        }
        return nil
    }
}
