import DeviceModel
import LinuxHost
import PCI
import Testing

@Suite struct `Edu on the bus` {
    let driver: EduDriver

    init() throws {
        driver = try EduDriver()
    }

    @Test func `it looks like QEMU's`() {
        #expect(driver.configuration(0x00, 4) == 0x11e8_1234)
        #expect(driver.configuration(0x08, 4) == 0x00ff_0010)
        #expect(driver.configuration(0x2c, 4) == 0x1100_1af4)
        #expect(driver.configuration(0x3d, 1) == 1)
        #expect(driver.device.regions.map(\.byteCount) == [1 << 20, 0, 0, 0, 0, 0, 0, 256, 0])
        #expect(InterruptKind.allCases.map(driver.device.interrupts.count) == [1, 1, 0, 1, 0])
    }

    @Test func `its only capability is MSI with one vector and 64-bit addresses`() {
        let offset = driver.configuration(0x34, 1)
        #expect(driver.configuration(offset, 4) == 0x0080_0005)
    }

    @Test func `its window is 1 MiB of 32-bit memory`() {
        driver.configure(0x10, 4, 0xffff_ffff)
        #expect(driver.configuration(0x10, 4) == 0xfff0_0000)
        driver.configure(0x14, 4, 0xffff_ffff)
        #expect(driver.configuration(0x14, 4) == 0)
    }
}

/// QEMU's `docs/specs/edu.rst`
@Suite struct `Edu registers` {
    let driver: EduDriver

    init() throws {
        driver = try EduDriver()
    }

    @Test func `it identifies itself`() {
        #expect(driver.read(0x00) == 0x0100_00ed)
        driver.write(0x00, 0x1234_5678)
        #expect(driver.read(0x00) == 0x0100_00ed)
    }

    @Test(arguments: [0, 1, 0x1234_5678, 0xffff_ffff] as [UInt64])
    func `the liveness check inverts what is written`(value: UInt64) {
        #expect(driver.read(0x04) == 0)
        driver.write(0x04, value)
        #expect(driver.read(0x04) == ~value & 0xffff_ffff)
        #expect(driver.read(0x04) == ~value & 0xffff_ffff)
    }

    @Test(
        arguments: [
            (0, 1), (1, 1), (2, 2), (5, 120), (12, 479_001_600), (13, 1_932_053_504), (20, 2_192_834_560),
            (33, 2_147_483_648), (34, 0), (1000, 0), (0xffff_ffff, 0),
        ] as [(UInt64, UInt64)])
    func `it computes factorials modulo 2^32`(number: UInt64, result: UInt64) {
        #expect(driver.factorial(of: number) == result)
        #expect(driver.read(0x20) == 0)
    }

    @Test(arguments: [InterruptKind.intx, .msi])
    func `the end of a factorial interrupts only who asked for it`(kind: InterruptKind) throws {
        let counter = try driver.connect(kind)
        #expect(driver.factorial(of: 4) == 24)
        #expect(counter.drain() == 0)
        #expect(driver.read(0x24) == 0)
        driver.write(0x20, 0x80)
        #expect(driver.read(0x20) == 0x80)
        #expect(driver.factorial(of: 5) == 120)
        driver.wait { driver.read(0x24) != 0 }
        #expect(driver.read(0x24) == 1)
        #expect(counter.drain() == 1)
        driver.write(0x64, 1)
        #expect(driver.read(0x24) == 0)
    }

    @Test func `only the interrupt bit of the status can be written`() {
        driver.write(0x20, 0xffff_ffff)
        #expect(driver.read(0x20) == 0x80)
        driver.write(0x20, 0)
        #expect(driver.read(0x20) == 0)
    }

    @Test func `raised bits add up and acknowledged bits go`() {
        driver.write(0x60, 0x0f)
        driver.write(0x60, 0xf000_0001)
        #expect(driver.read(0x24) == 0xf000_000f)
        driver.write(0x64, 0x05)
        #expect(driver.read(0x24) == 0xf000_000a)
        driver.write(0x24, 0)
        #expect(driver.read(0x24) == 0xf000_000a)
        driver.write(0x64, 0xffff_ffff)
        #expect(driver.read(0x24) == 0)
    }

    @Test func `over INTx the line stays up until everything is acknowledged`() throws {
        let counter = try driver.connect(.intx)
        driver.write(0x60, 0x3)
        #expect(counter.drain() == 1)
        #expect(driver.configuration(0x06, 2) & 8 == 8)
        driver.write(0x60, 0x4)
        #expect(counter.drain() == 0)
        driver.write(0x64, 0x1)
        driver.device.interrupts.unmask(.intx, 0)
        #expect(counter.drain() == 1)
        driver.write(0x64, 0x6)
        driver.device.interrupts.unmask(.intx, 0)
        #expect(counter.drain() == 0)
        #expect(driver.configuration(0x06, 2) & 8 == 0)
    }

