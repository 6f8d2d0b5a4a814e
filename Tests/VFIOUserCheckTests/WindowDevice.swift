import DMA
import DeviceModel
import LinuxHost

/// A device whose region 0 can be mapped in two areas, and which has 256 bytes of configuration space.
final class WindowDevice: Device {
    static let byteCount = 0x4000

    let regions: [DeviceModel.Region]
    let interrupts = InterruptSet(counts: [.intx: 1, .error: 1, .request: 1])
    private let window: Window

    private final class Window: Sendable {
        let mapping: MemoryMapping

        init(_ mapping: consuming MemoryMapping) { self.mapping = mapping }
    }

    init() throws {
        let file = try OwnedDescriptor.anonymousMemory(name: "window", byteCount: Self.byteCount)
        let mapping = try MemoryMapping(of: file, byteCount: Self.byteCount, isWritable: true)
        for place in 0..<Self.byteCount { unsafe mapping.bytes[place] = UInt8(truncatingIfNeeded: place / 3) }
        window = Window(mapping)
        var regions = [DeviceModel.Region](repeating: .absent, count: 9)
        regions[0] = DeviceModel.Region(
            byteCount: UInt64(Self.byteCount),
            memory: MappableMemory(descriptor: file, fileOffset: 0, areas: [0x1000..<0x2000, 0x3000..<0x4000]))
        regions[7] = DeviceModel.Region(byteCount: 256)
        self.regions = regions
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        guard index == 0 else { return }
        for place in 0..<bytes.count {
            // The session has checked the access against the region, which is as long as the file.
            bytes[place] = unsafe window.mapping.bytes[Int(offset) + place]
        }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {}
    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}
}
