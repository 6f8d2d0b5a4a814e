import DMA

/// A fault as the event queue carries it. `struct virtio_iommu_fault`
///
///     offset  size
///        0      1   reason
///        1      3   reserved
///        4      4   flags: read 1, write 2, address 0x100
///        8      4   endpoint
///       12      4   reserved
///       16      8   address
struct FaultRecord: Hashable, Sendable {
    /// `VIRTIO_IOMMU_FAULT_R_*`
    enum Reason: UInt8, Sendable {
        case unknown = 0
        /// The endpoint is attached to no domain.
        case domain = 1
        /// Nothing is mapped there, or not for this.
        case mapping = 2
    }

    static let byteCount = 24

    let reason: Reason
    let endpoint: EndpointID
    let address: IOVA
    let rights: AccessRights

    var bytes: [UInt8] {
        var flags: UInt32 = 0x100
        if rights.contains(.read) { flags |= 1 }
        if rights.contains(.write) { flags |= 2 }
        var bytes: [UInt8] = [reason.rawValue, 0, 0, 0]
        bytes.append(littleEndian: flags)
        bytes.append(littleEndian: endpoint.rawValue)
        bytes += [0, 0, 0, 0]
        bytes.append(littleEndian: address.rawValue)
        return bytes
    }
}
