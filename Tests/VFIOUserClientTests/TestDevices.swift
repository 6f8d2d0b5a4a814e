import DMA
import DeviceModel
import LinuxHost

/// A device with a window of memory, parts of which can be mapped.
final class WindowDevice: Device {
    static let byteCount = 0x4000
    static let fileOffset = 0x2000
    static let areas: [Range<UInt64>] = [0x1000..<0x2000, 0x3000..<0x4000]

    let regions: [Region]
    let interrupts = InterruptSet(counts: [:])
    private let mapping: Mapping

    private final class Mapping: Sendable {
        let memory: MemoryMapping

        init(_ memory: consuming MemoryMapping) { self.memory = memory }
    }

    init() throws(Errno) {
        let size = Self.fileOffset + Self.byteCount
        let file = try OwnedDescriptor.anonymousMemory(name: "window", byteCount: size)
        mapping = Mapping(try MemoryMapping(of: file, byteCount: size, isWritable: true))
        var regions = [Region](repeating: .absent, count: 9)
        regions[0] = Region(
            byteCount: UInt64(Self.byteCount),
            memory: MappableMemory(descriptor: file, fileOffset: UInt64(Self.fileOffset), areas: Self.areas))
        regions[7] = Region(byteCount: 256)
        self.regions = regions
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        guard index == 0 else { return }
        for place in 0..<bytes.count {
            // The session has checked the access against the region, and the file holds the region.
            bytes[place] = unsafe mapping.memory.bytes[Self.fileOffset + Int(offset) + place]
        }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        guard index == 0 else { return }
        for place in 0..<bytes.count {
            unsafe mapping.memory.bytes[Self.fileOffset + Int(offset) + place] = bytes[place]
        }
    }

    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}
}

/// A device with sixty-four vectors and nothing else.
final class ManyVectors: Device {
    let regions = [Region](repeating: .absent, count: 9)
    let interrupts = InterruptSet(counts: [.msix: 64])

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {}
    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {}
    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}
}
