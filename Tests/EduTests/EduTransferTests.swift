import DMA
import DeviceModel
import Edu
import LinuxHost
import PCI
import Randomness
import Testing

@Suite struct `Edu transfers` {
    let driver: EduDriver
    private let pattern = (0..<4096).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }

    init() throws {
        driver = try EduDriver()
        driver[0..<4096] = pattern
    }

    /// What the device's memory holds, fetched by the device itself.
    private func deviceBytes() -> [UInt8] {
        driver.transfer(from: deviceMemory, to: 0x8000, count: 4096, command: Command.fromDevice)
        return driver[0x8000..<0x9000]
    }

    @Test func `bytes go to the device and come back`() {
        driver.transfer(from: 0, to: deviceMemory, count: 100, command: Command.toDevice)
        driver.transfer(from: deviceMemory, to: 0x2000, count: 100, command: Command.fromDevice)
        #expect(driver[0x2000..<0x2064] == Array(pattern[..<100]))
        #expect(driver[0x2064..<0x2100].allSatisfy { $0 == 0 })
    }

    @Test(arguments: [(0, 4096), (1, 4095), (4095, 1), (17, 1000)])
    func `any part of the device's memory can be meant`(offset: Int, count: Int) {
        driver.transfer(from: 5, to: deviceMemory + UInt64(offset), count: UInt64(count), command: Command.toDevice)
        var expected = [UInt8](repeating: 0, count: 4096)
        let sent = Array((pattern + [0, 0, 0, 0, 0])[5..<5 + count])
        expected.replaceSubrange(offset..<offset + count, with: sent)
        #expect(deviceBytes() == expected)
    }

    @Test(arguments: [InterruptKind.intx, .msi])
    func `the end of a transfer interrupts only who asked for it`(kind: InterruptKind) throws {
        let counter = try driver.connect(kind)
        driver.transfer(from: 0, to: deviceMemory, count: 8, command: Command.toDevice)
        #expect(counter.drain() == 0)
        #expect(driver.read(0x24) == 0)
        driver.transfer(from: 0, to: deviceMemory, count: 8, command: Command.toDevice | Command.raiseInterrupt)
        #expect(counter.drain() == 1)
        #expect(driver.read(0x24) == 0x100)
        #expect(driver.read(0x98) == 4)
    }

    @Test func `a command that does not start changes nothing`() {
        driver.startTransfer(from: 0, to: deviceMemory, count: 8, command: Command.raiseInterrupt)
        #expect(driver.read(0x98, 8) == 0)
        #expect(driver.read(0x24) == 0)
    }

    @Test(
        arguments: [
            (deviceMemory - 1, 1), (deviceMemory - 1, 2), (deviceMemory, 4097), (deviceMemory + 4095, 2),
            (deviceMemory + 4096, 1), (0, 16), (deviceMemory, .max), (.max, 1), (.max, .max),
            (deviceMemory, 1 << 63), (deviceMemory + 1, UInt64.max - deviceMemory), (0x4_0000_0004_0000, 4),
        ] as [(UInt64, UInt64)], [Command.toDevice, Command.fromDevice])
    func `a range that is not all in the device's memory moves nothing and ends`(
        range: (place: UInt64, count: UInt64), command: UInt64
    ) throws {
        let counter = try driver.connect(.msi)
        let before = driver[0..<0x10000]
        let isFromDevice = command == Command.fromDevice
        driver.transfer(
            from: isFromDevice ? range.place : 0, to: isFromDevice ? 0x4000 : range.place, count: range.count,
            command: command | Command.raiseInterrupt)
        #expect(counter.drain() == 1)
        #expect(driver[0..<0x10000] == before)
        #expect(deviceBytes().allSatisfy { $0 == 0 })
    }

    @Test(arguments: [Command.toDevice, Command.fromDevice])
    func `no bytes are a transfer too`(command: UInt64) throws {
        let counter = try driver.connect(.msi)
        driver.transfer(from: 0, to: 0, count: 0, command: command | Command.raiseInterrupt)
        driver.transfer(from: deviceMemory, to: deviceMemory, count: 0, command: command | Command.raiseInterrupt)
        #expect(counter.drain() == 2)
    }

    @Test(arguments: [0x10000, 0xffff, 0xfff_ffff, 0x800_0000] as [UInt64], [Command.toDevice, Command.fromDevice])
    func `guest memory that is not there moves nothing into the device, and the transfer ends`(
        address: UInt64, command: UInt64
    ) throws {
        let counter = try driver.connect(.msi)
        let isFromDevice = command == Command.fromDevice
        driver.transfer(
            from: isFromDevice ? deviceMemory : address, to: isFromDevice ? address : deviceMemory, count: 64,
            command: command | Command.raiseInterrupt)
        #expect(counter.drain() == 1)
        #expect(deviceBytes().allSatisfy { $0 == 0 })
    }

    @Test func `S104 without the bus master bit nothing moves`() {
        driver.configure(0x04, 2, 0)
        driver.transfer(from: 0, to: deviceMemory, count: 16, command: Command.toDevice)
        driver.configure(0x04, 2, 4)
        #expect(deviceBytes().allSatisfy { $0 == 0 })
    }

    @Test func `with 28 bits the upper bits of a guest address are ignored`() {
        driver.transfer(from: 0xffff_ffff_f000_0010, to: deviceMemory, count: 8, command: Command.toDevice)
        driver.transfer(from: deviceMemory, to: 0x1_1000_3000, count: 8, command: Command.fromDevice)
        #expect(driver[0x3000..<0x3008] == Array(pattern[0x10..<0x18]))
    }

    @Test(arguments: [12, 28, 32, 64])
    func `the mask has as many bits as asked for`(bits: Int) throws {
        let driver = try EduDriver(dmaMaskBits: bits)
        let high = IOVA(1 << 40)
        let far = try MemoryObject.anonymous(byteCount: 4096)
        try driver.space.map(.file(far, offset: 0), at: high, byteCount: 4096, rights: [.read, .write])
        unsafe far.bytes[8] = 0xee
        driver[8..<9] = [0x11]
        driver.transfer(from: 1 << 40 + 8, to: deviceMemory, count: 1, command: Command.toDevice)
        driver.transfer(from: deviceMemory, to: 0x80, count: 1, command: Command.fromDevice)
        #expect(driver[0x80..<0x81] == [bits == 64 ? 0xee : 0x11])
    }

    @Test func `with 64 bits the last byte of the space can be meant, and none beyond`() throws {
        let driver = try EduDriver(dmaMaskBits: 64)
        let top = try MemoryObject.anonymous(byteCount: 4096)
        try driver.space.map(
            .file(top, offset: 0), at: IOVA(UInt64.max - 4095), byteCount: 4096, rights: [.read, .write])
        unsafe top.bytes[4095] = 0x77
        driver.transfer(from: .max, to: deviceMemory, count: 1, command: Command.toDevice)
        driver.transfer(from: .max, to: deviceMemory + 1, count: 2, command: Command.toDevice)
        driver.transfer(from: deviceMemory, to: .max, count: 2, command: Command.fromDevice)
        driver.transfer(from: deviceMemory, to: 0x80, count: 2, command: Command.fromDevice)
        #expect(driver[0x80..<0x82] == [0x77, 0])
    }

    @Test func `a transfer may begin inside a factorial's interrupt, and both end`() throws {
        driver.write(0x20, 0x80)
        driver.write(0x08, 6)
        driver.startTransfer(from: 0, to: deviceMemory, count: 32, command: Command.toDevice | Command.raiseInterrupt)
        driver.wait { driver.read(0x24) == 0x101 }
        #expect(driver.read(0x08) == 720)
        #expect(deviceBytes().prefix(32).elementsEqual(pattern.prefix(32)))
    }
}

