import Synchronization

/// A range of addresses that a device may touch, and what stands behind it.
///
/// It stays one unit from map to unmap: mappings never merge, and only a whole one can be removed. Counterpart of
/// iommufd's `iopt_area`.
///
/// This is a reference to its record. It may be used with the lock of the address space held; inside a read section of
/// an attached access; and while a pin counts on it.
@safe
struct Mapping {
    let record: UnsafeMutablePointer<MappingRecord>

    var range: IOVARange { unsafe record.pointee.range }
    var rights: AccessRights { unsafe record.pointee.rights }
    var grantableRights: AccessRights { unsafe record.pointee.grantableRights }
    var state: MappingState { MappingState(bits: unsafe record.pointee.state.load(ordering: .sequentiallyConsistent)) }
    var isRemote: Bool { unsafe record.pointee.host == nil }
    /// The offset in the memory object; for remote memory what the peer's addresses are shifted by.
    var offset: UInt64 { unsafe record.pointee.offset }

    var backing: Backing {
        let memory = unsafe record.pointee.memory.takeUnretainedValue()
        if isRemote {
            // A record without a host address was made of a link.
            return .remote(unsafe unsafeDowncast(memory, to: RemoteLink.self), shift: offset)
        }
        return .file(unsafe unsafeDowncast(memory, to: MemoryObject.self), offset: offset)
    }

    /// Whether both show the same memory object.
    func hasSameMemory(as other: Mapping) -> Bool {
        unsafe record.pointee.memory.toOpaque() == other.record.pointee.memory.toOpaque()
    }

    /// The backing, whose reference the record gives up. No reader is in the mapping and none gets there any more.
    func takeBacking() -> Backing {
        let backing = backing
        unsafe record.pointee.memory.release()
        return backing
    }

    var snapshot: MappingSnapshot {
        let state = state
        return MappingSnapshot(range: range, rights: rights, pinCount: state.pinCount, isBlocked: state.isBlocked)
    }

    /// The bytes of a part of the mapping, which is not remote.
    func bytes(of part: IOVARange) -> UnsafeMutableRawBufferPointer {
        precondition(range.contains(part), "a part of a mapping lies within it")
        let start = unsafe record.pointee.host?.advanced(by: Int(part.first.rawValue - range.first.rawValue))
        return unsafe UnsafeMutableRawBufferPointer(start: start, count: Int(part.byteCount))
    }
}

// What pinners do, inside a section

extension Mapping {
    /// Counts a pin, unless the mapping has been closed.
    func count() throws(DMAError) {
        let (before, _) = unsafe record.pointee.state.wrappingAdd(1, ordering: .sequentiallyConsistent)
        let state = MappingState(bits: before)
        guard state.isOpen else { throw state.refusal }
    }

    /// Takes a pin back; whether an unmap may be waiting for that.
    func uncount() -> Bool {
        let (_, after) = unsafe record.pointee.state.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        return MappingState(bits: after).isAwaited
    }
}

// What the writer does, with the lock of the address space held

extension Mapping {
    /// Closes it to new pins and transfers.
    private func block() { set(MappingState.blocked) }

    func beginTransition() { set(MappingState.inTransition) }

    func endTransition() { clear(MappingState.inTransition) }

    var isStuck: Bool {
        get { unsafe record.pointee.isStuck.load(ordering: .relaxed) }
        nonmutating set { unsafe record.pointee.isStuck.store(newValue, ordering: .relaxed) }
    }

    /// Blocks it for one unmap.
    func claim() -> MappingClaim {
        block()
        unsafe record.pointee.claimCount.wrappingAdd(1, ordering: .relaxed)
        return MappingClaim(of: self)
    }

    /// Ends the work of one unmap, and opens the mapping again when no other is at work and none has given up on it.
    func endClaim() {
        let rest = unsafe record.pointee.claimCount.wrappingSubtract(1, ordering: .relaxed).newValue
        if rest == 0 && !isStuck { clear(MappingState.blocked) }
    }

    private func set(_ flag: UInt64) {
        unsafe record.pointee.state.bitwiseOr(flag, ordering: .sequentiallyConsistent)
    }

    private func clear(_ flag: UInt64) {
        unsafe record.pointee.state.bitwiseAnd(~flag, ordering: .sequentiallyConsistent)
    }
}

/// What an unmap remembers of a mapping that it is at work on while the lock is free: the mapping may be gone when it
/// comes back, and another one be in its place.
@safe
struct MappingClaim {
    let range: IOVARange
    private let record: UnsafeMutablePointer<MappingRecord>
    private let serial: UInt64

    fileprivate init(of mapping: Mapping) {
        range = mapping.range
        unsafe record = mapping.record
        serial = unsafe mapping.record.pointee.serial
    }

    func isOn(_ mapping: Mapping) -> Bool {
        unsafe record == mapping.record && serial == mapping.record.pointee.serial
    }

    func isSame(as other: MappingClaim) -> Bool {
        unsafe record == other.record && serial == other.serial
    }
}

extension [MappingClaim] {
    /// Whether one of the mappings, which are in ascending order, has an address in `range`.
    func touch(_ range: IOVARange) -> Bool {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if self[middle].range.last < range.first { low = middle + 1 } else { high = middle }
        }
        return low < count && self[low].range.first <= range.last
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
