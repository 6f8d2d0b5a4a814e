import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing

/// The device of the documentation, driven as a guest would.
@Suite struct `The device of the documentation` {
    private let function: PCIFunction<Checksum>
    private let space = IOAddressSpace()
    private let object: MemoryObject
    private let counter: EventCounter

    init() throws {
        function = try Checksum.makeFunction()
        object = try MemoryObject.anonymous(byteCount: 0x10000)
        for place in 0..<0x10000 { unsafe object.bytes[place] = UInt8(truncatingIfNeeded: place) }
        try space.map(.file(object, offset: 0), at: IOVA(0), byteCount: 0x10000, rights: .read)
        try function.attach(to: space)
        function.enableBusMaster()
        function.enableMSI()
        counter = try EventCounter()
        function.interrupts.connect(.msi, from: 0, to: [counter])
    }

    private func run(address: UInt64, byteCount: UInt64) throws {
        function.set(address, 0, 0x00, 8)
        function.set(byteCount, 0, 0x08, 4)
        function.set(1, 0, 0x0c, 4)
        let poller = try Poller()
        try poller.add(counter.rawDescriptor, token: 0, interest: .readable)
        _ = try poller.wait()
        poller.remove(counter.rawDescriptor)
        #expect(counter.drain() == 1)
    }

    @Test func `it adds up what it is pointed at`() throws {
        try run(address: 0x102, byteCount: 4)
        #expect(function.value(0, 0x10, 8) == 2 + 3 + 4 + 5)
        #expect(function.value(0, 0x0c, 4) == 0)
        try run(address: 0, byteCount: 0xffff)
        #expect(function.value(0, 0x10, 8) == 256 * 255 * 128 - 255)
    }

    @Test(arguments: [(0, 0), (0xffff, 2), (.max, 1), (.max, 2)] as [(UInt64, UInt64)])
    func `it fails at memory that is not there`(address: UInt64, byteCount: UInt64) throws {
        try run(address: address, byteCount: byteCount)
        #expect(function.value(0, 0x0c, 4) == 2)
        #expect(function.value(0, 0x10, 8) == 0)
    }

    @Test func `reset clears it`() throws {
        try run(address: 0, byteCount: 16)
        function.reset()
        #expect(function.read(0, 0, 0x20).allSatisfy { $0 == 0 })
    }
}