@Suite struct `Edu while a transfer is under way` {
    let driver: EduDriver
    let slow = SlowMemory()
    private let slowAddress: UInt64 = 0x100_0000

    init() throws {
        driver = try EduDriver()
        try driver.space.map(.remote(slow), at: IOVA(slowAddress), byteCount: 0x1000, rights: [.read, .write])
    }

    @Test func `the engine's registers hold still`() {
        driver.startTransfer(from: slowAddress, to: deviceMemory, count: 16, command: Command.toDevice)
        slow.waitUntilUsed()
        for offset in [0x80, 0x88, 0x90, 0x98] as [UInt64] { driver.write(offset, 0x7777_7777_7777_7777, 8) }
        for offset in [0x80, 0x88, 0x90, 0x98] as [UInt64] { driver.write(offset, 0, 4) }
        #expect(driver.read(0x80, 8) == slowAddress)
        #expect(driver.read(0x88, 8) == deviceMemory)
        #expect(driver.read(0x90, 8) == 16)
        #expect(driver.read(0x98, 8) == 1)
        slow.open()
        driver.waitForTransfer()
        driver.write(0x90, 17, 8)
        #expect(driver.read(0x90, 8) == 17)
        driver.transfer(from: deviceMemory, to: 0, count: 17, command: Command.fromDevice)
        #expect(driver[0..<17] == [UInt8](repeating: 0x5a, count: 16) + [0])
    }

