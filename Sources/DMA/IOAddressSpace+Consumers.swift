import LinuxHost

extension IOAddressSpace {
    /// Pushes every mapping, those of today and those to come, to a consumer until it is detached.
    ///
    /// What lies outside its aperture becomes reserved. Maps, unmaps and other consumers wait meanwhile; pins and
    /// transfers do not. The address space keeps the consumer alive.
    ///
    /// A consumer is recognised by identity when it is an object and by equality when it is a `Hashable` value; any
    /// other stays attached for good.
    ///
    /// - Throws: `EEXIST` when it is attached already; `EOPNOTSUPP` while writes are tracked; `EINVAL` for a granule
    ///   above the page size or that is no power of two; `EADDRINUSE` when a mapping is less aligned than its granule, or
    ///   a mapping or an allowed range lies outside its aperture; and what it answers to a mapping. Nothing has changed
    ///   then.
    public func attach(
        _ consumer: any MappingConsumer, file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) {
        if LockChecker.isOn { tellChange(at: SourcePlace(file: file, line: line)) }
        LockChecker.acquire(.telling, instance: ObjectIdentifier(self), file: file, line: line)
        defer { LockChecker.release(.telling, instance: ObjectIdentifier(self)) }
        let (aperture, granule) = (consumer.aperture, consumer.granule)
        let (mappings, owner) = try whenConsumersSettle(exclusively: true) { (state) throws(DMAError) in
            let owner = try state.add(consumer, aperture: aperture, granule: granule)
            state.isChangingConsumers = true
            return (state.table.mappings(overlapping: .everything).map(PushedMapping.init), owner)
        }
        LockChecker.callsBack()
        for (index, mapping) in mappings.enumerated() {
            do throws(DMAError) {
                try consumer.map(mapping.range, mapping.backing, rights: mapping.rights)
            } catch {
                for told in mappings[..<index].reversed() { consumer.unmap(told.range) }
                state.update { state in
                    state.removeConsumer(owner: owner)
                    state.isChangingConsumers = false
                }
                throw error
            }
        }
        state.update { $0.isChangingConsumers = false }
    }

    /// Takes every mapping back from a consumer, and its claim on addresses and alignment. One that is not attached is
    /// ignored.
    public func detach(_ consumer: any MappingConsumer, file: StaticString = #fileID, line: UInt32 = #line) {
        if LockChecker.isOn { tellChange(at: SourcePlace(file: file, line: line)) }
        LockChecker.acquire(.telling, instance: ObjectIdentifier(self), file: file, line: line)
        defer { LockChecker.release(.telling, instance: ObjectIdentifier(self)) }
        let ranges: [IOVARange]? = state.wait { state -> [IOVARange]?? in
            if state.isChangingConsumers || state.consumerWork > 0 { return nil }
            guard let owner = state.owner(of: consumer) else { return .some(nil) }
            state.removeConsumer(owner: owner)
            state.isChangingConsumers = true
            return state.table.mappings(overlapping: .everything).map(\.range)
        }
        guard let ranges else { return }
        LockChecker.callsBack()
        for range in ranges { consumer.unmap(range) }
        state.update { $0.isChangingConsumers = false }
    }
}

/// A mapping as a consumer is told of it.
private struct PushedMapping {
    let range: IOVARange
    let backing: MappingBacking
    let rights: AccessRights

    init(_ mapping: Mapping) {
        range = mapping.range
        backing = mapping.backing.published
        rights = mapping.rights
    }
}
