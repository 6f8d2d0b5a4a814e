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
        let place = SourcePlace(file: file, line: line)
        if LockChecker.isOn { tellUnmap(at: place) }
        LockChecker.acquire(.unmapping, instance: ObjectIdentifier(self), mode: .shared, file: file, line: line)
        defer { LockChecker.release(.unmapping, instance: ObjectIdentifier(self)) }
        var unmap = Unmap(range)
        var rounds = UnmapRounds()
        while true {
            let step = state.wait { state in state.isChangingConsumers ? nil : state.goOn(&unmap) }
            unmap.releaseBackings()
            switch step {
            case .finished:
                if !unmap.hasRemoved && range != .everything { throw .notFound }
                return unmap.byteCount
            case .failed(let error):
                throw error
            case .drain(let range, let accesses):
                for access in accesses { access.readers.drain(range) }
            case .ask(let claim, let accesses):
                try askToLetGo(of: claim, accesses, &rounds, at: place)
            case .tearDown(let mapping, let consumers):
                let range = mapping.range
                telling(at: place) { for attached in consumers { attached.consumer.unmap(range) } }
                unmap.didRemove([range], state.update { $0.finishTearDown(mapping) })
            case .clearUp:
                clearUp()
            }
        }
    }

    /// One round: all accesses are told, with no lock held, and given time to release their pins.
    private func askToLetGo(
        of claim: MappingClaim, _ accesses: [DMAAccess], _ rounds: inout UnmapRounds, at place: SourcePlace
    ) throws(DMAError) {
        guard rounds.next(for: claim) <= configuration.unmapRounds else {
            guard state.withLock({ $0.giveUp(claim) }) else { return }
            if LockChecker.isOn { for access in accesses { access.tellPinsLeft(in: claim.range, at: place) } }
            throw .deadlock
        }
        for access in accesses { access.noticeUnmap(of: claim.range, in: self, at: place) }
        _ = state.wait(until: .after(configuration.roundWait)) { $0.isFree(claim) ? () : nil }
    }
}

/// The rounds that one unmap spent on the mapping it is at.
private struct UnmapRounds {
    private var claim: MappingClaim?
    private var count = 0

    mutating func next(for claim: MappingClaim) -> Int {
        if self.claim.map(claim.isSame) != true {
            self.claim = claim
            count = 0
        }
        count += 1
        return count
    }
}