    @Test func `registers are answered at once`() {
        driver.startTransfer(from: slowAddress, to: deviceMemory, count: 16, command: Command.toDevice)
        slow.waitUntilUsed()
        driver.write(0x04, 0)
        #expect(driver.read(0x04) == 0xffff_ffff)
        #expect(driver.read(0x98) == 1)
        #expect(driver.device.model.hasPendingTransactions)
        slow.open()
        driver.waitForTransfer()
        driver.wait { !driver.device.model.hasPendingTransactions }
    }

    @Test func `a reset does not wait for a message, and drops its result`() throws {
        let counter = try driver.connect(.msi)
        driver.startTransfer(
            from: slowAddress, to: deviceMemory, count: 16, command: Command.toDevice | Command.raiseInterrupt)
        slow.waitUntilUsed()
        driver.device.reset()
        #expect(driver.read(0x98) == 0)
        #expect(driver.device.model.hasPendingTransactions)
        slow.open()
        driver.wait { !driver.device.model.hasPendingTransactions }
        driver.configure(0x04, 2, 4)
        #expect(driver.read(0x24) == 0)
        #expect(counter.drain() == 0)
        driver.transfer(from: deviceMemory, to: 0, count: 16, command: Command.fromDevice)
        #expect(driver[0..<16].allSatisfy { $0 == 0 })
    }

    @Test func `what is started after a reset waits for what was under way before`() {
        driver.startTransfer(from: slowAddress, to: deviceMemory, count: 16, command: Command.toDevice)
        slow.waitUntilUsed()
        driver.device.reset()
        driver.configure(0x04, 2, 4)
        driver[0..<4] = [1, 2, 3, 4]
        driver.startTransfer(from: 0, to: deviceMemory, count: 4, command: Command.toDevice)
        #expect(driver.read(0x98) == 1)
        slow.open()
        driver.waitForTransfer()
        driver.transfer(from: deviceMemory, to: 0x100, count: 16, command: Command.fromDevice)
        #expect(driver[0x100..<0x110] == [1, 2, 3, 4] + [UInt8](repeating: 0, count: 12))
    }

    @Test func `the device goes when its transfer has ended`() throws {
        let (slow, space) = (slow, driver.space)
        let opener: OSThread
        do {
            let other = try EduDriver()
            try other.space.map(.remote(slow), at: IOVA(slowAddress), byteCount: 0x1000, rights: [.read, .write])
            other.startTransfer(from: deviceMemory, to: slowAddress, count: 16, command: Command.fromDevice)
            slow.waitUntilUsed()
            opener = try OSThread(name: "opener") { slow.open() }
        }
        opener.join()
        _ = space
        #expect(slow.written == [UInt8](repeating: 0, count: 16))
    }
}

