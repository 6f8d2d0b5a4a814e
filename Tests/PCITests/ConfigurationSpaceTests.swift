import DeviceModel
import PCI
import Testing

/// PCI Local Bus 3.0, 6.1 and 6.2
@Suite struct `Type 0 header` {
    let function = TestFunction()

    @Test func `it identifies the function`() {
        #expect(function.configuration(0x00) == 0x0010_1b36)
        #expect(function.configuration(0x08) == 0x0108_0202)
        #expect(function.configuration(0x0e, 1) == 0)
        #expect(function.configuration(0x2c) == 0x1100_1af4)
        #expect(function.configuration(0x3d, 1) == 1)
        #expect(TestFunction(.bare).configuration(0x3d, 1) == 0)
    }

    @Test(
        arguments: [
            // Offset, width, bits that can be written.
            (0x00, 4, 0), (0x04, 2, 0x0547), (0x06, 2, 0), (0x08, 4, 0), (0x0c, 1, 0xff), (0x0d, 1, 0), (0x0e, 1, 0),
            (0x0f, 1, 0), (0x28, 4, 0), (0x2c, 4, 0), (0x30, 4, 0), (0x34, 4, 0), (0x38, 4, 0), (0x3c, 1, 0xff),
            (0x3d, 1, 0), (0x3e, 2, 0),
        ] as [(Int, Int, UInt64)])
    func `only the bits that the standard makes writable can be written`(offset: Int, byteCount: Int, bits: UInt64) {
        let reset = function.configuration(offset, byteCount)
        function.configure(offset, byteCount, .max)
        #expect(function.configuration(offset, byteCount) == reset | bits)
        function.configure(offset, byteCount, 0)
        #expect(function.configuration(offset, byteCount) == reset & ~bits)
    }

    @Test func `enable bits of what the function does not have are hard-wired to zero`() {
        let bare = TestFunction(.bare)
        bare.configure(0x04, 2, .max)
        #expect(bare.configuration(0x04, 2) == 0x0146)
        let portsOnly = TestFunction(.bare.with { $0.bars = [BaseAddressRegister(1, .io, byteCount: 8)] })
        portsOnly.configure(0x04, 2, .max)
        #expect(portsOnly.configuration(0x04, 2) == 0x0145)
    }

    @Test func `the status register says whether there are capabilities`() {
        #expect(function.configuration(0x06, 2) == 0x0010)
        #expect(TestFunction(.bare).configuration(0x06, 2) == 0)
        #expect(TestFunction(.bare).configuration(0x34, 1) == 0)
    }

    @Test(arguments: 0..<16) func `a bit in the command register does not reach the status register`(bit: Int) {
        function.configure(0x04, 4, 1 << UInt64(bit))
        #expect(function.configuration(0x06, 2) == 0x0010)
    }
}

/// PCI Local Bus 3.0, 6.7; PCI Express Base 5.0, 7.5 and 7.6
@Suite struct `Capability list` {
    /// Identifiers of the capabilities with their lengths in bytes.
    static let lengths: [UInt8: Int] = [0x01: 8, 0x05: 24, 0x10: 60, 0x11: 12]

    @Test(arguments: 0..<32)
    func `every combination can be walked, and capabilities do not overlap`(combination: Int) {
        let function = TestFunction(
            .everything.with { description in
                description.hasPowerManagement = combination & 1 != 0
                if combination & 2 == 0 { description.msi = nil }
                if combination & 4 == 0 { description.msix = nil }
                description.isExpress = combination & 8 != 0
                if combination & 16 == 0, let msi = description.msi {
                    description.msi = MSIDescription(vectorCount: msi.vectorCount, hasMasking: false)
                }
            })
        var expected: [UInt8] = []
        if combination & 1 != 0 { expected.append(0x01) }
        if combination & 2 != 0 { expected.append(0x05) }
        if combination & 4 != 0 { expected.append(0x11) }
        if combination & 8 != 0 { expected.append(0x10) }
        let list = function.capabilityList
        #expect(list.map(\.id) == expected)
        var end = 0x40
        for (id, offset) in list {
            #expect(offset >= end && offset % 4 == 0)
            end = offset + (Self.lengths[id] ?? 0)
            if id == 0x05, combination & 16 == 0 { end -= 10 }
        }
        #expect(end <= 0x100)
    }

    @Test func `what lies behind the last capability is zero and cannot be written`() {
        let function = TestFunction()
        let end = function.capability(.express) + 60
        function.write(PCIRegion.configuration, UInt64(end), [UInt8](repeating: 0xff, count: 0x100 - end))
        #expect(function.read(PCIRegion.configuration, UInt64(end), 0x100 - end).allSatisfy { $0 == 0 })
    }

    @Test func `the extended list begins at 0x100 with the serial number`() {
        let function = TestFunction()
        #expect(function.configuration(0x100) == 0x0001_0003)
        #expect(function.configuration(0x104) == 0x89ab_cdef)
        #expect(function.configuration(0x108) == 0x0123_4567)
        #expect((0x10c..<0x1000).allSatisfy { function.configuration($0, 1) == 0 })
    }

