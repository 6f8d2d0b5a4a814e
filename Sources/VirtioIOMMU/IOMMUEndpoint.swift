public import DMA
import LinuxHost
public import PCI

/// A place behind the IOMMU for one function, which is there whether or not the function has a client.
///
/// The function is made with it as its route, and moves its accesses through it: what the guest attaches the endpoint to
/// decides where they go.
///
/// Threads: the function's connection adds and removes accesses while the IOMMU's worker moves them. An access is in one
/// hand at a time; who finds it in the other's waits, no longer than a change of its attachment takes. The lock is not held
/// while an attachment ends, so devices may report failures at any time.
public final class IOMMUEndpoint: DMARoute {
    public let id: EndpointID
    public let reserved: [ReservedRegion]

    private struct Entry {
        let access: DMAAccess
        /// Where it is attached.
        var location: IOAddressSpace
        /// What would not have it, so that it is nowhere instead.
        var refusal: IOAddressSpace?
        /// Whether somebody is changing its attachment.
        var isBusy = false
    }

    private struct State {
        var placement: Placement
        /// The memory of the function's client.
        var memory: IOAddressSpace?
        /// Has the client's memory made of whole pages at all times, so that every access can go there.
        var anchor: DMAAccess?
        var entries: [Entry] = []
        var limit = RateLimit()
    }

    enum Outcome { case settled, held, refused }

    private let nowhere: IOAddressSpace
    private let faults: FaultQueue
    private let state: Monitor<State>

    init(id: EndpointID, reserved: [ReservedRegion], placement: Placement, nowhere: IOAddressSpace, faults: FaultQueue)
    {
        self.id = id
        self.reserved = reserved
        self.nowhere = nowhere
        self.faults = faults
        state = Monitor(State(placement: placement))
    }

    public func connect(to memory: IOAddressSpace) {
        let anchor = DMAAccess(needsPin: true) { _ in }
        let isAnchored: Void? = try? anchor.attach(to: memory)
        state.withLock { state in
            state.memory = memory
            state.anchor = isAnchored == nil ? nil : anchor
        }
    }

    public func disconnect() {
        let anchor = state.withLock { state in
            state.memory = nil
            return state.anchor.take()
        }
        anchor?.destroy()
    }

    public func add(_ access: DMAAccess) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            var entry = Entry(access: access, location: target(state))
            do throws(DMAError) {
                try access.attach(to: entry.location)
            } catch {
                // The first may be refused as without an IOMMU, later ones must not be: then the guest's choice is at fault.
                guard !state.entries.isEmpty else { throw error }
                try access.attach(to: nowhere)
                entry.refusal = entry.location
                entry.location = nowhere
            }
            state.entries.append(entry)
        }
    }

    public func remove(_ access: DMAAccess) throws(DMAError) {
        guard take({ $0.access === access }) != nil else { throw .invalid }
        do throws(DMAError) {
            try access.detach()
            state.update { $0.entries.removeAll { $0.access === access } }
        } catch {
            giveBack(access) { _ in }
            throw error
        }
    }

    public func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights) {
        let time = MonotonicInstant.now
        let (placement, suppressed) = state.withLock { state -> (Placement?, UInt64) in
            // An access on its way is refused everything, which is no fault of the guest's.
            let isOnItsWay = state.entries.first { $0.access === access }?.isBusy ?? true
            if isOnItsWay { return (nil, 0) }
            if case .bypass = state.placement { return (nil, 0) }
            guard let suppressed = state.limit.admit(at: time) else {
                faults.countSuppressed()
                return (nil, 0)
            }
            return (state.placement, suppressed)
        }
        guard let placement else { return }
        var address = range.first
        if case .domain(_, _, let space) = placement, let fault = space.firstFault(in: range, for: rights) {
            address = fault.address
        }
        faults.append(
            PendingFault(
                endpoint: id, reserved: reserved, address: address, rights: rights, time: time,
                placement: placement, suppressedCount: suppressed))
    }
}

// Moving, for whoever has the IOMMU's work

extension IOMMUEndpoint {
    /// Says where accesses are to go from now on. Those that are somewhere else are moved by `settle`.
    func place(_ placement: Placement) { state.withLock { $0.placement = placement } }

    /// Moves all accesses to where they are to be. Devices have as long to let go of what they pin as an unmap gives them.
    ///
    /// - Parameter onlyWithoutPins: whether to leave alone what is pinned anyway.
    /// - Returns: `held` if a device keeps pins, and so its access where it is; `refused` if an access could not be attached
    ///   to where it is to be, and so is nowhere.
    func settle(onlyWithoutPins: Bool = false) -> Outcome {
        var outcome = Outcome.settled
        var tried: [DMAAccess] = []
        while let (entry, target) = takeStraggler(except: tried) {
            tried.append(entry.access)
            if onlyWithoutPins, entry.location.mappings().contains(where: { $0.pinCount > 0 }) {
                giveBack(entry.access) { _ in }
                outcome = .held
                continue
            }
            let result = replace(entry.access, with: target)
            switch result {
            case .settled: giveBack(entry.access) { ($0.location, $0.refusal) = (target, nil) }
            case .held: giveBack(entry.access) { _ in }
            case .refused: giveBack(entry.access) { ($0.location, $0.refusal) = (nowhere, target) }
            }
            if result != .settled, outcome != .held { outcome = result }
        }
        return outcome
    }

    var hasStragglers: Bool { state.withLock { state in state.entries.contains { isStraggler($0, state) } } }

    /// Whether an access is attached to an address space.
    func isIn(_ space: IOAddressSpace) -> Bool { state.withLock { $0.entries.contains { $0.location === space } } }

    private func isStraggler(_ entry: Entry, _ state: State) -> Bool {
        let target = target(state)
        return entry.location !== target && entry.refusal !== target
    }

    private func target(_ state: State) -> IOAddressSpace {
        switch state.placement {
        case .nowhere: nowhere
        case .bypass: state.memory ?? nowhere
        case .domain(_, _, let space): space
        }
    }

    private func replace(_ access: DMAAccess, with target: IOAddressSpace) -> Outcome {
        do throws(DMAError) {
            try access.replace(with: target)
            return .settled
        } catch {
            guard error != .deadlock else { return .held }
        }
        do throws(DMAError) {
            try access.replace(with: nowhere)
            return .refused
        } catch {
            return .held
        }
    }
}

// An access in one hand at a time

extension IOMMUEndpoint {
    private func takeStraggler(except tried: [DMAAccess]) -> (Entry, IOAddressSpace)? {
        state.wait { state -> (Entry, IOAddressSpace)?? in
            var mustWait = false
            for index in state.entries.indices {
                let entry = state.entries[index]
                guard isStraggler(entry, state), !tried.contains(where: { $0 === entry.access }) else { continue }
                guard !entry.isBusy else {
                    mustWait = true
                    continue
                }
                state.entries[index].isBusy = true
                return (entry, target(state))
            }
            return mustWait ? nil : .some(nil)
        }
    }

    private func take(_ isMeant: (Entry) -> Bool) -> Entry? {
        state.wait { state -> Entry?? in
            guard let index = state.entries.firstIndex(where: isMeant) else { return .some(nil) }
            guard !state.entries[index].isBusy else { return nil }
            state.entries[index].isBusy = true
            return state.entries[index]
        }
    }

    private func giveBack(_ access: DMAAccess, _ change: (inout Entry) -> Void) {
        state.update { state in
            guard let index = state.entries.firstIndex(where: { $0.access === access }) else { return }
            state.entries[index].isBusy = false
            change(&state.entries[index])
        }
    }
}
