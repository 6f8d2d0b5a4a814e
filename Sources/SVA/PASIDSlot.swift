import DMA
import LinuxHost

/// The place of one PASID in a device's table, or of no PASID: an access, and who takes its faults.
///
///     empty ── attach ──▶ changing ──▶ attached ── detach ──▶ changing ──▶ empty, or attached if pins are left
///
/// Made once and as old as the device, so that accesses find it without a lock; what changes under them is the attachment
/// of its `DMAAccess`, which stands that.
final class PASIDSlot: Sendable {
    /// Whose an attachment is, and so who may change it.
    enum Owner {
        case binding
        case device
    }

    fileprivate struct Attachment {
        let owner: Owner
        let serial: UInt64
        let handler: (any PageFaultHandler)?
        let takesUnknownPASIDs: Bool
    }

    fileprivate enum State {
        case empty
        /// Faults go where they went before: nowhere while it comes or goes.
        case changing(Attachment?)
        case attached(Attachment)
    }

    let pasid: PASID?
    let access: DMAAccess
    private let state = Monitor(State.empty, as: .slot)

    init(
        _ pasid: PASID?, file: StaticString, line: UInt32, onUnmap: @escaping @Sendable (IOVARange) -> Void
    ) {
        self.pasid = pasid
        access = DMAAccess(needsPin: true, file: file, line: line, onUnmap: onUnmap)
    }

    /// Who takes a fault of the slot.
    var route: FaultRoute? { state.withLock { $0.attachment.flatMap(Self.route) } }

    /// Who takes a fault of a PASID that has no attachment, where this is the slot of no PASID.
    var routeForUnknownPASIDs: FaultRoute? {
        state.withLock { state in
            guard let attachment = state.attachment, attachment.takesUnknownPASIDs else { return nil }
            return Self.route(attachment)
        }
    }

    var isEmpty: Bool { state.withLock { $0.isEmpty } }

    /// Whether it has no attachment, once none comes or goes.
    func isEmptyWhenSettled() -> Bool {
        state.wait { state in
            if case .changing = state { return nil }
            return state.isEmpty
        }
    }

    private static func route(_ attachment: Attachment) -> FaultRoute? {
        attachment.handler.map { FaultRoute(handler: $0, attachment: attachment.serial) }
    }

    /// Attaches it to a space.
    ///
    /// - Throws: `EBUSY` when it has an attachment or one comes or goes; as `DMAAccess.attach`. Nothing has changed then.
    func attach(
        to space: IOAddressSpace, for owner: Owner, handler: (any PageFaultHandler)?, takesUnknownPASIDs: Bool,
        serial: UInt64
    ) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard case .empty = state else { throw .busy }
            state = .changing(nil)
        }
        let new = Attachment(
            owner: owner, serial: serial, handler: handler, takesUnknownPASIDs: takesUnknownPASIDs)
        do throws(DMAError) {
            try access.attach(to: space)
        } catch {
            state.update { $0 = .empty }
            throw error
        }
        state.update { $0 = .attached(new) }
    }

    /// Moves what is no binding to another space. Until that has come about, faults go where they went.
    ///
    /// - Returns: the serial number of the attachment that is gone.
    /// - Throws: `EINVAL` when it has no attachment, or a binding's; `EBUSY` when one comes or goes; as
    ///   `DMAAccess.replace`. Nothing has changed then.
    func replace(
        with space: IOAddressSpace, handler: (any PageFaultHandler)?, takesUnknownPASIDs: Bool, serial: UInt64
    ) throws(DMAError) -> UInt64 {
        let old = try beginChange(by: .device) { .changing($0) }
        do throws(DMAError) {
            try access.replace(with: space)
        } catch {
            state.update { $0 = .attached(old) }
            throw error
        }
        let new = Attachment(
            owner: .device, serial: serial, handler: handler, takesUnknownPASIDs: takesUnknownPASIDs)
        state.update { $0 = .attached(new) }
        return old.serial
    }

    /// Takes the attachment away.
    ///
    /// - Parameter settle: called when no fault is routed to the attachment any more, with its serial number; it deals
    ///   with those that were.
    /// - Throws: `EINVAL` when it has no attachment of this owner; `EBUSY` when one comes or goes; `EDEADLOCK` when the
    ///   device keeps pins. Nothing has changed then, but for the faults.
    func detach(by owner: Owner, _ settle: (_ serial: UInt64) -> Void) throws(DMAError) {
        let old = try beginChange(by: owner) { _ in .changing(nil) }
        settle(old.serial)
        do throws(DMAError) {
            try access.detach()
        } catch {
            state.update { $0 = .attached(old) }
            throw error
        }
        state.update { $0 = .empty }
    }

    private func beginChange(by owner: Owner, _ next: (Attachment) -> State) throws(DMAError) -> Attachment {
        try state.withLock { (state) throws(DMAError) in
            switch state {
            case .empty: throw .invalid
            case .changing: throw .busy
            case .attached(let old):
                guard old.owner == owner else { throw .invalid }
                state = next(old)
                return old
            }
        }
    }
}

extension PASIDSlot.State {
    fileprivate var isEmpty: Bool { if case .empty = self { true } else { false } }

    fileprivate var attachment: PASIDSlot.Attachment? {
        switch self {
        case .empty: nil
        case .changing(let attachment): attachment
        case .attached(let attachment): attachment
        }
    }
}
