import DMA
import LinuxHost
import Synchronization

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

    struct Attachment {
        let owner: Owner
        let space: IOAddressSpace
        let handler: (any PageFaultHandler)?
        let takesUnknownPASIDs: Bool
        /// No other attachment of the device has it, nor had.
        let serial: UInt64

        /// Who takes its faults.
        var route: FaultRoute? { handler.map { FaultRoute(handler: $0, attachment: serial) } }
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
    /// Two more after each replacement; odd while one is under way.
    private let moves = Atomic<UInt64>(0)

    init(
        _ pasid: PASID?, file: StaticString, line: UInt32, onUnmap: @escaping @Sendable (IOVARange) -> Void
    ) {
        self.pasid = pasid
        access = DMAAccess(needsPin: true, file: file, line: line, onUnmap: onUnmap)
    }

    /// What is attached, or was when it began to move elsewhere; `nil` while it comes or goes.
    var attachment: Attachment? { state.withLock { $0.attachment } }

    /// Where accesses go; `nil` while that changes.
    var space: IOAddressSpace? {
        state.withLock { if case .attached(let attachment) = $0 { attachment.space } else { nil } }
    }

    var isEmpty: Bool { state.withLock { $0.isEmpty } }

    /// Whether it has no attachment, once none comes or goes.
    func isEmptyWhenSettled() -> Bool {
        state.wait { state in
            if case .changing = state { return nil }
            return state.isEmpty
        }
    }

    /// What an access keeps that may meet a replacement.
    var moveCount: UInt64 { moves.load(ordering: .acquiring) }

    /// Whether a replacement has been under way since an access noted the count; waits for the end of one that still is.
    ///
    /// - Returns: `nil` when it has not ended in time.
    func hasMoved(since count: UInt64, patience: Duration) -> Bool? {
        guard count % 2 == 1 || moveCount != count else { return false }
        return state.wait(until: .after(patience)) { state in
            if case .changing = state { nil } else { true }
        }
    }

    /// Attaches it to a space.
    ///
    /// - Parameter note: called when it is attached, before anybody can take that away.
    /// - Throws: `EBUSY` when it has an attachment or one comes or goes; as `DMAAccess.attach`. Nothing has changed then.
    func attach(_ new: Attachment, _ note: () -> Void) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard case .empty = state else { throw .busy }
            state = .changing(nil)
        }
        do throws(DMAError) {
            try access.attach(to: new.space)
        } catch {
            state.update { $0 = .empty }
            throw error
        }
        note()
        state.update { $0 = .attached(new) }
    }

    /// Moves what is no binding to another space. Until that has come about, faults go where they went.
    ///
    /// - Parameter settle: called when it is there and no fault is routed to the old attachment any more, with its serial
    ///   number, before anybody can take the new one away.
    /// - Throws: `EINVAL` when it has no attachment, or a binding's; `EBUSY` when one comes or goes; as
    ///   `DMAAccess.replace`. Nothing has changed then.
    func replace(with new: Attachment, _ settle: (_ serial: UInt64) -> Void) throws(DMAError) {
        let old = try beginChange(by: .device) { .changing($0) }
        moves.wrappingAdd(1, ordering: .acquiringAndReleasing)
        do throws(DMAError) {
            try LockChecker.holding(.replacing, instance: ObjectIdentifier(self)) { () throws(DMAError) in
                try access.replace(with: new.space)
            }
        } catch {
            endMove(old)
            throw error
        }
        state.update { $0 = .changing(new) }
        settle(old.serial)
        endMove(new)
    }

    /// Whoever has waited for the end of a replacement finds it counted.
    private func endMove(_ attachment: Attachment) {
        state.update { state in
            moves.wrappingAdd(1, ordering: .acquiringAndReleasing)
            state = .attached(attachment)
        }
    }

    /// Takes the attachment away.
    ///
    /// - Parameters:
    ///   - settle: called when no fault is routed to the attachment any more, with its serial number; it deals with those
    ///     that were.
    ///   - note: called when it is gone, before there can be another.
    /// - Throws: `EINVAL` when it has no attachment of this owner; `EBUSY` when one comes or goes; `EDEADLOCK` when the
    ///   device keeps pins. Nothing has changed then, but for the faults.
    func detach(
        by owner: Owner, _ settle: (_ serial: UInt64) -> Void, _ note: () -> Void
    ) throws(DMAError) {
        let old = try beginChange(by: owner) { _ in .changing(nil) }
        settle(old.serial)
        do throws(DMAError) {
            try access.detach()
        } catch {
            state.update { $0 = .attached(old) }
            throw error
        }
        note()
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
