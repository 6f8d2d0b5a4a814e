import PCI

/// Where the structures of the transport lie. Virtio 1.2, 4.1.4
///
/// All in one base address register, each at the start of a page of its own; the MSI-X structures have another.
enum StructureLayout {
    static let bar = 4
    static let barByteCount: UInt64 = 0x4000
    static let common = Structure(type: 1, offset: 0x0000, byteCount: 0x1000)
    static let interruptStatus = Structure(type: 3, offset: 0x1000, byteCount: 0x1000)
    static let device = Structure(type: 4, offset: 0x2000, byteCount: 0x1000)
    static let notify = Structure(type: 2, offset: 0x3000, byteCount: 0x1000)
    /// What a queue's notify offset is multiplied with to find its register.
    static let notifyMultiplier: UInt32 = 4

    /// The table of MSI-X vectors and its pending bits.
    static let vectorBar = 1
    static let vectorBarByteCount: UInt64 = 0x1000
    static let pendingOffset: UInt64 = 0x800

    struct Structure {
        /// `cfg_type`
        let type: UInt8
        let offset: UInt64
        let byteCount: UInt64

        var range: Range<UInt64> { offset..<offset + byteCount }
    }
}

/// A structure that an access to the base address register falls on, and where in it.
enum StructureAccess {
    case common(Int), interruptStatus, device(Int)
    /// The register of a queue, or a place behind all of them.
    case notify(queue: Int)

    /// A naturally aligned access never straddles an edge, because all edges are those of pages.
    init?(at offset: UInt64) {
        let place = Int(offset & 0xfff)
        switch offset {
        case StructureLayout.common.range: self = .common(place)
        case StructureLayout.interruptStatus.range: self = .interruptStatus
        case StructureLayout.device.range: self = .device(place)
        case StructureLayout.notify.range: self = .notify(queue: place / Int(StructureLayout.notifyMultiplier))
        default: return nil
        }
    }
}
