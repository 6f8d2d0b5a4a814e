import DeviceModel
import LinuxHost
import PCI
import Testing

/// Registers that remember what was done to them.
private final class NotingModel: PCIDeviceModel {
    struct Access: Equatable {
        var bar: Int
        var offset: UInt64
        var byteCount: Int
        var value: UInt64?
    }

    let accesses = Monitor<[Access]>([])

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        accesses.withLock { $0.append(Access(bar: bar, offset: offset, byteCount: byteCount, value: nil)) }
        return 0x1122_3344_5566_7788
    }

    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        accesses.withLock { $0.append(Access(bar: bar, offset: offset, byteCount: byteCount, value: value)) }
    }

    func reset() {}

    func take() -> [Access] {
        accesses.withLock { list in
            defer { list = [] }
            return list
        }
    }
}

@Suite struct `Vendor capabilities` {
    private let function: PCIFunction<NotingModel>
    /// Where the window's capability is.
    private let window: UInt64 = 0xa8

    init() {
        function = PCIFunction(
            PCIDescription(
                vendorID: 1, deviceID: 2, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
                bars: [
                    BaseAddressRegister(0, .memory32, byteCount: 4096),
                    BaseAddressRegister(2, .memory64, byteCount: 1 << 14), BaseAddressRegister(4, .io, byteCount: 16),
                ],
                msix: MSIXDescription(vectorCount: 4, bar: 0, tableOffset: 0, pendingOffset: 0x800),
                vendorCapabilities: [
                    VendorCapability("One", body: [7, 1, 2, 3, 4, 5, 6, 7, 8]), VendorCapability("Two", body: [9]),
                    VendorCapability("Three", body: [7, 1, 2, 3, 4]), .window("Window", type: 5),
                ])
        ) { _ in NotingModel() }
        configure(0x04, 2, 7)
    }

    private func bytes(_ offset: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xa5, count: count)
        var span = bytes.mutableSpan
        function.readRegion(PCIRegion.configuration, at: offset, into: &span)
        return bytes
    }

    private func configuration(_ offset: UInt64, _ byteCount: Int) -> UInt64 {
        bytes(offset, byteCount).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    private func configure(_ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        function.writeRegion(PCIRegion.configuration, at: offset, from: bytes.span)
    }

    private func move(_ bar: UInt64, _ offset: UInt64, _ width: UInt64) {
        configure(window + 4, 1, bar)
        configure(window + 8, 4, offset)
        configure(window + 12, 4, width)
        _ = function.model.take()
    }

    @Test func `are in the list with their length and bytes, and cannot be written`() {
        let expected: [(UInt64, [UInt8])] = [
            (0x90, [9, 0x9c, 12, 7, 1, 2, 3, 4, 5, 6, 7, 8]), (0x9c, [9, 0xa0, 4, 9]),
            (0xa0, [9, 0xa8, 8, 7, 1, 2, 3, 4]),
        ]
        for (place, bytes) in expected {
            #expect(self.bytes(place, bytes.count) == bytes)
            for byte in bytes.indices { configure(place + UInt64(byte), 1, 0xff) }
            #expect(self.bytes(place, bytes.count) == bytes)
        }
    }

    @Test func `the window is the last, and empty until it is moved`() {
        var place = configuration(0x34, 1)
        while configuration(place + 1, 1) != 0 { place = configuration(place + 1, 1) }
        #expect(bytes(place, 4) == [9, 0, 20, 5])
        #expect(bytes(place, 20)[4...] == [UInt8](repeating: 0, count: 16)[...])
        configure(place + 16, 4, 0xffff_ffff)
        #expect(function.model.take().isEmpty)
        #expect(configuration(place + 16, 4) == 0)
    }

    @Test func `an access to the window is one to the base address register`() {
        move(0, 0x104, 4)
        #expect(configuration(window + 16, 4) == 0x5566_7788)
        #expect(function.model.take() == [.init(bar: 0, offset: 0x104, byteCount: 4, value: nil)])
        configure(window + 16, 4, 0xdead_beef)
        #expect(function.model.take() == [.init(bar: 0, offset: 0x104, byteCount: 4, value: 0xdead_beef)])
        move(2, 0x3fff, 1)
        #expect(configuration(window + 16, 1) == 0x88)
        configure(window + 16, 4, 0x1234_5678)
        #expect(
            function.model.take() == [
                .init(bar: 2, offset: 0x3fff, byteCount: 1, value: nil),
                .init(bar: 2, offset: 0x3fff, byteCount: 1, value: 0x78),
            ])
        move(4, 14, 2)
        configure(window + 16, 2, 0xabcd)
        #expect(function.model.take() == [.init(bar: 4, offset: 14, byteCount: 2, value: 0xabcd)])
    }

    @Test func `the MSI-X table is seen through the window`() {
        move(0, 0x10, 4)
        configure(window + 16, 4, 0xfee0_0000)
        #expect(configuration(window + 16, 4) == 0xfee0_0000)
        #expect(function.model.take().isEmpty)
        move(0, 0x1c, 4)
        #expect(configuration(window + 16, 4) == 1)
    }

    @Test(
        arguments: [
            (1, 0, 4), (3, 0, 4), (5, 0, 4), (6, 0, 4), (7, 0, 4), (0xff, 0, 4), (0, 0x100, 0), (0, 0x100, 3),
            (0, 0x100, 8),
            (0, 0x100, 0xffff_ffff), (0, 0x102, 4), (0, 0x101, 2), (0, 4096, 1), (0, 4094, 4), (2, 1 << 14, 4),
            (0, 0xffff_fffc, 4), (0, 0xffff_ffff, 1), (4, 16, 1),
        ] as [(UInt64, UInt64, UInt64)])
    func `a window onto nothing reads as zero and ignores writes`(place: (bar: UInt64, offset: UInt64, width: UInt64)) {
        move(place.bar, place.offset, place.width)
        configure(window + 16, 4, 0xffff_ffff)
        #expect(configuration(window + 16, 4) == 0)
        #expect(function.model.take().isEmpty)
    }

    @Test func `one access may move the window and use it`() {
        move(0, 0x100, 1)
        function.writeRegion(
            PCIRegion.configuration, at: window + 8, from: ([8, 1, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4] as [UInt8]).span)
        #expect(function.model.take() == [.init(bar: 0, offset: 0x108, byteCount: 4, value: 0x0403_0201)])
    }

    @Test func `a window does not wake a function that is switched off`() {
        move(0, 0x100, 4)
        configure(0x44, 2, 3)
        configure(window + 16, 4, 1)
        #expect(function.model.take().isEmpty)
        #expect(configuration(window + 16, 4) == 0xffff_ffff)
        configure(0x44, 2, 0)
        #expect(configuration(window + 16, 4) == 0x5566_7788)
    }

    @Test func `reset takes the window away`() {
        move(0, 0x100, 4)
        function.reset()
        #expect(configuration(window + 16, 4) == 0)
        #expect(configuration(window + 12, 4) == 0)
    }
}
