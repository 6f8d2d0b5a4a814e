public import DMA
import LinuxHost

/// A process's address space as devices see it: the pages that are mapped for them, and who brings the others.
///
/// It exists as long as somebody refers to it, and that includes every device bound to it. Whether it is alive is another
/// matter: the process may exit while devices are bound. `exit` makes every new fault invalid; the bindings stay until they
/// are undone. A fault takes a lease, which holds up the exit until the fault is handled.
///
/// It is given a PASID when it is first bound, and keeps it until it has exited, or nobody refers to it, and no device is
/// bound. Threads: any method on any thread. Counterpart of `struct mm_struct` with its `struct iommu_mm_data`.
public final class AddressSpaceContext: Sendable {
    private struct Life {
        var isAlive = true
        var leases = 0
    }

    /// What devices reach. The owner and the pager map and unmap there.
    public let space: IOAddressSpace
    let pager: any Pager
    let pasids: PASIDSpace
    private let life = Monitor(Life(), as: .context)

    /// A context that has no PASID yet.
    public init(_ space: IOAddressSpace, pager: any Pager, in pasids: PASIDSpace) {
        self.space = space
        self.pager = pager
        self.pasids = pasids
    }

    /// A context with a PASID that somebody else has chosen, such as a driver.
    ///
    /// - Throws: `EBUSY` when another context has it.
    public init(
        _ space: IOAddressSpace, pager: any Pager, in pasids: PASIDSpace, as pasid: PASID
    ) throws(DMAError) {
        self.space = space
        self.pager = pager
        self.pasids = pasids
        try pasids.claim(pasid, for: self)
    }

    deinit { pasids.forget(self) }

    /// The PASID it has now.
    public var pasid: PASID? { pasids.pasid(of: self) }

    public var isAlive: Bool { life.withLock { $0.isAlive } }

    /// The number of its domains: one for each fault queue whose devices are bound.
    public var domainCount: Int { pasids.domainUsers(of: self).count }

    /// The number of devices that are bound.
    public var deviceCount: Int { pasids.domainUsers(of: self).reduce(0, +) }

    /// Ends the process: every fault that comes from now on is invalid, and no device can be bound any more.
    ///
    /// Waits for faults that are being handled. Afterwards the pager is not called any more, and the owner may take the
    /// memory away. From the second time on nothing happens.
    public func exit() {
        LockChecker.passes(through: .lease, instance: ObjectIdentifier(self))
        life.update { $0.isAlive = false }
        life.wait { $0.leases == 0 ? () : nil }
        pasids.end(self)
    }

    /// Runs `body` with the context alive until it returns, or returns `nil` when it has exited.
    func withLease<Result>(_ body: () -> Result) -> Result? {
        let isAlive = life.withLock { life in
            if life.isAlive { life.leases += 1 }
            return life.isAlive
        }
        guard isAlive else { return nil }
        LockChecker.acquire(.lease, instance: ObjectIdentifier(self), mode: .shared)
        defer {
            LockChecker.release(.lease, instance: ObjectIdentifier(self))
            life.update { $0.leases -= 1 }
        }
        return body()
    }
}
