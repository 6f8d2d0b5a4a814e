public import DMA
public import DeviceModel
import LinuxHost
import Synchronization

/// What a function gives the device model inside it: interrupts, and guest memory as far as the bus lets it through.
///
/// Any thread may use it at any time. Its lock is taken after the model's own and before the interrupt set's.
public final class PCIPort: Sendable {
    public let interrupts: InterruptSet
    /// What the device holds of guest memory. Models go through the port's `read`, `write` and `pin`, which honour the
    /// bus master bit; the function attaches and detaches it.
    let access: DMAAccess
    let description: PCIDescription
    private let state: Monitor<PCIFunctionState>
    /// Copies of what configuration space says, for the look before every access.
    private let busMaster = Atomic<Bool>(false)
    private let poweredOn = Atomic<Bool>(true)

    /// - Parameter onUnmap: called before guest memory goes away, as for `DMAAccess`.
    init(_ description: PCIDescription, onUnmap: @escaping @Sendable (IOVARange) -> Void) {
        description.check()
        self.description = description
        var counts: [InterruptKind: Int] = [.error: 1]
        counts[.intx] = description.hasInterruptPin ? 1 : 0
        counts[.msi] = description.msi?.vectorCount
        counts[.msix] = description.msix?.vectorCount
        interrupts = InterruptSet(counts: counts)
        access = DMAAccess(needsPin: true, onUnmap: onUnmap)
        state = Monitor(PCIFunctionState(description))
    }

    /// Runs `body` on the function's state and then brings the interrupts in step with what it left.
    func update<Result>(_ body: (inout PCIFunctionState) -> Result) -> Result {
        state.withLock { state in
            let result = body(&state)
            busMaster.store(state.isBusMaster, ordering: .releasing)
            poweredOn.store(state.isPoweredOn, ordering: .releasing)
            state.deliver(to: interrupts)
            return result
        }
    }
}

extension PCIPort {
    /// Whether the function is in D0; in D3hot it answers in configuration space only.
    var isPoweredOn: Bool { poweredOn.load(ordering: .acquiring) }
}

/// Interrupts.
extension PCIPort {
    /// Sends the message of a vector, through MSI-X or MSI, whichever the guest has switched on; nothing if neither.
    ///
    /// A vector that is masked is remembered in its pending bit. With fewer MSI vectors than the device asked for, they
    /// share.
    public func notify(_ vector: Int) {
        update { $0.raise(vector, interrupts) }
    }

    /// Pulls or releases the INTA line. It reaches the guest while neither MSI nor MSI-X is on and the command register
    /// does not forbid it; its level shows in the status register either way.
    public func setInterruptLine(asserted: Bool) {
        update { $0.isLineAsserted = asserted }
    }

    /// Whether the guest has switched on MSI-X or MSI, so that `notify` is heard and the line is not.
    public var usesMessages: Bool {
        state.withLock { $0.usesMSIX(interrupts) || $0.usesMSI(interrupts) }
    }
}

/// Guest memory. Without the bus master bit every access fails as if nothing were mapped.
extension PCIPort {
    public var isBusMaster: Bool { busMaster.load(ordering: .acquiring) }

    public func read(_ range: IOVARange, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try checkBusMaster()
        unsafe try access.read(range, into: buffer)
    }

    public func write(_ bytes: UnsafeRawBufferPointer, to address: IOVA) throws(DMAError) {
        try checkBusMaster()
        unsafe try access.write(bytes, to: address)
    }

    /// Pins guest memory for direct use; see `DMAAccess.pin`.
    public func pin(_ range: IOVARange, rights: AccessRights) throws(DMAError) -> PinnedMemory {
        try checkBusMaster()
        return try access.pin(range, rights: rights)
    }

    private func checkBusMaster() throws(DMAError) {
        guard isBusMaster else { throw .notFound }
    }
}
