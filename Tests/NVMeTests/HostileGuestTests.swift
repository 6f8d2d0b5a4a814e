import PCI
import Randomness
import Testing

@Suite struct HostileGuestTests {
    /// A number that is near an edge as often as not.
    private func dword(_ generator: inout SeededNumbers) -> UInt32 {
        switch Int.random(in: 0..<6, using: &generator) {
        case 0: 0
        case 1: .max
        case 2: 1 << UInt32.random(in: 0..<32, using: &generator)
        case 3: UInt32.random(in: 0..<16, using: &generator)
        case 4: UInt32.random(in: 0..<16, using: &generator) << 16 | UInt32.random(in: 0..<16, using: &generator)
        default: UInt32.random(in: 0 ... .max, using: &generator)
        }
    }

    private func address(_ page: UInt64, _ generator: inout SeededNumbers) -> UInt64 {
        switch Int.random(in: 0..<8, using: &generator) {
        case 0: UInt64.random(in: 0 ... .max, using: &generator)
        case 1: .max - UInt64.random(in: 0..<8192, using: &generator)
        case 2: GuestRAM.base + UInt64(GuestRAM.byteCount) - UInt64.random(in: 0..<8192, using: &generator)
        case 3: page + UInt64.random(in: 0..<65536, using: &generator)
        default: page + UInt64.random(in: 0..<16, using: &generator) * 4096
        }
    }

    /// A command of a known opcode or any, with fields that make sense or do not.
    private func command(_ page: UInt64, isAdmin: Bool, _ generator: inout SeededNumbers) -> Command {
        let known: [UInt8] =
            isAdmin ? [0, 1, 2, 4, 5, 6, 8, 9, 10, 12] : [0, 1, 2, 5, 8, 9, 12]
        let opcode =
            Int.random(in: 0..<8, using: &generator) == 0
            ? UInt8.random(in: 0 ... .max, using: &generator) : known.randomElement(using: &generator) ?? 0
        let namespace = Int.random(in: 0..<4, using: &generator) == 0 ? dword(&generator) : isAdmin ? 0 : 1
        var command = Command(
            opcode, namespace: namespace, prp1: address(page, &generator), prp2: address(page, &generator))
        for number in 10..<16 { command.dwords[number] = dword(&generator) }
        if !isAdmin, Bool.random(using: &generator) {
            command.dwords[10] = UInt32.random(in: 0..<200_000, using: &generator)
            command.dwords[11] = 0
            command.dwords[12] = UInt32.random(in: 0..<2100, using: &generator)
        }
        if Int.random(in: 0..<16, using: &generator) == 0 { command.dwords[0] |= dword(&generator) & 0xff00 }
        return command
    }

    @Test(arguments: GuestRAM.Reach.allCases, [1, 2, 3] as [UInt64])
    func `every I/O command completes, whatever it says`(reach: GuestRAM.Reach, seed: UInt64) throws {
        var generator = SeededNumbers(seed: seed)
        let driver = try NVMeTestDriver(reach: reach)
        driver.enable()
        try driver.createPair(1)
        // Data, lists and the numbers in them come from here; the rings do not.
        let page = driver.ram.allocate(80 * 4096)
        driver.ram.write((0..<40960).map { _ in address(page, &generator) }, at: page)
        for _ in 0..<200 {
            let count = Int.random(in: 1..<32, using: &generator)
            driver.withQueue(1) { queue in
                for _ in 0..<count { driver.put(command(page, isAdmin: false, &generator), &queue) }
                driver.ring(queue)
            }
            for _ in 0..<count { _ = try driver.next(1) }
        }
        #expect(driver.status == NVMeTestDriver.ready)
    }

    @Test(arguments: GuestRAM.Reach.allCases, [4, 5, 6] as [UInt64])
    func `admin commands, doorbells and registers at random leave a controller that a reset heals`(
        reach: GuestRAM.Reach, seed: UInt64
    ) throws {
        var generator = SeededNumbers(seed: seed)
        let driver = try NVMeTestDriver(reach: reach)
        let page = driver.ram.allocate(80 * 4096)
        for _ in 0..<40 {
            driver.enable()
            try #require(driver.status == NVMeTestDriver.ready)
            for _ in 0..<60 {
                switch Int.random(in: 0..<8, using: &generator) {
                case 0:
                    let offset = 0x1000 + UInt64.random(in: 0..<140, using: &generator) * 4
                    driver.write32(dword(&generator), at: offset)
                case 1:
                    let offset = UInt64.random(in: 0..<0x1000, using: &generator) * 4
                    // The enable bit stays, so that most rounds last.
                    if offset != 0x14 { driver.write32(dword(&generator), at: offset) }
                default:
                    driver.submit(command(page, isAdmin: true, &generator))
                    _ = driver.poll()
                }
            }
            driver.disable()
            #expect(driver.status == 0)
        }
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test func `accesses of every width and offset are answered`() throws {
        var generator = SeededNumbers(seed: 7)
        let driver = try NVMeTestDriver()
        driver.enable()
        for _ in 0..<20_000 {
            let width = 1 << Int.random(in: 0..<4, using: &generator)
            let offset = UInt64.random(in: 0...(0x4000 - 8), using: &generator)
            if Bool.random(using: &generator) {
                _ = driver.read64(offset, byteCount: width)
            } else {
                let bytes = (0..<width).map { _ in UInt8.random(in: 0 ... .max, using: &generator) }
                driver.write(bytes, at: offset)
            }
        }
        driver.write32(0, at: 0x14)
        driver.wait { driver.status & NVMeTestDriver.ready == 0 }
        driver.function.reset()
        driver.setBusMaster(true)
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }
}
