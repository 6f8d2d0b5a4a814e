import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing

@Suite struct `Memory in a base address register` {
    private let page: UInt64 = 4096

    /// A function whose BAR 0 has memory in its second page, and whose BAR 2 is all memory.
    private func makeFunction() throws -> (TestFunction, sparse: BarMemory, whole: BarMemory) {
        let sparse = try BarMemory(bar: 0, areas: [0x1000..<0x2000])
        let whole = try BarMemory(bar: 2, areas: [0..<0x1000])
        return (TestFunction(.everything.with { $0.memory = [sparse, whole] }), sparse, whole)
    }

    @Test(arguments: [1, 2, 4, 8])
    func `messages and the model see the same bytes`(byteCount: Int) throws {
        let (function, sparse, whole) = try makeFunction()
        let value: UInt64 = 0x8877_6655_4433_2211 & (byteCount == 8 ? .max : (1 << UInt64(byteCount * 8)) - 1)
        function.set(value, 0, 0x1008, byteCount)
        #expect(sparse.read(at: 0x1008, byteCount: byteCount) == value)
        whole.write(value, at: 0xff8, byteCount: byteCount)
        #expect(function.value(2, 0xff8, byteCount) == value)
        #expect(unsafe Array(whole.bytes[0xff8..<0xff8 + byteCount]) == value.littleEndianBytes(byteCount))
    }

    @Test func `an access may run from registers into memory and out of it again`() throws {
        let (function, sparse, _) = try makeFunction()
        let bytes = (0..<0x1010).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        function.write(0, 0xff8, bytes)
        #expect(unsafe sparse.bytes[0x1000..<0x2000].elementsEqual(bytes[8..<0x1008]))
        #expect(function.read(0, 0x1000, 0x1000) == Array(bytes[8..<0x1008]))
    }

    @Test func `regions tell of it, and only of it`() throws {
        let (function, _, _) = try makeFunction()
        #expect(function.regions[0].memory?.areas == [0x1000..<0x2000])
        #expect(function.regions[2].memory?.areas == [0..<0x1000])
        #expect(function.regions[3].memory == nil && function.regions[PCIRegion.configuration].memory == nil)
    }

    @Test func `a client sees the bytes through the descriptor, and cannot take them away`() throws {
        let (function, _, whole) = try makeFunction()
        let memory = try #require(function.regions[2].memory)
        let descriptor = try memory.descriptor.duplicate()
        let object = try MemoryObject(adopting: descriptor.take())
        unsafe object.bytes[5] = 42
        #expect(whole.read(at: 5, byteCount: 1) == 42)
        whole.write(43, at: 6, byteCount: 1)
        #expect(unsafe object.bytes[6] == 43)
        #expect(memory.descriptor.seals.isSuperset(of: [.shrink, .grow, .seal]))
        #expect(throws: Errno.self) { try memory.descriptor.add(.futureWrite) }
    }

    @Test func `reset leaves it alone, and the model may clear it`() throws {
        let (function, sparse, _) = try makeFunction()
        function.set(0x55, 0, 0x1000, 1)
        function.reset()
        #expect(function.value(0, 0x1000, 1) == 0x55)
        sparse.clear()
        #expect(function.read(0, 0x1000, 0x1000) == [UInt8](repeating: 0, count: 0x1000))
    }

    @Test func `messages do not reach it in D3hot`() throws {
        let (function, _, whole) = try makeFunction()
        let power = function.capability(.powerManagement) + 4
        whole.write(1, at: 0, byteCount: 1)
        function.configure(power, 2, 3)
        #expect(function.value(2, 0, 1) == 0xff)
        function.set(2, 2, 0, 1)
        #expect(whole.read(at: 0, byteCount: 1) == 1)
        function.configure(power, 2, 0)
        #expect(function.value(2, 0, 1) == 1)
    }

    @Test func `the pages of the MSI-X structures cannot be memory`() async {
        await #expect(processExitsWith: .failure) {
            let memory = try BarMemory(bar: 0, areas: [0x2000..<0x3000])
            _ = TestFunction(.everything.with { $0.memory = [memory] })
        }
        await #expect(processExitsWith: .failure) {
            let memory = try BarMemory(bar: 0, areas: [0..<0x1000, 0x3000..<0x4000])
            _ = TestFunction(.everything.with { $0.memory = [memory] })
        }
    }

    @Test func `what is no memory space, too large or described twice is refused`() async {
        await #expect(processExitsWith: .failure) {
            let memory = try BarMemory(bar: 3, areas: [0..<0x1000])
            _ = TestFunction(.everything.with { $0.memory = [memory] })
        }
        await #expect(processExitsWith: .failure) {
            let memory = try BarMemory(bar: 2, areas: [0x1000..<0x2000])
            _ = TestFunction(.everything.with { $0.memory = [memory] })
        }
        await #expect(processExitsWith: .failure) {
            let memory = [try BarMemory(bar: 2, areas: [0..<0x1000]), try BarMemory(bar: 2, areas: [0..<0x1000])]
            _ = TestFunction(.everything.with { $0.memory = memory })
        }
    }
}

@Suite struct `Doorbells of a function` {
    private static func function(_ doorbell: Doorbell) -> TestFunction {
        TestFunction(.everything.with { $0.doorbells = [doorbell] })
    }

    private static func bell(_ region: Int, at offset: UInt64) -> Doorbell {
        Doorbell(region: region, offset: offset, value: 0, byteCount: 4, rungBy: [.anyWrite])
    }

    @Test func `are those of its description`() {
        #expect(Self.function(Self.bell(2, at: 0xffc)).doorbells == [Self.bell(2, at: 0xffc)])
        #expect(TestFunction().doorbells.isEmpty)
    }

    @Test func `cannot lie outside of memory space, nor in the MSI-X structures`() async {
        await #expect(processExitsWith: .failure) { _ = Self.function(Self.bell(3, at: 0)) }
        await #expect(processExitsWith: .failure) { _ = Self.function(Self.bell(7, at: 4)) }
        await #expect(processExitsWith: .failure) { _ = Self.function(Self.bell(2, at: 0x1000)) }
        await #expect(processExitsWith: .failure) { _ = Self.function(Self.bell(2, at: 2)) }
        await #expect(processExitsWith: .failure) { _ = Self.function(Self.bell(0, at: 0x2000)) }
        await #expect(processExitsWith: .failure) { _ = Self.function(Self.bell(0, at: 0x3000)) }
    }
}
