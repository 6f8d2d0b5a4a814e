import LinuxHost

extension IOAddressSpace {
    /// Shows memory to devices at a fixed address. `IOMMU_IOAS_MAP` with `IOMMU_IOAS_MAP_FIXED_IOVA`
    ///
    /// - Throws: the first that applies of `EOPNOTSUPP` for unknown rights; `EOVERFLOW` for 2^64 − 1 bytes; `EINVAL` for
    ///   no rights, no bytes or almost 2^64 of them; `EOVERFLOW` for an offset whose end does not fit; `EINVAL` for what
    ///   is not aligned; `EOVERFLOW` past the top of the space; `EINVAL` for reserved addresses; `EEXIST` where
    ///   something is mapped; `EPERM` for write rights on read-only memory; `EINVAL` for an offset that is not aligned
    ///   or memory past the object's end; `ENOSPC` for too many mappings; and what a consumer answers. Nothing has
    ///   changed then, and remote memory is not revoked.
    public func map(
        _ backing: MappingBacking, at iova: IOVA, byteCount: UInt64, rights: AccessRights,
        file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) {
        let piece = try newPiece(backing, byteCount: byteCount, rights: rights)
        _ = try insert([piece], at: iova, rights: rights, SourcePlace(file: file, line: line))
    }

    /// Shows memory to devices at the lowest address that is free, allowed and suitably aligned. `IOMMU_IOAS_MAP`
    ///
    /// - Returns: the address, never in the first or the last page of the space.
    /// - Throws: as `map`; `EOVERFLOW` for 2^63 − 1 bytes and more, `EINVAL` when the memory is less aligned than the
    ///   address space demands, `ENOSPC` when no hole is large enough.
    public func mapAnywhere(
        _ backing: MappingBacking, byteCount: UInt64, rights: AccessRights, file: StaticString = #fileID,
        line: UInt32 = #line
    ) throws(DMAError) -> IOVA {
        let piece = try newPiece(backing, byteCount: byteCount, rights: rights)
        return try insert([piece], at: nil, rights: rights, SourcePlace(file: file, line: line))
    }

    /// Maps the memory behind a range of an address space (this one or another) here as well, one mapping for each that
    /// the range touches. What happens to the source later does not matter to the copy. `IOMMU_IOAS_COPY`
    ///
    /// Memory that is being taken away is not copied, which iommufd would do: when an unmap of the source has returned,
    /// or tells consumers or devices of it, each copy of what it removes is entered here or will be refused. It waits for
    /// copies that are under way, so a consumer of this address space must not unmap the source when it is told of one.
    ///
    /// - Parameter iova: where, or `nil` for anywhere.
    /// - Throws: `EINVAL` for no rights; by ascending address of the source, `ENOENT` for what is not mapped there or
    ///   what its consumers are just being told of, and `EINVAL` for a mapping that an unmap has closed; `EPERM` for
    ///   rights that the map which introduced the memory did not have; otherwise as `map` and `mapAnywhere`.
    @discardableResult
    public func copy(
        _ range: IOVARange, from source: IOAddressSpace, to iova: IOVA?, rights: AccessRights,
        file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) -> IOVA {
        try checkRequest(byteCount: range.byteCount, rights: rights)
        let pieces = try source.state.withLock { (state) throws(DMAError) in try state.beginCopy(of: range) }
        defer { source.state.update { $0.endCopy(of: range) } }
        do throws(DMAError) {
            return try insert(pieces, at: iova, rights: rights, SourcePlace(file: file, line: line))
        } catch {
            for piece in pieces { piece.abandon() }
            throw error
        }
    }

    private func checkRequest(byteCount: UInt64, rights: AccessRights) throws(DMAError) {
        guard rights.isSubset(of: [.read, .write]) else { throw .notSupported }
        guard byteCount < .max else { throw .overflow }
        guard !rights.isEmpty else { throw .invalid }
    }

    private func newPiece(
        _ backing: MappingBacking, byteCount: UInt64, rights: AccessRights
    ) throws(DMAError) -> NewPiece {
        try checkRequest(byteCount: byteCount, rights: rights)
        guard byteCount > 0, byteCount <= UInt64.max - configuration.pageSize else { throw .invalid }
        let memory: NewPiece.Memory
        switch backing {
        case .file(let object, let offset):
            guard !offset.addingReportingOverflow(byteCount).overflow else { throw .overflow }
            memory = .file(object, offset: offset)
        case .remote(let remote):
            memory = .remote(RemoteLink(remote), address: nil)
        }
        return NewPiece(memory: memory, byteCount: byteCount, grantableRights: rights)
    }

    /// Enters the pieces and tells the consumers. Until those have agreed, the mappings only occupy their addresses.
    private func insert(
        _ pieces: [NewPiece], at iova: IOVA?, rights: AccessRights, _ place: SourcePlace
    ) throws(DMAError) -> IOVA {
        if LockChecker.isOn { tellChange(at: place) }
        LockChecker.acquire(
            .telling, instance: ObjectIdentifier(self), mode: .shared, file: place.file, line: place.line)
        defer { LockChecker.release(.telling, instance: ObjectIdentifier(self)) }
        let (range, consumers, isCluttered) = try whenConsumersSettle { (state) throws(DMAError) in
            let range = try state.place(pieces, at: iova, rights: rights)
            if !state.consumers.isEmpty { state.consumerWork += 1 }
            state.sweep()
            return (range, state.consumers, state.isCluttered)
        }
        if isCluttered { clearUp() }
        if !consumers.isEmpty { try push(pieces, in: range, to: consumers, rights: rights) }
        return range.first
    }

    private func push(
        _ pieces: [NewPiece], in whole: IOVARange, to consumers: [AddressSpaceState.AttachedConsumer],
        rights: AccessRights
    ) throws(DMAError) {
        LockChecker.callsBack()
        var told: [(any MappingConsumer, IOVARange)] = []
        do throws(DMAError) {
            for attached in consumers {
                var next = whole.first
                for piece in pieces {
                    let range = try IOVARange(first: next, byteCount: piece.byteCount)
                    let backing = piece.backing(placedAt: next).published
                    try attached.consumer.map(range, backing, rights: rights)
                    told.append((attached.consumer, range))
                    next = range.last.successor ?? next
                }
            }
        } catch {
            for (consumer, range) in told.reversed() { consumer.unmap(range) }
            // Its remote memory was never shown: it is for the caller to revoke.
            state.update { state in
                _ = state.table.remove(Array(state.table.mappings(overlapping: whole)))
                state.consumerWork -= 1
            }
            throw error
        }
        state.update { state in
            for mapping in state.table.mappings(overlapping: whole) { mapping.endTransition() }
            state.consumerWork -= 1
        }
    }

    /// Runs `body` under the lock at a moment when no consumer is being attached or detached; with `exclusively`, when
    /// none is being told of a mapping either.
    func whenConsumersSettle<Result>(
        exclusively: Bool = false, _ body: (inout AddressSpaceState) throws(DMAError) -> Result
    ) throws(DMAError) -> Result {
        let result: Swift.Result<Result, DMAError> = state.wait { state in
            if state.isChangingConsumers || (exclusively && state.consumerWork > 0) { return nil }
            do throws(DMAError) {
                return .success(try body(&state))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}
