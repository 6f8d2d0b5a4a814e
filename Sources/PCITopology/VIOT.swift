/// The ACPI table that tells a guest which PCI functions are behind a virtio-iommu. Virtual I/O Translation Table
///
/// One IOMMU, which is a PCI function itself, and the functions whose accesses it translates: each is an endpoint whose ID
/// is its own requester ID. The table is one value, made at once; this target has no I/O and knows no device.
///
/// ```
///  0  header: "VIOT", byte count, revision, checksum, who made it       36 bytes, as every table
/// 36  node count u16, offset of the first u16, reserved u64             12
/// 48  the IOMMU: type 3, reserved, length u16, segment u16, ID u16, reserved u64                16
/// 64  endpoints: type 1, reserved, length u16, first endpoint u32, first and last segment       24 each
///     u16, first and last ID u16, offset of the IOMMU's node u16, reserved u8 × 6
/// ```
public struct VIOT: Hashable, Sendable {
    /// Functions without a gap between their requester IDs.
    public struct Range: Hashable, Sendable {
        public internal(set) var first: PCIAddress
        public internal(set) var last: PCIAddress
    }

    public let iommu: PCIAddress
    /// Ascending, none adjoining the next.
    public let ranges: [Range]

    /// Functions that follow each other directly share a range. Nothing between two of them is ever taken in: a function
    /// that the IOMMU does not know would fail behind it.
    ///
    /// - Precondition: the IOMMU is not among the endpoints; nothing translates for it.
    public init(iommu: PCIAddress, endpoints: some Sequence<PCIAddress>) {
        var ranges: [Range] = []
        for endpoint in Set(endpoints).sorted() {
            precondition(endpoint != iommu, "an IOMMU is no endpoint of itself")
            if let last = ranges.last?.last, Int(endpoint.requesterID) == Int(last.requesterID) + 1 {
                ranges[ranges.count - 1].last = endpoint
            } else {
                ranges.append(Range(first: endpoint, last: endpoint))
            }
        }
        self.iommu = iommu
        self.ranges = ranges
    }

    /// The whole table with its checksum, as QEMU's `-acpitable file=` takes it.
    public var bytes: [UInt8] {
        var table = TableBytes()
        table.append("VIOT")
        table.append(UInt32(byteCount))
        table.append(UInt8(0))  // revision
        table.append(UInt8(0))  // checksum, below
        table.append("OUTBRD")
        table.append("OUTBOARD")
        table.append(UInt32(1))  // revision of what that names
        table.append("OUTB")
        table.append(UInt32(1))
        table.append(UInt16(1 + ranges.count))
        table.append(UInt16(Layout.iommuNode))
        table.append(UInt64(0))

        table.append(Layout.virtioIOMMUOnPCI)
        table.append(UInt8(0))
        table.append(UInt16(Layout.iommuNodeByteCount))
        table.append(UInt16(0))  // segment
        table.append(iommu.requesterID)
        table.append(UInt64(0))

        for range in ranges {
            table.append(Layout.pciRange)
            table.append(UInt8(0))
            table.append(UInt16(Layout.rangeNodeByteCount))
            table.append(UInt32(range.first.requesterID))
            table.append(UInt16(0))  // first and last segment
            table.append(UInt16(0))
            table.append(range.first.requesterID)
            table.append(range.last.requesterID)
            table.append(UInt16(Layout.iommuNode))
            table.append(UInt16(0))
            table.append(UInt32(0))
        }
        return table.withChecksum(at: Layout.checksum)
    }

    /// The table for people, one line for itself and one for each node.
    public var text: String {
        var lines = ["VIOT: \(byteCount) bytes, checksum 0x\(hexadecimal(UInt64(bytes[Layout.checksum]), digits: 2))"]
        lines.append("  virtio-iommu: PCI \(iommu)")
        for range in ranges {
            let first = hexadecimal(UInt64(range.first.requesterID), digits: 4)
            let last = hexadecimal(UInt64(range.last.requesterID), digits: 4)
            lines.append(
                range.first == range.last
                    ? "  endpoint 0x\(first): PCI \(range.first)"
                    : "  endpoints 0x\(first) to 0x\(last): PCI \(range.first) to \(range.last)")
        }
        return lines.map { $0 + "\n" }.joined()
    }

    private var byteCount: Int {
        Layout.iommuNode + Layout.iommuNodeByteCount + ranges.count * Layout.rangeNodeByteCount
    }

    private enum Layout {
        static let checksum = 9
        static let iommuNode = 48
        static let iommuNodeByteCount = 16
        static let rangeNodeByteCount = 24
        /// Types of nodes.
        static let pciRange: UInt8 = 1
        static let virtioIOMMUOnPCI: UInt8 = 3
    }
}

/// A table as it grows; numbers are little endian.
private struct TableBytes {
    private var bytes: [UInt8] = []

    mutating func append(_ text: String) { bytes += Array(text.utf8) }

    mutating func append<Number: FixedWidthInteger & UnsignedInteger>(_ number: Number) {
        for shift in stride(from: 0, to: Number.bitWidth, by: 8) { bytes.append(UInt8(number >> Number(shift) & 0xff)) }
    }

    /// The table with the byte at `offset`, zero so far, set so that the sum of all is zero.
    func withChecksum(at offset: Int) -> [UInt8] {
        var bytes = bytes
        bytes[offset] = bytes.reduce(0) { $0 &- $1 }
        return bytes
    }
}
