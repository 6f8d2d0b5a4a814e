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
    public func unmap(_ range: IOVARange) throws(DMAError) -> UInt64 {
        var removed = Removed()
        var rounds = UnmapRounds()
        var next: IOVA? = range.first
        while let first = next, first <= range.last {
            switch unmapStep(in: range, from: first) {
            case .finished:
                next = nil
            case .failed(let error):
                throw error
            case .pinned(let mapping, let accesses):
                try askToLetGo(of: mapping, accesses, &rounds)
                next = mapping.range.first
            case .tearDown(let mapping, let consumers):
                tearDown(mapping, consumers)
                removed.count(mapping)
                next = mapping.range.last.successor
            case .removed(let mapping):
                mapping.backing.release()
                removed.count(mapping)
                next = mapping.range.last.successor
            }
        }
        if removed.isEmpty && range != .everything { throw .notFound }
        return removed.byteCount
    }

    /// Waits for copies under way where it has to. Each step looks at the table anew: while callbacks ran, anything may
    /// have happened.
    private func unmapStep(in request: IOVARange, from next: IOVA) -> AddressSpaceState.UnmapStep {
        state.wait { state in
            state.isChangingConsumers ? nil : state.unmapStep(in: request, from: next)
        }
    }

    private func tearDown(_ mapping: Mapping, _ consumers: [AddressSpaceState.AttachedConsumer]) {
        for attached in consumers { attached.consumer.unmap(mapping.range) }
        state.update { state in
            state.table.remove(beginningAt: mapping.range.first)
            state.consumerWork -= 1
        }
        mapping.backing.release()
    }

    /// One round: all accesses are told, with no lock held, and given time to release their pins.
    private func askToLetGo(
        of mapping: Mapping, _ accesses: [DMAAccess], _ rounds: inout UnmapRounds
    ) throws(DMAError) {
        guard rounds.next(for: mapping) <= configuration.unmapRounds else { throw .deadlock }
        for access in accesses { access.noticeUnmap(of: mapping.range, in: self) }
        _ = state.wait(until: .after(configuration.roundWait)) { _ in mapping.pinCount == 0 ? () : nil }
    }
}

/// The rounds that one unmap spent on the mapping it is at.
private struct UnmapRounds {
    private var mapping: Mapping?
    private var count = 0

    mutating func next(for mapping: Mapping) -> Int {
        if self.mapping !== mapping {
            self.mapping = mapping
            count = 0
        }
        count += 1
        return count
    }
}

/// What one unmap removed.
private struct Removed {
    private(set) var byteCount: UInt64 = 0
    private(set) var isEmpty = true

    /// Mappings may come and go while an unmap is at work, so the sum may be beyond what the space holds.
    mutating func count(_ mapping: Mapping) {
        let (sum, overflow) = byteCount.addingReportingOverflow(mapping.range.byteCount)
        byteCount = overflow ? .max : sum
        isEmpty = false
    }
}