    @Test func `without extended capabilities the extended space is zero`() {
        let function = TestFunction(.everything.with { $0.serialNumber = nil })
        #expect(function.regions[PCIRegion.configuration].byteCount == 4096)
        for offset in stride(from: 0x100, to: 0x1000, by: 4) {
            function.configure(offset, 4, .max)
            #expect(function.configuration(offset) == 0)
        }
    }

    @Test func `a conventional function has 256 bytes`() {
        let function = TestFunction(.bare)
        #expect(function.regions[PCIRegion.configuration].byteCount == 256)
        #expect((0x40..<0x100).allSatisfy { function.configuration($0, 1) == 0 })
    }
}

/// Capabilities register by register: reset value, and which bits can be written.
@Suite struct `Capability registers` {
    struct Expectation: CustomTestStringConvertible, Sendable {
        let name: String
        let capability: CapabilityID
        let offset, byteCount: Int
        let reset, writable: UInt64

        init(
            _ name: String, _ capability: CapabilityID, _ offset: Int, _ byteCount: Int, _ reset: UInt64,
            _ writable: UInt64
        ) {
            self.name = name
            self.capability = capability
            self.offset = offset
            self.byteCount = byteCount
            self.reset = reset
            self.writable = writable
        }

        var testDescription: String { name }
    }

    @Test(arguments: [
        // PCI Bus Power Management Interface 1.2, 3.2
        Expectation("PMC", .powerManagement, 2, 2, 0x0003, 0),
        Expectation("PMCSR_BSE and Data", .powerManagement, 6, 2, 0, 0),
        // PCI Local Bus 3.0, 6.8.1
        Expectation("MSI control", .msi, 2, 2, 0x0186, 0x0071),
        Expectation("MSI address", .msi, 4, 4, 0, 0xffff_fffc),
        Expectation("MSI upper address", .msi, 8, 4, 0, 0xffff_ffff),
        Expectation("MSI data", .msi, 12, 2, 0, 0xffff),
        Expectation("MSI reserved", .msi, 14, 2, 0, 0),
        Expectation("MSI mask", .msi, 16, 4, 0, 0xff),
        Expectation("MSI pending", .msi, 20, 4, 0, 0),
        // PCI Local Bus 3.0, 6.8.2
        Expectation("MSI-X control", .msix, 2, 2, 69, 0xc000),
        Expectation("MSI-X table", .msix, 4, 4, 0x2000, 0),
        Expectation("MSI-X pending", .msix, 8, 4, 0x3000, 0),
        // PCI Express Base 5.0, 7.5.3
        Expectation("PCI Express capabilities", .express, 0x02, 2, 0x0002, 0),
        Expectation("Device capabilities", .express, 0x04, 4, 0x1000_8001, 0),
        Expectation("Device control", .express, 0x08, 2, 0x2810, 0x78ff),
        Expectation("Device status", .express, 0x0a, 2, 0, 0),
        Expectation("Link capabilities", .express, 0x0c, 4, 0x0040_0043, 0),
        Expectation("Link control", .express, 0x10, 2, 0, 0x00cb),
        Expectation("Link status", .express, 0x12, 2, 0x0043, 0),
        Expectation("Slot and root registers", .express, 0x14, 8, 0, 0),
        Expectation("Root status", .express, 0x1c, 8, 0, 0),
        Expectation("Device capabilities 2", .express, 0x24, 4, 0x10, 0),
        Expectation("Device control 2", .express, 0x28, 2, 0, 0x10),
        Expectation("Device status 2", .express, 0x2a, 2, 0, 0),
        Expectation("Link capabilities 2", .express, 0x2c, 4, 0x0e, 0),
        Expectation("Link control 2", .express, 0x30, 2, 3, 0x0f),
        Expectation("Link status 2", .express, 0x32, 2, 0, 0),
        Expectation("Slot registers 2", .express, 0x34, 8, 0, 0),
    ])
    func `reset value and writable bits`(_ register: Expectation) {
        let function = TestFunction()
        let offset = function.capability(register.capability) + register.offset
        #expect(function.configuration(offset, register.byteCount) == register.reset)
        // Everything but the bit that resets the function.
        let all = register.name == "Device control" ? UInt64.max & ~(1 << 15) : .max
        function.configure(offset, register.byteCount, all)
        #expect(function.configuration(offset, register.byteCount) == register.reset | register.writable)
        function.configure(offset, register.byteCount, 0)
        #expect(function.configuration(offset, register.byteCount) == register.reset & ~register.writable)
    }

    @Test(arguments: [1, 2, 4, 8, 16, 32])
    func `MSI says how many vectors it can have and masks no others`(vectorCount: Int) {
        let function = TestFunction(.everything.with { $0.msi = MSIDescription(vectorCount: vectorCount) })
        let control = function.configuration(function.capability(.msi) + 2, 2)
        #expect(1 << (control >> 1 & 7) == vectorCount)
        function.maskMSI(.max)
        #expect(function.configuration(function.capability(.msi) + 16) == UInt64.max >> UInt64(64 - vectorCount))
    }

