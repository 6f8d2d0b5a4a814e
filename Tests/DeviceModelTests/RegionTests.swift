import DeviceModel
import LinuxHost
import Testing

@Suite struct `Regions` {
    @Test func `a window that the device does not have can be neither read nor written`() {
        #expect(Region.absent.byteCount == 0)
        #expect(!Region.absent.isReadable)
        #expect(!Region.absent.isWritable)
        #expect(Region.absent.memory == nil)
    }

    @Test func `mappable areas that touch are fine`() throws {
        let descriptor = try OwnedDescriptor.anonymousMemory(name: "test", byteCount: 0x4000)
        let memory = MappableMemory(descriptor: descriptor, areas: [0..<0x1000, 0x1000..<0x2000, 0x3000..<0x4000])
        #expect(Region(byteCount: 0x4000, memory: memory).memory?.areas.count == 3)
    }

    @Test(
        arguments: [
            [0..<0], [0..<0x800], [0x800..<0x1000], [0..<0x2000, 0x1000..<0x3000], [0x2000..<0x3000, 0..<0x1000],
        ] as [[Range<UInt64>]])
    func `S69 areas are whole pages in ascending order`(areas: [Range<UInt64>]) async {
        await #expect(processExitsWith: .failure) {
            [starts = areas.map(\.lowerBound) as [UInt64], ends = areas.map(\.upperBound) as [UInt64]] in
            let descriptor = try OwnedDescriptor.anonymousMemory(name: "test", byteCount: 0x4000)
            _ = MappableMemory(descriptor: descriptor, areas: zip(starts, ends).map { $0..<$1 })
        }
    }

    @Test func `S69 areas lie within their region`() async {
        await #expect(processExitsWith: .failure) {
            let descriptor = try OwnedDescriptor.anonymousMemory(name: "test", byteCount: 0x4000)
            _ = Region(byteCount: 0x1000, memory: MappableMemory(descriptor: descriptor, areas: [0..<0x2000]))
        }
    }
}
