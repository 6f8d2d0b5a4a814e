import Synchronization

/// Where the readers of an address space begin. A reference to memory that lives as long as the address space, and that
/// as long as an access is attached to it.
@safe
struct Translation: @unchecked Sendable {  // All that changes in it is atomic.
    private let roots: UnsafeMutablePointer<Roots>
    private static let lastSerial = Atomic<UInt64>(0)

    @safe
    private struct Roots: ~Copyable {
        let tree = Atomic<UInt>(0)
        let directory = Atomic<UInt>(0)
        let pageShift: UInt64
        let serial: UInt64
        /// Whether writes are noted in the dirty log.
        let tracksWrites = Atomic<Bool>(false)
        /// Set before any access can be attached.
        var space: Unmanaged<IOAddressSpace>?
    }

    /// What a pointer to it holds; `nil` for zero.
    init?(bits: UInt) {
        guard let roots = unsafe UnsafeMutablePointer<Roots>(bitPattern: bits) else { return nil }
        unsafe self.roots = roots
    }

    var bits: UInt { UInt(bitPattern: unsafe roots) }

    /// Where readers are going to begin. Goes with `deallocate`.
    init(pageSize: UInt64) {
        unsafe roots = .allocate(capacity: 1)
        let serial = Translation.lastSerial.wrappingAdd(1, ordering: .relaxed).newValue
        unsafe roots.initialize(to: Roots(pageShift: UInt64(pageSize.trailingZeroBitCount), serial: serial))
    }

    /// Says whose it is.
    func bind(to space: IOAddressSpace) {
        unsafe roots.pointee.space = Unmanaged.passUnretained(space)
    }

    func deallocate() {
        unsafe roots.deinitialize(count: 1)
        unsafe roots.deallocate()
    }

    /// Memory is pinned in pages of two to the power of this.
    var pageShift: UInt64 { unsafe roots.pointee.pageShift }

    /// Tells the address space from those whose roots were in the same memory before.
    var serial: UInt64 { unsafe roots.pointee.serial }

    /// The top node of the mapping tree; zero when nothing is mapped.
    var treeRoot: UInt {
        get { unsafe roots.pointee.tree.load(ordering: .acquiring) }
        nonmutating set { unsafe roots.pointee.tree.store(newValue, ordering: .releasing) }
    }

    /// The top table of the page directory with its height in the low bits; zero when there is none.
    var directoryRoot: UInt {
        get { unsafe roots.pointee.directory.load(ordering: .acquiring) }
        nonmutating set { unsafe roots.pointee.directory.store(newValue, ordering: .releasing) }
    }

    /// Whether writes are noted in the dirty log.
    var tracksWrites: Bool {
        get { unsafe roots.pointee.tracksWrites.load(ordering: .sequentiallyConsistent) }
        nonmutating set { unsafe roots.pointee.tracksWrites.store(newValue, ordering: .sequentiallyConsistent) }
    }
}

// Inside a section of an attached access, or as long as a pin counts on one

extension Translation {
    /// The mapping that holds an address.
    @inline(__always)
    func find(_ iova: IOVA) -> Mapping? {
        if let mapping = PageDirectory.find(iova.rawValue, from: self), mapping.range.contains(iova) { return mapping }
        return MappingTree.find(iova.rawValue, from: self)
    }

    /// The mapping that holds an address and may be used.
    @inline(__always)
    func findOpen(_ iova: IOVA) throws(DMAError) -> Mapping {
        guard let mapping = find(iova) else { throw .notFound }
        let state = mapping.state
        guard state.isOpen else { throw state.refusal }
        return mapping
    }

    /// The mapping that holds an address, open and with the rights asked for.
    @inline(__always)
    func findOpen(_ iova: IOVA, for rights: AccessRights) throws(DMAError) -> Mapping {
        let mapping = try findOpen(iova)
        guard mapping.rights.isSuperset(of: rights) else { throw .notPermitted }
        return mapping
    }

    /// Notes that a device has written to a range, if somebody wants to know.
    @inline(__always)
    func noteWrite(to range: IOVARange) {
        if tracksWrites { withSpace { $0.dirtyLog.note(range) } }
    }

    /// Lets threads that wait for pins to go look again.
    func wakeWaiters() {
        withSpace { $0.wakeWaiters() }
    }

    /// The address space, for whoever goes on with it outside.
    var space: IOAddressSpace {
        guard let space = unsafe roots.pointee.space?.takeUnretainedValue() else { preconditionFailure("it is bound") }
        return space
    }

    @inline(never)
    private func withSpace(_ body: (IOAddressSpace) -> Void) {
        unsafe roots.pointee.space?._withUnsafeGuaranteedRef(body)
    }
}