@Suite struct `Edu reset` {
    @Test func `S99 everything is as it was at power-on`() throws {
        let driver = try EduDriver()
        let line = try driver.connect(.intx)
        driver[0..<4] = [1, 2, 3, 4]
        driver.transfer(from: 0, to: deviceMemory, count: 4, command: Command.toDevice | Command.raiseInterrupt)
        driver.write(0x20, 0x80)
        driver.write(0x04, 7)
        _ = driver.factorial(of: 5)
        driver.device.reset()
        #expect([0x04, 0x08, 0x20, 0x24].map { driver.read($0) } == [0, 0, 0, 0])
        #expect([0x80, 0x88, 0x90, 0x98].map { driver.read($0, 8) } == [0, 0, 0, 0])
        driver.device.interrupts.unmask(.intx, 0)
        line.drain()
        driver.device.interrupts.unmask(.intx, 0)
        #expect(line.drain() == 0)
        driver.configure(0x04, 2, 4)
        driver.transfer(from: deviceMemory, to: 0, count: 4, command: Command.fromDevice)
        #expect(driver[0..<4] == [0, 0, 0, 0])
        driver.write(0x60, 1)
        #expect(line.drain() == 1)
    }

    @Test func `a number that is being worked on is forgotten`() throws {
        let driver = try EduDriver()
        for _ in 0..<200 {
            driver.write(0x20, 0x80)
            driver.write(0x08, 12)
            driver.device.reset()
            #expect(driver.read(0x20) == 0)
            #expect(driver.read(0x08) == 0)
            #expect(driver.read(0x24) == 0)
        }
        #expect(driver.factorial(of: 3) == 6)
    }
}

@Suite struct `Edu under a hostile driver` {
    @Test(arguments: 1...8 as ClosedRange<UInt64>, [28, 64])
    func `random accesses of any size never break it`(seed: UInt64, bits: Int) throws {
        let driver = try EduDriver(dmaMaskBits: bits)
        _ = try driver.connect(.intx)
        var numbers = SeededNumbers(seed: seed)
        let values: [UInt64] = [
            0, 1, 3, 5, 7, 0x80, 0x1000, deviceMemory, deviceMemory + 4095, 0xffff_ffff, 1 << 63, .max,
        ]
        for _ in 0..<4_000 {
            let count = Int.random(in: 1...24, using: &numbers)
            let isNearRegisters = Bool.random(using: &numbers) || Bool.random(using: &numbers)
            let offset = UInt64.random(in: 0..<(isNearRegisters ? 0xa8 : (1 << 20) - 24), using: &numbers)
            let value = Bool.random(using: &numbers) ? numbers.next() : values.randomElement(using: &numbers) ?? 0
            switch Int.random(in: 0..<20, using: &numbers) {
            case 0..<8: driver.write(offset & ~7, value, 8)
            case 8..<12: driver.write(offset & ~3, value)
            case 12..<15: driver.write(offset, value, min(count, 8))
            case 15..<18: _ = driver.read(offset, count)
            case 18: driver.configure(UInt64.random(in: 0..<248, using: &numbers), min(count, 8), value)
            default: if Int.random(in: 0..<50, using: &numbers) == 0 { driver.device.reset() }
            }
        }
        driver.device.reset()
        driver.wait { !driver.device.model.hasPendingTransactions }
        driver.configure(0x04, 2, 6)
        #expect(driver.read(0x00) == 0x0100_00ed)
        #expect(driver.factorial(of: 5) == 120)
        driver[0..<4] = [9, 8, 7, 6]
        driver.transfer(from: 0, to: deviceMemory, count: 4, command: Command.toDevice)
        driver.transfer(from: deviceMemory, to: 0x100, count: 4, command: Command.fromDevice)
        #expect(driver[0x100..<0x104] == [9, 8, 7, 6])
    }
}
