public import LinuxHost

/// A window onto a device: a BAR, the ROM, the configuration space. `struct vfio_region_info`
public struct Region: Sendable {
    /// In bytes; zero for a window that the device does not have.
    public let byteCount: UInt64
    public let isReadable, isWritable: Bool
    /// The part of the window that a client may map into its own address space.
    public let memory: MappableMemory?

    /// - Precondition: what is mappable lies within the window.
    public init(byteCount: UInt64, isReadable: Bool = true, isWritable: Bool = true, memory: MappableMemory? = nil) {
        let mappableEnd = memory?.areas.last?.upperBound ?? 0
        precondition(mappableEnd <= byteCount, "mappable areas lie within their region")
        self.byteCount = byteCount
        self.isReadable = isReadable
        self.isWritable = isWritable
        self.memory = memory
    }

    /// A window that the device does not have.
    public static let absent = Region(byteCount: 0, isReadable: false, isWritable: false)
}

/// The pieces of a region that are plain memory in a file, and so can be mapped by a client instead of asked for by
/// messages. Reads and writes by message must see the same bytes.
public final class MappableMemory: Sendable {
    /// The file. The session sends duplicates of it to clients.
    public let descriptor: OwnedDescriptor
    /// Where offset 0 of the region lies in the file.
    public let fileOffset: UInt64
    /// Offsets within the region, ascending, page-aligned, not overlapping.
    public let areas: [Range<UInt64>]

    /// - Precondition: `areas` are as described.
    public init(descriptor: consuming OwnedDescriptor, fileOffset: UInt64 = 0, areas: [Range<UInt64>]) {
        let pageSize: UInt64 = 4096
        for area in areas {
            precondition(
                !area.isEmpty && area.lowerBound % pageSize == 0 && area.upperBound % pageSize == 0,
                "mappable areas are whole pages")
        }
        for (left, right) in zip(areas, areas.dropFirst()) {
            precondition(left.upperBound <= right.lowerBound, "mappable areas ascend and do not overlap")
        }
        self.descriptor = descriptor
        self.fileOffset = fileOffset
        self.areas = areas
    }
}
