public import DMA

/// Addresses of an endpoint that can be mapped in no domain it is attached to.
public struct ReservedRegion: Hashable, Sendable {
    /// `VIRTIO_IOMMU_RESV_MEM_T_*`
    public enum Kind: UInt8, Hashable, Sendable {
        /// Accesses there are refused.
        case reserved = 0
        /// Writes there are interrupts.
        case messages = 1
    }

    public let range: IOVARange
    public let kind: Kind

    public init(_ range: IOVARange, _ kind: Kind = .reserved) {
        self.range = range
        self.kind = kind
    }

    /// Where x86 takes writes for interrupts.
    public static let x86Messages = ReservedRegion(
        IOVARange(first: IOVA(0xfee0_0000), last: IOVA(0xfeef_ffff)), .messages)
}

/// What a probe tells of an endpoint: its reserved regions, one property each. `struct virtio_iommu_probe_resv_mem`
///
///     offset  size
///        0      2   type, 1
///        2      2   length of what follows, 20
///        4      1   subtype
///        5      3   reserved
///        8     16   first and last address
enum ProbeProperties {
    /// The size of the property of one region.
    static let regionByteCount = 24

    /// The properties one after the other, zero behind them up to `byteCount`; `nil` when they do not fit.
    static func bytes(_ regions: [ReservedRegion], byteCount: Int) -> [UInt8]? {
        guard regions.count * regionByteCount <= byteCount else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(byteCount + IOMMUStatus.tailByteCount)
        for region in regions {
            bytes.append(littleEndian: 1 as UInt16)
            bytes.append(littleEndian: UInt16(regionByteCount - 4))
            bytes.append(region.kind.rawValue)
            bytes += [0, 0, 0]
            bytes.append(littleEndian: region.range.first.rawValue)
            bytes.append(littleEndian: region.range.last.rawValue)
        }
        bytes += repeatElement(0, count: byteCount - bytes.count)
        return bytes
    }
}
