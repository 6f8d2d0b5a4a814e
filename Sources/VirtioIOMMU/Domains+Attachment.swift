import DMA
import LinuxHost

extension Domains {
    /// Attaches an endpoint. Every access of it is where the domain is when this returns `ok`, and where it was otherwise.
    func attach(_ request: AttachRequest, _ patience: Patience) -> IOMMUStatus {
        guard let endpoint = endpoint(request.endpoint) else { return .notFound }
        guard options.domainRange.contains(request.domain.rawValue) else { return .outOfRange }
        removeLeaving(patience)
        let (status, placement) = whenUnchanging { prepare(request, endpoint, &$0) }
        guard let placement else { return status }
        endpoint.place(placement)
        if endpoint.settle() == .settled {
            let emptied = whenUnchanging { $0.attach(endpoint, to: request.domain) }
            drop(emptied)
            return .ok
        }
        let old = whenUnchanging { state in
            // Nothing is mapped in a domain that was made for this.
            if state.domains[request.domain]?.endpoints.isEmpty == true { state.domains[request.domain] = nil }
            return state.placement(of: endpoint.id)
        }
        endpoint.place(old)
        _ = endpoint.settle()
        return .deviceError
    }

    /// Decides about an attachment, and makes the domain if there is none.
    ///
    /// - Returns: where the endpoint is to go; the status if it is to stay where it is.
    private func prepare(
        _ request: AttachRequest, _ endpoint: IOMMUEndpoint, _ state: inout State
    ) -> (IOMMUStatus, Placement?) {
        let domain: Domain
        if let known = state.domains[request.domain] {
            guard known.isBypass == request.isBypass else { return (.invalid, nil) }
            if state.attachments[request.endpoint] == request.domain { return (.ok, nil) }
            let conflicts = endpoint.reserved.contains { known.table.overlaps($0.range) }
            guard !conflicts else { return (.notSupported, nil) }
            domain = known
        } else {
            domain = Domain(
                id: request.domain, serial: state.takeSerial(), space: request.isBypass ? nil : makeSpace())
            state.domains[request.domain] = domain
        }
        return (.ok, domain.placement)
    }

    /// Detaches an endpoint. No access of it reaches anything of the domain when this returns, however long that takes,
    /// or the patience is at its end.
    func detach(_ request: DetachRequest, _ patience: Patience) -> IOMMUStatus {
        guard let endpoint = endpoint(request.endpoint) else { return .notFound }
        guard state.withLock({ $0.attachments[request.endpoint] == request.domain }) else { return .invalid }
        removeLeaving(patience)
        let (placement, emptied) = whenUnchanging { state in
            let emptied = state.attach(endpoint, to: nil)
            return (state.placement(of: endpoint.id), emptied)
        }
        move(endpoint, to: placement, patience)
        drop(emptied)
        return .ok
    }

    /// Does what the driver has written to `bypass`. Devices that keep pins hold it up for a second in all; they are moved
    /// later.
    func applyBypass() {
        let endpoints = endpoints
        let moves = whenUnchanging { state -> [(IOMMUEndpoint, Placement)] in
            state.isBypassed = state.wantsBypass
            return endpoints.values.filter { state.attachments[$0.id] == nil }.map { ($0, state.placement(of: $0.id)) }
        }
        let end = MonotonicInstant.after(.seconds(1))
        for (endpoint, placement) in moves {
            endpoint.place(placement)
            if endpoint.settle(onlyWithoutPins: .now > end) == .held { report(.moveWaits(endpoint.id)) }
        }
    }

    /// Forgets all domains: nothing is attached to anything, and nothing mapped. Devices are asked to let go as one unmap
    /// would ask them; what they then still hold they keep, closed to everything new, until they let go.
    func reset() {
        let endpoints = endpoints
        let (domains, placements) = whenUnchanging { state in
            let domains = state.domains.values.filter { !$0.isBypass }
            state.remains += domains
            state.domains.removeAll()
            state.attachments.removeAll()
            state.history = MappingHistory()
            state.isBypassed = state.wantsBypass
            return (domains, endpoints.values.map { ($0, state.placement(of: $0.id)) })
        }
        for (endpoint, placement) in placements {
            endpoint.place(placement)
            _ = endpoint.settle()
        }
        for domain in domains { close(domain) }
        dropRemains()
    }

    /// Takes out of all remains what devices still hold there, however long that takes.
    func emptyRemains() {
        for space in state.withLock({ $0.remains.compactMap(\.space) }) { remove([.everything], from: space, .endless) }
    }

    /// Moves what could not be moved before because a device kept pins, if it does no more.
    func moveStragglers() {
        let endpoints = endpoints.values.filter(\.hasStragglers)
        for endpoint in endpoints { _ = endpoint.settle(onlyWithoutPins: true) }
        if !endpoints.isEmpty { dropRemains() }
    }

    /// Moves an endpoint, however long that takes.
    private func move(_ endpoint: IOMMUEndpoint, to placement: Placement, _ patience: Patience) {
        endpoint.place(placement)
        var attempts = 0
        while endpoint.settle() == .held {
            attempts += 1
            if attempts == 1 { report(.moveWaits(endpoint.id)) }
            if patience.isOver { return }
        }
    }

    /// Lets go of a domain that has ended, if one has.
    private func drop(_ domain: Domain?) {
        guard let domain else { return }
        close(domain)
        dropRemains()
    }

    /// Takes everything out of the address space of a domain that has ended, if a device is still in it. What is pinned
    /// stays, closed to everything new.
    private func close(_ domain: Domain) {
        guard let space = domain.space, isInUse(space) else { return }
        _ = try? space.unmapAll(in: [.everything])
    }

    /// Forgets the remains that no device is in any more.
    private func dropRemains() {
        let free = state.withLock { $0.remains }.filter { domain in domain.space.map(isInUse) != true }.map(\.serial)
        state.withLock { state in state.remains.removeAll { free.contains($0.serial) } }
    }

    private func isInUse(_ space: IOAddressSpace) -> Bool { endpoints.values.contains { $0.isIn(space) } }
}

extension Domains.State {
    /// Enters what an endpoint is attached to now, a domain that there is.
    ///
    /// - Returns: the domain that it was the last one in, which has ended and is among the remains.
    fileprivate mutating func attach(_ endpoint: IOMMUEndpoint, to domain: DomainID?) -> Domain? {
        var emptied: Domain?
        if let old = attachments[endpoint.id] {
            domains[old]?.remove(endpoint.id)
            if domains[old]?.endpoints.isEmpty == true { emptied = domains.removeValue(forKey: old) }
            if let emptied, !emptied.isBypass { remains.append(emptied) }
        }
        attachments[endpoint.id] = domain
        if let domain { domains[domain]?.add(endpoint.id, endpoint.reserved) }
        return emptied
    }

    /// Where the accesses of an endpoint go by what it is attached to.
    func placement(of endpoint: EndpointID) -> Placement {
        if let domain = attachments[endpoint].flatMap({ domains[$0] }) { return domain.placement }
        return isBypassed ? .bypass : .nowhere
    }
}

extension Domain {
    fileprivate var placement: Placement { space.map { .domain(id, serial, $0) } ?? .bypass }
}
