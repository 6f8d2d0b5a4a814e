import DMA
import LinuxHost
import PCI

/// The way of the IOMMU's own accesses to memory, straight to its client, from which the domains hear what guest memory
/// there is.
final class IOMMURoute: DMARoute {
    private struct State {
        var memory: IOAddressSpace?
        /// Whether the client is going.
        var isEnding = false
    }

    private let domains: Domains
    private let state = Monitor(State())

    init(_ domains: Domains) {
        self.domains = domains
    }

    /// Whether work for the client is wanted no more.
    var isEnding: Bool { state.withLock { $0.isEnding } }

    func connect(to memory: IOAddressSpace) {
        state.withLock { $0 = State(memory: memory) }
        // Refused only where this very route has one already, or the client notes its writes: then domains show nothing.
        try? memory.attach(domains)
    }

    func add(_ access: DMAAccess) throws(DMAError) {
        guard let memory = state.withLock({ $0.memory }) else { throw .notFound }
        try access.attach(to: memory)
    }

    func remove(_ access: DMAAccess) throws(DMAError) { try access.detach() }

    /// All guest memory leaves the domains. Nothing that the guest has set up is left for the next one.
    func disconnect() {
        let memory = state.withLock { state in
            state.isEnding = true
            return state.memory.take()
        }
        domains.work {
            domains.state.withLock { $0.wantsBypass = domains.options.startsInBypass }
            domains.reset()
            domains.emptyRemains()
            // Nothing of the client's memory is in any domain now: what is told of its going finds nothing to do.
            memory?.detach(domains)
        }
    }

    func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights) {}
}
