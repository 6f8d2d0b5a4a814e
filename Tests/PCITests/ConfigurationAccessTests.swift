import PCI
import Randomness
import Testing

/// Configuration space kept byte by byte, from the same declarations and the two rules that go beyond them.
private struct BytewiseConfiguration {
    private let declarations: [RegisterDeclaration<ConfigurationRegister>]
    private var bytes = [UInt8](repeating: 0, count: 4096)
    private let powerControl, deviceControl: Int

    init(_ description: PCIDescription, powerControl: Int, deviceControl: Int) {
        declarations = RegisterMap(description).declarations
        self.powerControl = powerControl
        self.deviceControl = deviceControl
        reset()
    }

    private mutating func reset() {
        bytes = [UInt8](repeating: 0, count: 4096)
        for register in declarations {
            for byte in 0..<register.byteCount {
                bytes[register.offset + byte] = UInt8(truncatingIfNeeded: register.resetValue >> UInt64(byte * 8))
            }
        }
    }

    func read(_ offset: Int, _ count: Int) -> [UInt8] { Array(bytes[offset..<offset + count]) }

    /// Writes what of `values` lies in one naturally aligned group of eight, then the rest.
    mutating func write(_ offset: Int, _ values: [UInt8]) {
        let count = min(values.count, 8 - offset % 8)
        let before = bytes[powerControl]
        var wantsReset = false
        for (place, value) in zip(offset..<offset + count, values) {
            for register in declarations where (register.offset..<register.offset + register.byteCount).contains(place)
            {
                for field in register.fields where field.access == .readWrite {
                    let mask = UInt8(truncatingIfNeeded: field.mask >> UInt64((place - register.offset) * 8))
                    bytes[place] = bytes[place] & ~mask | value & mask
                }
            }
            if place == deviceControl + 1, value & 0x80 != 0 { wantsReset = true }
        }
        if [1, 2].contains(bytes[powerControl] & 3) { bytes[powerControl] = bytes[powerControl] & ~3 | before & 3 }
        if wantsReset { reset() }
        if count < values.count { write(offset + count, Array(values[count...])) }
    }
}

@Suite struct `Accesses to configuration space` {
    @Test(arguments: 1...24 as ClosedRange<UInt64>)
    func `any access anywhere agrees with the declarations, byte by byte`(seed: UInt64) {
        var numbers = SeededNumbers(seed: seed)
        let function = TestFunction()
        var reference = BytewiseConfiguration(
            .everything, powerControl: function.capability(.powerManagement) + 4,
            deviceControl: function.capability(.express) + 8)
        for step in 0..<600 {
            let isLong = numbers.below(20) == 0
            let count = isLong ? 1 + numbers.below(300) : 1 + numbers.below(8)
            let offset = numbers.below((numbers.below(4) == 0 ? 4096 : 0x110) - min(count, 0x100))
            guard offset + count <= 4096 else { continue }
            if numbers.below(3) == 0 {
                let bytes = numbers.bytes(count)
                function.write(PCIRegion.configuration, UInt64(offset), bytes)
                reference.write(offset, bytes)
            } else {
                let bytes = function.read(PCIRegion.configuration, UInt64(offset), count)
                #expect(bytes == reference.read(offset, count), "seed \(seed), step \(step), offset \(offset)")
            }
        }
        #expect(function.read(PCIRegion.configuration, 0, 4096) == reference.read(0, 4096), "seed \(seed)")
    }

    @Test(arguments: [1, 2, 4, 8, 3, 16, 64, 256, 4096])
    func `pieces of any size make up the same 4 KiB`(byteCount: Int) {
        let function = TestFunction()
        let whole = function.read(PCIRegion.configuration, 0, 4096)
        var pieces: [UInt8] = []
        while pieces.count < 4096 {
            pieces += function.read(
                PCIRegion.configuration, UInt64(pieces.count), min(byteCount, 4096 - pieces.count))
        }
        #expect(pieces == whole)
    }

    @Test func `an access of no bytes does nothing`() {
        let function = TestFunction()
        #expect(function.read(PCIRegion.configuration, 4096, 0).isEmpty)
        function.write(PCIRegion.configuration, 4096, [])
        function.write(0, 0x4000, [])
        #expect(function.model.takeTrace().isEmpty)
    }
}

@Suite struct `Accesses to windows` {
    let function = TestFunction()

    @Test(arguments: 0..<16 as Range<UInt64>, 1...17)
    func `an access is made of naturally aligned ones, as wide as can be`(offset: UInt64, count: Int) {
        let bytes = (0..<count).map { UInt8($0 + 1) }
        function.write(2, 0x100 + offset, bytes)
        var next = 0x100 + offset
        for access in function.model.takeTrace() {
            guard case .write(let value, bar: 2, let place, let width) = access else {
                Issue.record("\(access)")
                return
            }
            #expect(place == next)
            #expect([1, 2, 4, 8].contains(width) && place % UInt64(width) == 0)
            let start = Int(place - 0x100 - offset)
            #expect(value.littleEndianBytes(width) == Array(bytes[start..<start + width]))
            #expect(width == 8 || value >> UInt64(width * 8) == 0)
            let canBeWider = width < 8 && place % UInt64(width * 2) == 0 && start + width * 2 <= count
            #expect(!canBeWider)
            next += UInt64(width)
        }
        #expect(next == 0x100 + offset + UInt64(count))
        #expect(function.read(2, 0x100 + offset, count) == bytes)
    }

    @Test func `the last bytes of a large window can be reached`() {
        let bars = [BaseAddressRegister(0, .memory64, byteCount: 1 << 62)]
        let function = TestFunction(.bare.with { $0.bars = bars })
        function.set(0x77, 0, (1 << 62) - 1, 1)
        #expect(function.value(0, (1 << 62) - 8, 8) == 0x77 << 56)
    }

    @Test func `windows are told apart`() {
        function.set(1, 0, 0, 4)
        function.set(2, 2, 0, 4)
        function.set(3, 3, 0, 4)
        #expect([0, 2, 3].map { function.value($0, 0, 4) } == [1, 2, 3])
    }

    @Test func `accesses to the MSI-X structures do not reach the device`() {
        function.write(0, 0x1ff8, [UInt8](repeating: 1, count: 16))
        #expect(function.model.takeTrace() == [.write(0x0101_0101_0101_0101, bar: 0, offset: 0x1ff8, byteCount: 8)])
        _ = function.read(0, 0x2000 + 70 * 16 - 4, 8)
        #expect(function.model.takeTrace() == [.read(bar: 0, offset: 0x2000 + 70 * 16, byteCount: 4)])
        _ = function.read(0, 0x2ff8, 32)
        #expect(
            function.model.takeTrace() == [
                .read(bar: 0, offset: 0x2ff8, byteCount: 8), .read(bar: 0, offset: 0x3010, byteCount: 8),
            ])
    }
}
