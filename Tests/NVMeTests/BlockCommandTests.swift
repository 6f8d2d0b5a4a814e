import BlockStorage
import Testing

@Suite struct BlockCommandTests {
    private func started(_ store: TestStore? = nil) throws -> NVMeTestDriver {
        let driver = try NVMeTestDriver(store: store)
        driver.enable()
        try driver.createPair(1)
        return driver
    }

    private let ones = [UInt8](repeating: 0xff, count: 1 << 20)

    @Test func `flush makes the store durable, for one namespace or all`() throws {
        let driver = try started()
        let before = driver.store.flushes
        #expect(try driver.run(Command(Opcode.flush, namespace: 1), on: 1).status == 0)
        #expect(try driver.run(Command(Opcode.flush, namespace: .max), on: 1).status == 0)
        #expect(driver.store.flushes == before + 2)
    }

    @Test(arguments: [0, 2, 0xffff_fffe, .max] as [UInt32])
    func `a namespace that is not there is refused`(namespace: UInt32) throws {
        let driver = try started()
        let page = driver.ram.allocate(4096)
        for opcode in [
            Opcode.read, Opcode.write, Opcode.compare, Opcode.writeZeroes, Opcode.verify, Opcode.datasetManagement,
        ] {
            let end = try driver.run(Command(opcode, namespace: namespace, prp1: page), on: 1)
            #expect(end.status == 0x00b)
        }
        if namespace != .max {
            #expect(try driver.run(Command(Opcode.flush, namespace: namespace), on: 1).status == 0x00b)
        }
    }

    @Test(arguments: [0x03, 0x04, 0x0a, 0x0d, 0x19, 0x7f, 0x80, 0xff] as [UInt8])
    func `an opcode that is not there is refused`(opcode: UInt8) throws {
        let driver = try started()
        #expect(try driver.run(Command(opcode, namespace: 1), on: 1).status == 0x001)
        #expect(try driver.run(Command(opcode == 0x0a || opcode == 0x0d ? 0x7e : opcode | 0x80)).status == 0x001)
    }

    @Test func `fused commands and scatter-gather lists are refused`() throws {
        let driver = try started()
        for flags in [1 << 8, 1 << 9, 1 << 14, 1 << 15] as [UInt32] {
            var command = Command.blocks(Opcode.verify, 0, 1)
            command.dwords[0] |= flags
            #expect(try driver.run(command, on: 1).status == 0x002)
        }
    }

    @Test func `a write with force unit access is durable before it completes`() throws {
        let driver = try started()
        let page = driver.ram.allocate(4096)
        let before = driver.store.flushes
        #expect(try driver.run(.blocks(Opcode.write, 0, 1, prp1: page), on: 1).status == 0)
        #expect(driver.store.flushes == before)
        #expect(try driver.run(.blocks(Opcode.write, 0, 1, prp1: page, flags: 1 << 30), on: 1).status == 0)
        #expect(try driver.run(.blocks(Opcode.writeZeroes, 0, 1, flags: 1 << 30), on: 1).status == 0)
        #expect(driver.store.flushes == before + 2)
    }

    @Test func `what force unit access reads is durable before it is told`() throws {
        let driver = try started()
        let page = driver.ram.allocate(4096)
        let before = driver.store.flushes
        for (number, opcode) in [Opcode.read, Opcode.compare, Opcode.verify].enumerated() {
            #expect(try driver.run(.blocks(opcode, 0, 1, prp1: page), on: 1).status == 0)
            #expect(driver.store.flushes == before + number)
            #expect(try driver.run(.blocks(opcode, 0, 1, prp1: page, flags: 1 << 30), on: 1).status == 0)
            #expect(driver.store.flushes == before + number + 1)
        }
        // A disk that cannot keep what it has cannot tell it in this way either.
        driver.store.failFlushes()
        #expect(try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1).status == 0)
        #expect(try driver.run(.blocks(Opcode.read, 0, 1, prp1: page, flags: 1 << 30), on: 1).status == 0x280)
    }

