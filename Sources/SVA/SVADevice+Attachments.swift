public import DMA
import LinuxHost

/// What accesses reach.
extension SVADevice {
    /// Attaches the context of a process, under its PASID: accesses with that reach its memory, and ask for what is missing.
    ///
    /// The same device and context again are the same handle, with one bind more to undo.
    ///
    /// - Throws: the first that applies of `ENODEV` for a device that was removed; `EBUSY` while it is reset;
    ///   `EOPNOTSUPP` for one without PASIDs; `EINVAL` for a context of another PASID space, or one that has exited;
    ///   `EOVERFLOW` when the context has a PASID that the device cannot use; `ENOSPC` when none is left for it; `EBUSY`
    ///   when something else is attached to the PASID; as `DMAAccess.attach`. Nothing has changed then, but that the
    ///   context may have a PASID now.
    public func bind(_ context: AddressSpaceContext) throws(DMAError) -> SVAHandle {
        guard context.pasids === pasids else { throw .invalid }
        return try pasids.bind(self, context)
    }

    /// Attaches an address space to a PASID, or to accesses without one.
    ///
    /// - Parameters:
    ///   - handler: who takes page requests; without one what is missing cannot be asked for.
    ///   - takesUnknownPASIDs: whether the handler also takes requests with PASIDs that have no attachment, as when who owns
    ///     the address space also owns the table of PASIDs. Only without a PASID.
    /// - Throws: the first that applies of `ENODEV` for a device that was removed; `EBUSY` while it is reset; `EOPNOTSUPP`
    ///   for a PASID of a device without any; `EINVAL` for one past the device's limit; `EBUSY` when something is attached
    ///   there; as `DMAAccess.attach`.
    public func attach(
        _ space: IOAddressSpace, to pasid: PASID? = nil, handler: (any PageFaultHandler)? = nil,
        takesUnknownPASIDs: Bool = false
    ) throws(DMAError) {
        try changing(pasid) { (slot) throws(DMAError) in
            try slot.attach(newAttachment(of: space, to: pasid, handler, takesUnknownPASIDs)) {
                trace(.attached(pasid))
            }
        }
    }

    /// Attaches another address space in the place of one.
    ///
    /// Accesses that miss while it moves wait for that and try again. Groups of the old attachment that were not answered
    /// are answered `invalid`. Should it fail they are not, and nothing has changed.
    ///
    /// - Throws: as `attach`; `EINVAL` when nothing is attached there, or a context is bound; as `DMAAccess.replace`.
    public func replace(
        with space: IOAddressSpace, at pasid: PASID? = nil, handler: (any PageFaultHandler)? = nil,
        takesUnknownPASIDs: Bool = false
    ) throws(DMAError) {
        try changing(pasid) { (slot) throws(DMAError) in
            try slot.replace(with: newAttachment(of: space, to: pasid, handler, takesUnknownPASIDs)) { old in
                faultState.current?.refuse(attachment: old)
                trace(.replaced(pasid))
            }
        }
    }

    /// Takes the address space of a PASID, or of accesses without one, away.
    ///
    /// Otherwise as the last `SVAHandle.unbind`.
    ///
    /// - Throws: `EINVAL` when nothing is attached there, or a context is bound; `EBUSY` while it comes or goes;
    ///   `EDEADLOCK` when the device keeps pins.
    public func detach(from pasid: PASID? = nil) throws(DMAError) {
        guard let slot = table.slot(of: pasid) else { throw .invalid }
        try detach(slot, by: .device)
    }

    private func newAttachment(
        of space: IOAddressSpace, to pasid: PASID?, _ handler: (any PageFaultHandler)?, _ takesUnknownPASIDs: Bool
    ) -> PASIDSlot.Attachment {
        PASIDSlot.Attachment(
            owner: .device, space: space, handler: handler, takesUnknownPASIDs: takesUnknownPASIDs && pasid == nil,
            serial: newAttachmentSerial())
    }

    /// Runs `body` with the slot of a PASID, or of none; a reset or removal that comes meanwhile waits for it.
    private func changing(_ pasid: PASID?, _ body: (PASIDSlot) throws(DMAError) -> Void) throws(DMAError) {
        try pasids.bindings.withLock { (bindings) throws(DMAError) in
            try bindings.beginChange(of: self)
        }
        defer { pasids.bindings.update { $0.endChange(of: self) } }
        if let pasid {
            guard maximumPASIDs > 0 else { throw .notSupported }
            guard pasid.rawValue < maximumPASIDs else { throw .invalid }
        }
        try body(table.slotMade(for: pasid))
    }

    /// The part of a bind that happens without the lock of the bindings.
    func attach(_ handle: SVAHandle) throws(DMAError) {
        let attachment = PASIDSlot.Attachment(
            owner: .binding, space: handle.context.space, handler: handle.domain, takesUnknownPASIDs: false,
            serial: newAttachmentSerial())
        try table.slotMade(for: handle.number).attach(attachment) { trace(.attached(handle.number)) }
    }

    /// The part of the last unbind that happens without the lock of the bindings.
    func detach(_ handle: SVAHandle) throws(DMAError) {
        try detach(table.slotMade(for: handle.number), by: .binding)
    }

    func detach(_ slot: PASIDSlot, by owner: PASIDSlot.Owner) throws(DMAError) {
        try slot.detach(by: owner) { serial in
            // No fault comes to it any more. Those that a thread handles are waited for, since the next to have the PASID
            // must not get their pages; for the others the device waits no longer.
            flushFaults(of: serial, within: configuration.flushTime)
            faultState.current?.refuse(attachment: serial)
        } _: {
            trace(.detached(slot.pasid))
        }
    }

    /// Waits for the faults of the device, or of one attachment, that are being handled.
    func flushFaults(of attachment: UInt64? = nil, within time: Duration) {
        guard let faultQueue, faultState.isAdded else { return }
        do throws(DMAError) {
            let isComplete = try faultQueue.flush(self, of: attachment, until: .after(time))
            trace(.flushed(isComplete: isComplete))
        } catch {
            // It was removed from the queue meanwhile: everything is answered.
        }
    }
}
