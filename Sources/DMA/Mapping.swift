/// A range of addresses that a device may touch, and what stands behind it.
///
/// It stays one unit from map to unmap: mappings never merge, and only a whole one can be removed. Counterpart of
/// iommufd's `iopt_area`.
///
/// The variables belong to the address space and are touched with its lock held; the rest never changes.
final class Mapping: @unchecked Sendable {  // as said above
    enum Phase {
        /// Consumers are being told of it: it occupies its addresses and nothing else.
        case settingUp
        case ready
        /// Consumers are forgetting it: as `settingUp`.
        case tearingDown
    }

    let range: IOVARange
    let backing: Backing
    let rights: AccessRights
    /// What a copy may ask for: the rights of the map that introduced the memory.
    let grantableRights: AccessRights
    var phase: Phase
    /// An unmap wants it gone: neither pins nor transfers may begin.
    var isBlocked = false
    var pinCount = 0
    /// Copies under way that touch the bytes with no lock held.
    var copyCount = 0

    init(range: IOVARange, backing: Backing, rights: AccessRights, grantableRights: AccessRights, phase: Phase) {
        self.range = range
        self.backing = backing
        self.rights = rights
        self.grantableRights = grantableRights
        self.phase = phase
    }

    var snapshot: MappingSnapshot {
        MappingSnapshot(range: range, rights: rights, pinCount: pinCount, isBlocked: isBlocked)
    }
}

/// What one mapping of an address space looked like at one moment.
public struct MappingSnapshot: Hashable, Sendable {
    public let range: IOVARange
    public let rights: AccessRights
    /// Pins that hold it, of all accesses.
    public let pinCount: Int
    /// Whether an unmap has closed it to new pins and transfers. It stays so when the unmap fails, until one succeeds.
    public let isBlocked: Bool

    public init(range: IOVARange, rights: AccessRights, pinCount: Int, isBlocked: Bool) {
        self.range = range
        self.rights = rights
        self.pinCount = pinCount
        self.isBlocked = isBlocked
    }
}

extension MappingSnapshot: CustomStringConvertible {
    public var description: String {
        "\(range) \(rights)" + (pinCount == 0 ? "" : " pins \(pinCount)") + (isBlocked ? " blocked" : "")
    }
}

/// A part of the memory that a map or copy brings into an address space.
struct NewPiece: Sendable {
    enum Memory {
        case file(MemoryObject, offset: UInt64)
        /// `address` is where the peer has the first byte; `nil` where it is going to be mapped.
        case remote(RemoteLink, address: IOVA?)
    }

    let memory: Memory
    let byteCount: UInt64
    let grantableRights: AccessRights

    /// What the alignment rules look at.
    var address: UInt64 {
        switch memory {
        case .file(_, let offset): offset
        case .remote: 0
        }
    }

    func backing(placedAt first: IOVA) -> Backing {
        switch memory {
        case .file(let object, let offset): .file(object, offset: offset)
        case .remote(let link, let address): .remote(link, shift: (address ?? first).rawValue &- first.rawValue)
        }
    }

    /// Whether the memory has all the bytes. The end of the piece was checked not to overflow.
    var fits: Bool {
        switch memory {
        case .file(let object, let offset): offset + byteCount <= UInt64(object.byteCount)
        case .remote: true
        }
    }

    var isWritable: Bool {
        switch memory {
        case .file(let object, _): object.isWritable
        case .remote: true
        }
    }

    /// Gives the count of mappings back for a piece that did not become one.
    func abandon() {
        if case .remote(let link, _) = memory { link.release() }
    }
}