    @Test func `over MSI there is one message for every raise`() throws {
        let counter = try driver.connect(.msi)
        driver.write(0x60, 0x1)
        driver.write(0x60, 0x1)
        driver.write(0x60, 0x2)
        #expect(counter.drain() == 3)
        driver.write(0x64, 0x1)
        #expect(counter.drain() == 0)
        driver.write(0x60, 0)
        #expect(counter.drain() == 1)
        driver.write(0x64, 0x2)
        driver.write(0x60, 0)
        #expect(counter.drain() == 0)
    }

    @Test func `without the bus master bit the message waits`() throws {
        driver.configure(0x04, 2, 0)
        let counter = try driver.connect(.msi)
        driver.write(0x60, 0x1)
        #expect(counter.drain() == 0)
        driver.configure(0x04, 2, 4)
        #expect(counter.drain() == 1)
    }
}

/// Which accesses the device knows, and that others read as ones and change nothing, as in QEMU.
@Suite struct `Edu accesses` {
    let driver: EduDriver

    init() throws {
        driver = try EduDriver()
        driver.write(0x04, 0x0123_4567)
        driver.write(0x60, 0x10)
        for offset in [0x80, 0x88, 0x90] as [UInt64] { driver.write(offset, 0x1122_3344_5566_7788, 8) }
    }

    private func ones(_ byteCount: Int) -> UInt64 { UInt64.max >> UInt64(64 - byteCount * 8) }

    private var registers: [UInt64] {
        [0x00, 0x04, 0x08, 0x20, 0x24].map { driver.read($0) } + [0x80, 0x88, 0x90, 0x98].map { driver.read($0, 8) }
    }

    @Test(arguments: [0x00, 0x04, 0x08, 0x20, 0x24] as [UInt64], [1, 2, 8])
    func `below 0x80 only four bytes at once`(offset: UInt64, byteCount: Int) {
        // Eight bytes at offset 4 are not naturally aligned and arrive as two accesses of four.
        guard offset % UInt64(byteCount) == 0 else { return }
        let before = registers
        #expect(driver.read(offset, byteCount) == ones(byteCount))
        driver.write(offset, 0x5a5a_5a5a_5a5a_5a5a, byteCount)
        #expect(registers == before)
    }

    @Test(arguments: [0x80, 0x88, 0x90, 0x98] as [UInt64], [1, 2])
    func `from 0x80 on not less than four`(offset: UInt64, byteCount: Int) {
        let before = registers
        #expect(driver.read(offset, byteCount) == ones(byteCount))
        driver.write(offset, 0x55, byteCount)
        #expect(registers == before)
    }

    @Test(arguments: [0x80, 0x88, 0x90] as [UInt64])
    func `from 0x80 on four bytes mean the register with its upper half zero`(offset: UInt64) {
        #expect(driver.read(offset, 8) == 0x1122_3344_5566_7788)
        #expect(driver.read(offset, 4) == 0x5566_7788)
        driver.write(offset, 0xcafe_f00d, 4)
        #expect(driver.read(offset, 8) == 0xcafe_f00d)
    }

    @Test(
        arguments: [
            0x0c, 0x10, 0x1c, 0x28, 0x5c, 0x60, 0x64, 0x68, 0x7c, 0x84, 0x8c, 0x94, 0x9c, 0xa0, 0x1000, 0x40000,
            0xf_fffc,
        ] as [UInt64])
    func `where no register can be read there are ones`(offset: UInt64) {
        #expect(driver.read(offset) == 0xffff_ffff)
    }

    @Test(arguments: [0x0c, 0x10, 0x28, 0x5c, 0x68, 0x7c, 0x84, 0x8c, 0x94, 0x9c, 0xa0, 0x40000, 0xf_fffc] as [UInt64])
    func `where no register can be written nothing happens`(offset: UInt64) {
        let before = registers
        driver.write(offset, 0xffff_ffff)
        #expect(registers == before)
    }

    @Test(arguments: [0xa0, 0x40000, 0xf_fff8] as [UInt64])
    func `eight bytes beyond the registers are ones too`(offset: UInt64) {
        driver.write(offset, 0, 8)
        #expect(driver.read(offset, 8) == .max)
    }
}
