/// A property that only some regions have.
///
/// Each opens with a header; the offset of the next counts from the start of the region info, 0 ends the chain.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 2 | kind |
/// | 2 | 2 | version |
/// | 4 | 4 | offset of the next capability |
///
/// Kind 1, the areas of the region that can be mapped (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`):
///
/// | offset | size | field |
/// |---|---|---|
/// | 8 | 4 | number of areas |
/// | 12 | 4 | reserved |
/// | 16 | 16 each | areas: 8 bytes offset, 8 bytes size |
///
/// Kind 2, what a device-specific region is (`VFIO_REGION_INFO_CAP_TYPE`):
///
/// | offset | size | field |
/// |---|---|---|
/// | 8 | 4 | type |
/// | 12 | 4 | subtype |
///
/// Kind 3 has no more than its header (`VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`).
public enum RegionCapability: Hashable, Sendable {
    /// A part of a region, in bytes from its start.
    public struct Area: Hashable, Sendable {
        public var offset: UInt64
        public var size: UInt64

        public init(offset: UInt64, size: UInt64) {
            self.offset = offset
            self.size = size
        }
    }

    case mappableAreas([Area])
    case type(UInt32, subtype: UInt32)
    /// The MSI-X table's pages may be mapped too.
    case mappableMSIX
    /// A capability of a later standard, left alone.
    case other(kind: UInt16, version: UInt16)

    static let headerByteCount = 8
    private static let areaByteCount = 16

    public var byteCount: Int {
        switch self {
        case .mappableAreas(let areas): 16 + areas.count * RegionCapability.areaByteCount
        case .type: 16
        case .mappableMSIX, .other: RegionCapability.headerByteCount
        }
    }

    static func writeChain(_ capabilities: [RegionCapability], to writer: inout MessageWriter) {
        var offset = RegionInfo.byteCount
        for (position, capability) in capabilities.enumerated() {
            offset += capability.byteCount
            let isLast = position == capabilities.count - 1
            capability.write(to: &writer, nextOffset: isLast ? 0 : offset)
        }
    }

    private func write(to writer: inout MessageWriter, nextOffset: Int) {
        switch self {
        case .mappableAreas(let areas):
            writer.append(UInt16(1))
            writer.append(UInt16(1))
            writer.append(count32: nextOffset)
            writer.append(count32: areas.count)
            writer.append(UInt32(0))
            for area in areas {
                writer.append(area.offset)
                writer.append(area.size)
            }
        case .type(let type, let subtype):
            writer.append(UInt16(2))
            writer.append(UInt16(1))
            writer.append(count32: nextOffset)
            writer.append(type)
            writer.append(subtype)
        case .mappableMSIX:
            writer.append(UInt16(3))
            writer.append(UInt16(1))
            writer.append(count32: nextOffset)
        case .other(let kind, let version):
            writer.append(kind)
            writer.append(version)
            writer.append(count32: nextOffset)
        }
    }

    /// Follows a chain. It may only lead forward, which also ends every chain, and past the capability before: else a
    /// megabyte of capabilities inside each other would be read into gigabytes.
    static func parseChain(in payload: Span<UInt8>, from first: Int) throws(WireError) -> [RegionCapability] {
        var capabilities: [RegionCapability] = []
        var floor = RegionInfo.byteCount
        var offset = first
        while offset != 0 {
            if offset < floor || payload.count - offset < headerByteCount {
                throw .brokenCapabilityChain(offset: offset)
            }
            let capability = try RegionCapability(parsing: payload, at: offset)
            capabilities.append(capability)
            floor = offset + capability.byteCount
            offset = payload.count32(at: offset + 4)
        }
        return capabilities
    }

    private init(parsing payload: Span<UInt8>, at offset: Int) throws(WireError) {
        let kind: UInt16 = payload.integer(at: offset)
        let version: UInt16 = payload.integer(at: offset + 2)
        switch (kind, version) {
        case (1, 1):
            try payload.requireCount(atLeast: offset + 16)
            let count = payload.count32(at: offset + 8)
            let room = (payload.count - offset - 16) / RegionCapability.areaByteCount
            if count > room { throw .countTooLarge(maximum: room, actual: UInt64(count)) }
            var areas: [Area] = []
            areas.reserveCapacity(count)
            for index in 0..<count {
                let start = offset + 16 + index * RegionCapability.areaByteCount
                areas.append(Area(offset: payload.integer(at: start), size: payload.integer(at: start + 8)))
            }
            self = .mappableAreas(areas)
        case (2, 1):
            try payload.requireCount(atLeast: offset + 16)
            self = .type(payload.integer(at: offset + 8), subtype: payload.integer(at: offset + 12))
        case (3, 1):
            self = .mappableMSIX
        default:
            self = .other(kind: kind, version: version)
        }
    }
}
