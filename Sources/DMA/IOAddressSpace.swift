import LinuxHost

/// What the devices of one client may touch: ranges of addresses, what stands behind each, and who holds on to it.
///
/// Mappings never overlap and are never split. A mapping with pins cannot be removed: `unmap` closes it to new pins and
/// transfers, asks every attached access to let go, and returns once none holds on, so that nothing reaches the memory
/// afterwards. The semantics are those of Linux's iommufd (`IOMMU_IOAS_*`), including the error numbers and the order
/// in which they are looked for.
///
/// Threads: every method may be called on any thread at any time. Changes take a lock, accesses read without one. Locks
/// are taken in the order access, address space, dirty log, and never two of a kind; none is held while a callback, a
/// consumer, remote memory or a copy of bytes runs, nor while readers are waited for. A caller of `unmap` must not hold a lock that
/// a callback takes, and a callback must not change the address space that calls it.
///
/// Not implemented: splitting a mapping as VFIO's type 1 interface could.
public final class IOAddressSpace: Sendable {
    public struct Configuration: Sendable {
        /// The unit in which memory is pinned, a power of two.
        public var pageSize: UInt64 = 4096
        /// How often `unmap` asks for the pins of a mapping before it gives up with `EDEADLOCK`. With zero it never asks;
        /// a change of attachment asks at least once.
        public var unmapRounds = 100
        /// How long `unmap` waits for the pins of a mapping over all rounds; each has an equal share, counted from when
        /// the callbacks have returned.
        public var unmapWait: Duration = .seconds(1)
        /// The number of mappings past which `ENOSPC` is the answer.
        public var maximumMappings = Int.max

        public init() {}

        var roundWait: Duration { unmapRounds > 0 ? unmapWait / unmapRounds : .zero }
    }

    let configuration: Configuration
    let state: Monitor<AddressSpaceState>
    /// What readers find the mappings by.
    let translation: Translation
    let dirtyLog: DirtyLog

    /// An address space without mappings.
    public init(_ configuration: Configuration = .init()) {
        let pageSize = configuration.pageSize
        precondition(pageSize > 0 && pageSize & (pageSize - 1) == 0, "a page size is a power of two")
        self.configuration = configuration
        dirtyLog = DirtyLog(pageSize: pageSize)
        translation = Translation(pageSize: pageSize)
        state = Monitor(
            AddressSpaceState(
                MappingTable(translation), pageSize: pageSize, maximumMappings: configuration.maximumMappings),
            as: .addressSpace)
        translation.bind(to: self)
    }

    deinit {
        // No access is attached, or it would keep the address space alive: there are no readers.
        let (ranges, consumers) = state.withLock { state in
            (state.table.mappings(overlapping: .everything).map(\.range), state.consumers)
        }
        for range in ranges {
            LockChecker.callsBack()
            for attached in consumers { attached.consumer.unmap(range) }
        }
        for backing in state.withLock({ $0.removeAll() }) { backing.release() }
        translation.deallocate()
    }

    /// The ranges in which mappings may be, ascending: all addresses but the reserved ones. `IOMMU_IOAS_IOVA_RANGES`
    public var usableRanges: [IOVARange] { state.withLock { $0.usable } }

    /// What the addresses, sizes and file offsets of mappings must be multiples of: the strictest that an attached
    /// access or consumer asks for.
    public var alignment: UInt64 { state.withLock { $0.alignment } }

    /// All mappings as they are now, ascending.
    public func mappings() -> [MappingSnapshot] {
        state.withLock { $0.table.mappings(overlapping: .everything).map(\.snapshot) }
    }

    /// Whether there is no mapping at all.
    public var isEmpty: Bool { state.withLock { $0.table.count == 0 } }

    /// Keeps mappings out of a range until the reservation is released. Reservations may overlap each other.
    ///
    /// - Throws: `EADDRINUSE` when a mapping or an allowed range is there.
    @discardableResult
    public func reserve(_ range: IOVARange) throws(DMAError) -> Reservation {
        let owner = try state.withLock { (state) throws(DMAError) in try state.reserve(range) }
        return Reservation(range: range, in: self, owner: owner)
    }

    /// Confines `mapAnywhere` to `ranges`, all at once instead of those allowed before; none lifts the restriction.
    /// Existing mappings and maps at a fixed address do not care. `IOMMU_IOAS_ALLOW_IOVAS`
    ///
    /// - Throws: `EINVAL` for a range of a single byte or ranges that overlap, `EADDRINUSE` for one that overlaps a
    ///   reserved range; the ranges allowed before then stay.
    public func allow(_ ranges: [IOVARange]) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in try state.allow(ranges) }
    }

    func add(_ access: DMAAccess) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in try state.add(access) }
    }

    func remove(_ access: DMAAccess) {
        state.withLock { $0.remove(access) }
    }

    /// Lets threads that wait for pins to go look again.
    func wakeWaiters() {
        state.update { _ in }
    }

    /// How long a change waits for readers so that what was retired can be used again.
    private static let clearUpTime: Duration = .milliseconds(10)

    /// Slows a thread down that retires faster than readers leave. Not for ever: a reader may be held up by a page that
    /// does not come.
    func clearUp() {
        let end = MonotonicInstant.after(IOAddressSpace.clearUpTime)
        var patience = Patience()
        while state.withLock({ $0.isCluttered }), MonotonicInstant.now < end {
            patience.wait()
            state.withLock { $0.sweep() }
        }
    }
}

/// A range that an address space keeps mappings out of.
///
/// It stays reserved for the life of the address space unless it is released.
public final class Reservation: Sendable {
    public let range: IOVARange
    private let space: IOAddressSpace
    private let owner: Int

    fileprivate init(range: IOVARange, in space: IOAddressSpace, owner: Int) {
        self.range = range
        self.space = space
        self.owner = owner
    }

    /// Gives the range back; from the second time on nothing happens.
    public func release() {
        space.state.withLock { $0.release(owner: owner) }
    }
}

extension Backing {
    /// A mapping of it is gone. Called with no lock held.
    func release() {
        if case .remote(let link, _) = self { link.release() }
    }
}

extension IOAddressSpace: CustomStringConvertible {
    /// A picture of the address space, for people: a line for each mapping, reserved and allowed range.
    public var description: String {
        state.withLock { state in
            var lines = [
                "I/O address space: \(state.table.count) mappings, \(state.accesses.count) accesses, "
                    + "\(state.consumers.count) consumers, alignment \(state.alignment)"
            ]
            for mapping in state.table.mappings(overlapping: .everything) {
                let note = mapping.state.isInTransition ? " in transition" : ""
                lines.append("  \(mapping.snapshot) \(mapping.backing)\(note)")
            }
            lines += state.reservedRanges.map { "  reserved \($0)" }
            lines += state.allowed.map { "  allowed \($0)" }
            return lines.joined(separator: "\n")
        }
    }
}

extension Backing: CustomStringConvertible {
    var description: String {
        switch self {
        case .file(let object, let offset):
            "file of \(object.byteCount) bytes at 0x" + String(offset, radix: 16)
        case .remote(_, let shift):
            shift == 0 ? "remote" : "remote shifted by 0x" + String(shift, radix: 16)
        }
    }
}
