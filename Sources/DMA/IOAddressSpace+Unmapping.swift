import LinuxHost

extension IOAddressSpace {
    /// Removes every mapping in a range, ascending, and returns the number of bytes they had. `IOMMU_IOAS_UNMAP`
    ///
    /// A mapping with pins is closed to new pins and transfers; then the callbacks of all attached accesses run on this
    /// thread, in rounds, until the pins are gone or the budget of the configuration is used up. When this returns,
    /// nothing reaches the memory of the removed mappings any more.
    ///
    /// Not atomic: mappings that were removed before an error stay removed.
    ///
    /// - Returns: the bytes that this call removed, at most `UInt64.max`; zero only for `everything`.
    /// - Throws: `ENOENT` when nothing was mapped there, or at a mapping that reaches beyond the range; `EBUSY` at one
    ///   that another thread is just mapping or unmapping; `EDEADLOCK` at one whose pins stay. That one remains, closed
    ///   to pins and transfers, until a later unmap succeeds.
    @discardableResult
    public func unmap(
        _ range: IOVARange, file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) -> UInt64 {
        var unmap = Unmap(range)
        try finish(&unmap, at: SourcePlace(file: file, line: line))
        if !unmap.hasRemoved && range != .everything { throw .notFound }
        return unmap.byteCount
    }

    /// Removes every mapping in several ranges as one operation, and returns the number of bytes they had.
    ///
    /// For requests that come together and are answered together. All mappings are closed to new pins and transfers
    /// before any is waited for, and readers are waited for once, or once for each 512 mappings. What has no pins then
    /// goes first; after that the callbacks are asked for the pins of all others, which have the rounds and the time of
    /// one mapping together. When this returns, nothing reaches the memory of the removed mappings any more.
    ///
    /// The ranges count as unmapped one after the other: they may overlap, and nothing need be mapped in them. A mapping
    /// that another thread makes there meanwhile may go or stay.
    ///
    /// - Returns: the bytes that this call removed, at most `UInt64.max`.
    /// - Throws: `ENOENT` when a mapping reaches beyond a range and no earlier one has all of it; nothing has changed
    ///   then. `EDEADLOCK` when pins stay, otherwise `EBUSY` when another thread was just mapping or unmapping a mapping,
    ///   which consumers have to be told of: all else is gone then. Mappings with pins remain, closed, and a later unmap
    ///   goes on with them.
    @discardableResult
    public func unmapAll(
        in ranges: [IOVARange], file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) -> UInt64 {
        var unmap = Unmap(ranges)
        try finish(&unmap, at: SourcePlace(file: file, line: line))
        if unmap.hasPassedOver { throw .busy }
        return unmap.byteCount
    }

    /// Carries out what the state decides.
    private func finish(_ unmap: inout Unmap, at place: SourcePlace) throws(DMAError) {
        if LockChecker.isOn { tellUnmap(at: place) }
        LockChecker.acquire(
            .unmapping, instance: ObjectIdentifier(self), mode: .shared, file: place.file, line: place.line)
        defer { LockChecker.release(.unmapping, instance: ObjectIdentifier(self)) }
        var rounds = UnmapRounds()
        while true {
            let step = state.wait { state in state.isChangingConsumers ? nil : state.goOn(&unmap) }
            unmap.releaseBackings()
            switch step {
            case .finished:
                return
            case .failed(let error):
                throw error
            case .drain(let claims, let accesses):
                for access in accesses { access.readers.drain(claims) }
            case .ask(let claims, let accesses):
                try askToLetGo(of: claims, accesses, &rounds, at: place)
            case .tearDown(let mappings, let consumers):
                let ranges = mappings.map(\.range)
                telling(at: place) {
                    for range in ranges {
                        for attached in consumers { attached.consumer.unmap(range) }
                    }
                }
                unmap.didRemove(ranges, state.update { $0.finishTearDown(mappings) })
            case .clearUp:
                clearUp()
            }
        }
    }

    /// One round: all accesses are told, with no lock held, and given time to release their pins.
    private func askToLetGo(
        of claims: [MappingClaim], _ accesses: [DMAAccess], _ rounds: inout UnmapRounds, at place: SourcePlace
    ) throws(DMAError) {
        guard rounds.next(for: claims) <= configuration.unmapRounds else {
            guard state.withLock({ $0.giveUp(claims) }) else { return }
            if LockChecker.isOn {
                for claim in claims {
                    for access in accesses { access.tellPinsLeft(in: claim.range, at: place) }
                }
            }
            throw .deadlock
        }
        for (index, claim) in claims.enumerated() {
            // What was told of the first may have released the pins of others.
            if index > 0, state.withLock({ $0.isFree(claim) }) { continue }
            for access in accesses { access.noticeUnmap(of: claim.range, in: self, at: place) }
        }
        // A closed mapping that has no pins gets none.
        var waiting = claims[...]
        _ = state.wait(until: .after(configuration.roundWait)) { state in
            while let claim = waiting.first, state.isFree(claim) { waiting.removeFirst() }
            return waiting.isEmpty ? () : nil
        }
    }
}

/// The rounds that one unmap spent on the mappings it asks for.
private struct UnmapRounds {
    private var claims: [MappingClaim] = []
    private var count = 0

    /// The number of the round, which begins anew unless these are some of the mappings of the last.
    mutating func next(for claims: [MappingClaim]) -> Int {
        if let first = claims.first, !self.claims.contains(where: first.isSame) { count = 0 }
        self.claims = claims
        count += 1
        return count
    }
}
