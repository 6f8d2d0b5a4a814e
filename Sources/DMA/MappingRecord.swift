import Synchronization

/// What is known of a mapping, in one cache line that does not move while anybody can reach it.
///
/// Readers find it without a lock and look at `state` before anything else. The rest is written before they can find it
/// and stays as it is until none can reach it any more; what is marked as the writer's is used with the lock of the
/// address space held, and atomic only because readers look at its neighbours meanwhile.
@safe
struct MappingRecord: ~Copyable {
    let state: Atomic<UInt64>
    let range: IOVARange
    /// Where this process has the first byte; `nil` for remote memory.
    let host: UnsafeMutableRawPointer?
    /// The `MemoryObject` or `RemoteLink`, which the record keeps alive.
    let memory: Unmanaged<AnyObject>
    /// The offset in the object, or the shift of remote addresses.
    let offset: UInt64
    let rights: AccessRights
    /// What a copy may ask for: the rights of the map that introduced the memory.
    let grantableRights: AccessRights
    /// An unmap gave up on it: it stays blocked until one succeeds. The writer's.
    let isStuck = Atomic<Bool>(false)
    /// How many unmaps are at work on it. The writer's.
    let claimCount = Atomic<UInt32>(0)
    /// Tells apart the mappings that are here one after the other.
    let serial: UInt64
}

/// The word of a mapping at which readers, pinners and unmaps meet.
struct MappingState {
    let bits: UInt64

    /// Consumers are being told of the mapping, or are forgetting it: it occupies its addresses and nothing else.
    static let inTransition: UInt64 = 1 << 63
    /// An unmap wants it gone: neither pins nor transfers may begin.
    static let blocked: UInt64 = 1 << 62
    private static let pinMask: UInt64 = (1 << 48) - 1

    var isInTransition: Bool { bits & MappingState.inTransition != 0 }
    var isBlocked: Bool { bits & MappingState.blocked != 0 }
    var pinCount: Int { Int(bits & MappingState.pinMask) }
    /// Whether the mapping may be used.
    var isOpen: Bool { bits & (MappingState.inTransition | MappingState.blocked) == 0 }
    /// Whether this is the moment that an unmap may be waiting for.
    var isAwaited: Bool { isBlocked && pinCount == 0 }

    /// Why a mapping that is not open cannot be used.
    var refusal: DMAError { isInTransition ? .notFound : .invalid }
}