    @Test func `without the write cache every write is durable before it completes`() throws {
        let driver = try started()
        let page = driver.ram.allocate(4096)
        driver.ram.write([0, 0, 0, 0, 1, 0, 0, 0] + [UInt8](repeating: 0, count: 8), at: page)
        let before = driver.store.flushes
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 6, 11: 0])).status == 0)
        #expect(driver.store.flushes == before + 1, "what the cache held")
        #expect(try driver.run(.blocks(Opcode.write, 0, 1, prp1: page), on: 1).status == 0)
        #expect(try driver.run(.blocks(Opcode.writeZeroes, 0, 1), on: 1).status == 0)
        #expect(
            try driver.run(Command(Opcode.datasetManagement, namespace: 1, prp1: page, [10: 0, 11: 4]), on: 1).status
                == 0)
        #expect(driver.store.flushes == before + 4)
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 6, 11: 1])).status == 0)
        #expect(try driver.run(.blocks(Opcode.write, 0, 1, prp1: page), on: 1).status == 0)
        #expect(driver.store.flushes == before + 4)
    }

    @Test func `compare tells equal from different`() throws {
        let driver = try started()
        let page = driver.ram.allocate(8192)
        let bytes = (0..<8192).map { UInt8(truncatingIfNeeded: $0 % 253) }
        try driver.store.put(bytes, at: 10)
        driver.ram.write(bytes, at: page)
        let command = Command.blocks(Opcode.compare, 10, 16, prp1: page, prp2: page + 4096)
        #expect(try driver.run(command, on: 1).status == 0)
        driver.ram.write([bytes[8191] ^ 1], at: page + 8191)
        let end = try driver.run(command, on: 1)
        #expect(end.status == 0x285)
        #expect(end.isFinal)
    }

    @Test func `verify reads what it is told to, up to the most a command can say`() throws {
        let driver = try started()
        #expect(try driver.run(.blocks(Opcode.verify, 0, 65536), on: 1).status == 0)
    }

    @Test(arguments: [0, 1 << 25] as [UInt32])
    func `write zeroes clears its blocks and no others`(flags: UInt32) throws {
        let driver = try started()
        try driver.store.put(ones, at: 0)
        #expect(try driver.run(.blocks(Opcode.writeZeroes, 1, 1000, flags: flags), on: 1).status == 0)
        #expect(try driver.store.contents(0) == Array(ones.prefix(512)))
        #expect(try driver.store.contents(1, 1000) == [UInt8](repeating: 0, count: 512_000))
        #expect(try driver.store.contents(1001) == Array(ones.prefix(512)))
    }

    @Test(arguments: GuestRAM.Reach.allCases)
    func `deallocate gives the storage of its ranges back`(reach: GuestRAM.Reach) throws {
        let driver = try NVMeTestDriver(reach: reach)
        driver.enable()
        try driver.createPair(1)
        try driver.store.put(ones, at: 0)
        let before = try driver.store.allocatedBytes
        // The list itself lies across two pages.
        let pages = driver.ram.allocate(8192)
        let list = pages + 4096 - 16
        driver.ram.write([0, 512, 8, 0, 0, 256, 1024, 0] as [UInt32], at: list)
        let command = Command(Opcode.datasetManagement, namespace: 1, prp1: list, prp2: pages + 4096, [10: 1, 11: 4])
        #expect(try driver.run(command, on: 1).status == 0)
        #expect(try driver.store.contents(7) == Array(ones.prefix(512)))
        #expect(try driver.store.contents(8, 512) == [UInt8](repeating: 0, count: 512 * 512))
        #expect(try driver.store.contents(520) == Array(ones.prefix(512)))
        #expect(try driver.store.contents(1024, 256) == [UInt8](repeating: 0, count: 256 * 512))
        #expect(try driver.store.allocatedBytes <= before - 768 * 512 + 8192)
    }

    @Test func `hints without deallocation change nothing`() throws {
        let driver = try started()
        try driver.store.put(ones, at: 0)
        let page = driver.ram.allocate(4096)
        driver.ram.write([0, 512, 8, 0] as [UInt32], at: page)
        let command = Command(Opcode.datasetManagement, namespace: 1, prp1: page, [10: 0, 11: 3])
        #expect(try driver.run(command, on: 1).status == 0)
        #expect(try driver.store.contents(8) == Array(ones.prefix(512)))
    }

    @Test func `one bad range deallocates none`() throws {
        let driver = try started()
        try driver.store.put(ones, at: 0)
        let page = driver.ram.allocate(4096)
        driver.ram.write([0, 512, 8, 0, 0, 1, .max, .max] as [UInt32], at: page)
        let command = Command(Opcode.datasetManagement, namespace: 1, prp1: page, [10: 1, 11: 4])
        #expect(try driver.run(command, on: 1).status == 0x080)
        #expect(try driver.store.contents(8) == Array(ones.prefix(512)))
    }

    @Test func `a read-only namespace refuses what would change it`() throws {
        let driver = try started(TestStore(isReadOnly: true))
        let page = driver.ram.allocate(4096)
        driver.ram.write([0, 512, 8, 0] as [UInt32], at: page)
        for command in [
            .blocks(Opcode.write, 0, 1, prp1: page), .blocks(Opcode.writeZeroes, 0, 1),
            Command(Opcode.datasetManagement, namespace: 1, prp1: page, [10: 0, 11: 4]),
        ] {
            let end = try driver.run(command, on: 1)
            #expect(end.status == 0x020)
            #expect(end.isFinal)
        }
        #expect(try driver.run(.blocks(Opcode.read, 0, 1, prp1: page), on: 1).status == 0)
        #expect(try driver.run(Command(Opcode.flush, namespace: 1), on: 1).status == 0)
        #expect(try driver.run(Command(Opcode.identify, namespace: 1, prp1: page, [10: 0])).status == 0)
        #expect(driver.ram.read(page + 99, 1) == [1])
        #expect(try driver.run(Command(Opcode.identify, namespace: 1, prp1: page, [10: 8])).status == 0)
        #expect(driver.ram.read(page + 8, 1) == [1])
    }

    @Test func `commands overlap, and a flush does not hold up a read`() throws {
        let driver = try started()
        let page = driver.ram.allocate(8192)
        driver.store.hold()
        driver.submit(.blocks(Opcode.write, 0, 1, prp1: page), to: 1)
        driver.submit(.blocks(Opcode.read, 8, 1, prp1: page + 4096), to: 1)
        driver.store.waitUntilHeld(2)
        let flush = driver.submit(Command(Opcode.flush, namespace: 1), to: 1)
        #expect(try driver.next(1).command == flush, "two transfers are held and the flush overtakes them")
        driver.store.letGo()
        #expect(try Set([driver.next(1).command, driver.next(1).command]) == [0, 1])
    }
}
