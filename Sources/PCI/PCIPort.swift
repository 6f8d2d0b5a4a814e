import DMA
public import DeviceModel
import LinuxHost
import Synchronization

/// What a function gives the device model inside it: interrupts, and guest memory as far as the bus lets it through.
///
/// Any thread may use it at any time. Its lock is taken after the model's own and before the interrupt set's.
public final class PCIPort: Sendable {
    public let interrupts: InterruptSet
    private let route: any DMARoute
    private let onUnmap: @Sendable (IOVARange) -> Void
    private let current = Monitor(Attachment())
    let description: PCIDescription
    private let state: Monitor<PCIFunctionState>
    /// Copies of what configuration space says, for the look before every access.
    private let busMaster = BusMaster()
    private let poweredOn = Atomic<Bool>(true)

    /// - Parameter onUnmap: called before guest memory goes away, as for `DMAAccess`.
    init(_ description: PCIDescription, route: any DMARoute, onUnmap: @escaping @Sendable (IOVARange) -> Void) {
        description.check()
        self.description = description
        var counts: [InterruptKind: Int] = [.error: 1]
        counts[.intx] = description.hasInterruptPin ? 1 : 0
        counts[.msi] = description.msi?.vectorCount
        counts[.msix] = description.msix?.vectorCount
        interrupts = InterruptSet(counts: counts)
        self.route = route
        self.onUnmap = onUnmap
        state = Monitor(PCIFunctionState(description))
        // Which interrupts are on decides whether the line is heard.
        interrupts.onSwitch { [weak self] in self?.update { _ in } }
    }

    /// Runs `body` on the function's state and then brings the interrupts in step with what it left.
    func update<Result>(_ body: (inout PCIFunctionState) -> Result) -> Result {
        state.withLock { state in
            let result = body(&state)
            busMaster.isEnabled = state.isBusMaster
            poweredOn.store(state.isPoweredOn, ordering: .releasing)
            state.deliver(to: interrupts)
            return result
        }
    }
}

/// What the function has of a client's memory.
private struct Attachment {
    /// `nil` without a client.
    var memory: GuestMemory?
    /// Memory of before a reset that was still in use when the reset had to be answered.
    var lingering: [GuestMemory] = []
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
    /// does not forbid it; its level shows in the status register either way. A function without the pin has no line.
    public func setInterruptLine(asserted: Bool) {
        update { $0.isLineAsserted = asserted && description.hasInterruptPin }
    }

    /// Whether the guest has switched on MSI-X or MSI, so that `notify` is heard and the line is not.
    public var usesMessages: Bool {
        state.withLock { $0.usesMSIX(interrupts) || $0.usesMSI(interrupts) }
    }
}

/// Guest memory.
extension PCIPort {
    /// Whether the function may start accesses to memory: the guest has set the bus master bit, and the power is on.
    public var isBusMaster: Bool { busMaster.isEnabled }

    /// The guest memory that work begun now belongs to; `nil` while there is none.
    ///
    /// Work keeps what it was begun with to its end. A reset, or a client that leaves, ends the memory that is handed
    /// out at the time, so that nothing begun before can touch what comes after.
    public var memory: GuestMemory? { current.withLock { $0.memory } }

    /// Gives the function a client's memory.
    ///
    /// - Throws: `EINVAL` while it has another's, and what `DMAAccess.attach` throws.
    func attach(to space: IOAddressSpace) throws(DMAError) {
        guard current.withLock({ $0.memory == nil }) else { throw .invalid }
        route.connect(to: space)
        let memory = GuestMemory(of: busMaster, over: route, onUnmap)
        do throws(DMAError) {
            try route.add(memory.access)
        } catch {
            route.disconnect()
            throw error
        }
        current.withLock { $0 = Attachment(memory: memory) }
    }

    /// Takes the client's memory away. Waits for as long as it takes until nothing of the function touches it: whoever
    /// calls this has nobody left to answer.
    func detach() {
        let last = current.withLock { attachment in
            defer { attachment = Attachment() }
            return attachment
        }
        if let memory = last.memory {
            for memory in last.lingering + [memory] {
                while !memory.end() {}
            }
            route.disconnect()
        }
        update { $0.msixTable.forgetClient() }
    }

    /// Ends the memory that work begun so far has, and has new memory on the same route for what comes next.
    ///
    /// Waits, no longer than an unmap would, until the old one is out of use. If it is not even then, it stays attached,
    /// because pinned memory must not go: `detach` deals with it.
    func renewMemory() {
        guard let old = memory else { return }
        let memory = GuestMemory(of: busMaster, over: route, onUnmap)
        do throws(DMAError) {
            try route.add(memory.access)
        } catch {
            // The old access is on this very route with the same needs, so the new one cannot be refused.
            preconditionFailure("a second access is refused where the first was not: \(error)")
        }
        current.withLock { $0.memory = memory }
        if !old.end() { current.withLock { $0.lingering.append(old) } }
    }
}