    @Test func `the transactions of the device show in its status`() {
        let function = TestFunction()
        let status = function.capability(.express) + 10
        function.model.setBusy(true)
        #expect(function.configuration(status, 2) == 1 << 5)
        #expect(function.configuration(status - 2, 4) >> 16 == 1 << 5)
        function.model.setBusy(false)
        #expect(function.configuration(status, 2) == 0)
    }
}

/// PCI Local Bus 3.0, 6.2.5.1
@Suite struct `Base address registers` {
    private func function(_ bars: [BaseAddressRegister]) -> TestFunction {
        TestFunction(.bare.with { $0.bars = bars })
    }

    private func size(_ function: TestFunction, _ index: Int) -> UInt64 {
        function.configure(0x10 + index * 4, 4, 0xffff_ffff)
        return function.configuration(0x10 + index * 4)
    }

    @Test(arguments: 4...31)
    func `a 32-bit memory window tells its size`(sizeBit: Int) {
        let byteCount: UInt64 = 1 << UInt64(sizeBit)
        let function = function([BaseAddressRegister(3, .memory32, byteCount: byteCount)])
        #expect(function.configuration(0x1c) == 0)
        #expect(size(function, 3) == ~(byteCount - 1) & 0xffff_ffff)
        #expect(function.regions.map(\.byteCount) == [0, 0, 0, byteCount, 0, 0, 0, 256, 0])
    }

    @Test(arguments: 4...62, [false, true])
    func `a 64-bit memory window tells its size in two registers`(sizeBit: Int, isPrefetchable: Bool) {
        let byteCount: UInt64 = 1 << UInt64(sizeBit)
        let function = function([
            BaseAddressRegister(2, .memory64, byteCount: byteCount, isPrefetchable: isPrefetchable)
        ])
        let type: UInt64 = isPrefetchable ? 0b1100 : 0b0100
        #expect(function.configuration(0x18, 8) == type)
        let (low, high) = (size(function, 2), size(function, 3))
        #expect(low & 0xf == type)
        #expect(high << 32 | low & ~0xf == ~(byteCount - 1))
        #expect(function.regions.map(\.byteCount) == [0, 0, byteCount, 0, 0, 0, 0, 256, 0])
    }

    @Test(arguments: 2...8)
    func `an I/O window tells its size`(sizeBit: Int) {
        let byteCount: UInt64 = 1 << UInt64(sizeBit)
        let function = function([BaseAddressRegister(5, .io, byteCount: byteCount)])
        #expect(function.configuration(0x24) == 1)
        #expect(size(function, 5) == ~(byteCount - 1) & 0xffff_ffff | 1)
    }

    @Test func `an address keeps its writable bits and the type`() {
        let function = function([
            BaseAddressRegister(0, .memory64, byteCount: 0x4000), BaseAddressRegister(2, .io, byteCount: 0x10),
        ])
        function.configure(0x10, 8, 0x1234_5678_9abc_def0)
        #expect(function.configuration(0x10, 8) == 0x1234_5678_9abc_c004)
        function.configure(0x18, 4, 0xc0de)
        #expect(function.configuration(0x18) == 0xc0d1)
    }

    @Test func `registers that are not implemented are zero`() {
        let function = function([BaseAddressRegister(1, .memory32, byteCount: 0x1000)])
        for index in [0, 2, 3, 4, 5] { #expect(size(function, index) == 0) }
        #expect(size(function, 8) == 0)
    }

    @Test func `a register can be written a byte at a time`() {
        let function = function([BaseAddressRegister(0, .memory32, byteCount: 0x10000)])
        for byte in 0..<4 { function.configure(0x10 + byte, 1, 0xe7) }
        #expect(function.configuration(0x10) == 0xe7e7_0000)
    }

    @Test(
        arguments: [
            (0, BaseAddressRegister.Space.memory32, 1 << 32), (0, .memory32, 8), (0, .memory64, 1 << 63),
            (0, .memory32, 0x3000), (0, .memory32, 0), (0, .io, 512), (0, .io, 2), (6, .memory32, 0x1000),
            (5, .memory64, 0x1000), (-1, .io, 16),
        ] as [(Int, BaseAddressRegister.Space, UInt64)])
    func `impossible windows trap`(index: Int, space: BaseAddressRegister.Space, byteCount: UInt64) async {
        let kind = space == .io ? 0 : space == .memory32 ? 1 : 2
        await #expect(processExitsWith: .failure) {
            [index = index as Int, kind = kind as Int, byteCount = byteCount as UInt64] in
            let space: BaseAddressRegister.Space = [.io, .memory32, .memory64][kind]
            _ = BaseAddressRegister(index, space, byteCount: byteCount)
        }
    }

    @Test func `one place for two windows traps`() async {
        await #expect(processExitsWith: .failure) {
            let bars = [
                BaseAddressRegister(0, .memory64, byteCount: 0x1000), BaseAddressRegister(1, .io, byteCount: 0x10),
            ]
            _ = TestFunction(.bare.with { $0.bars = bars })
        }
    }
}
