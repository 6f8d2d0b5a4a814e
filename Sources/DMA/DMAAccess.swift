import Glibc
import LinuxHost

/// What a device holds to reach memory: its attachment to an address space, and its way of being told to let go.
///
///     detached ── attach ──▶ attached ── detach, replace ──▶ changing ──▶ detached, or attached elsewhere
///         │                     ▲                               │
///         ▼                     └──── the device keeps pins ────┘
///     destroyed
///
/// While it is changing, nothing new can be pinned or transferred, and `onUnmap` is called with all addresses; the access
/// may then hear of unmaps in the old and in the new address space.
///
/// Threads: every method may be called on any thread; `destroy` only once no other thread attaches, detaches or replaces.
/// `onUnmap` runs on the thread that unmaps or changes the attachment, with no lock of this module held, several times
/// for one mapping if need be and on several threads at once. When it returns, no pin in its range should be left,
/// though one that is released a moment later on another thread will do. It may unpin and take locks of its device that
/// are never held around `unmap`, `detach`, `replace` or `destroy`. It must not detach, replace or destroy its access
/// nor change the address space. To let no pin slip by, a device holds the same lock around a pin and its record of it
/// as in the callback. Counterpart of `struct iommufd_access`.
public final class DMAAccess: Sendable {
    private enum Attachment {
        case detached
        case attached(to: IOAddressSpace)
        case changing(from: IOAddressSpace, to: IOAddressSpace?)

        func includes(_ space: IOAddressSpace) -> Bool {
            switch self {
            case .detached: false
            case .attached(let current): current === space
            case .changing(let old, let new): old === space || new === space
            }
        }
    }

    private struct State {
        var attachment = Attachment.detached
        /// Set when destruction begins: from then on only it calls back.
        var isDestroyed = false
        var pinCount = 0
        /// Copies under way, which an attachment outlives.
        var copyCount = 0
        /// The threads that callbacks run on, one entry for each.
        var callbackThreads: [pthread_t] = []

        var isChanging: Bool {
            if case .changing = attachment { true } else { false }
        }
    }

    /// Whether it may pin, and so asks its address space for mappings of whole pages.
    public let needsPin: Bool
    private let onUnmap: (@Sendable (IOVARange) -> Void)?
    private let state = Monitor(State())

    /// An access that is attached to nothing.
    ///
    /// - Parameter onUnmap: told of mappings that are to be removed, with the whole range of the mapping, or
    ///   `everything` when the attachment ends. Nothing can be pinned without it.
    public init(needsPin: Bool, onUnmap: (@Sendable (IOVARange) -> Void)?) {
        self.needsPin = needsPin
        self.onUnmap = onUnmap
    }

    /// Attaches to an address space, which keeps the access alive until it is detached.
    ///
    /// - Throws: `ENODEV` after `destroy`; `EINVAL` when it is attached, were it to the same; `EBUSY` while a change is
    ///   under way; `EADDRINUSE` when it needs pins and a mapping is not made of whole pages.
    public func attach(to space: IOAddressSpace) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard !state.isDestroyed else { throw .noDevice }
            switch state.attachment {
            case .attached: throw .invalid
            case .changing: throw .busy
            case .detached: break
            }
            try space.add(self)
            state.attachment = .attached(to: space)
        }
    }

    /// Moves to another address space. To the one it is attached to is a change of nothing, without a callback.
    ///
    /// - Throws: `ENOENT` when it is not attached or a change is under way; `EADDRINUSE` as `attach`, before any
    ///   callback; `EDEADLOCK` when the device keeps pins though told for as long as an unmap would. It is then still
    ///   attached where it was.
    public func replace(with space: IOAddressSpace) throws(DMAError) {
        let old = try state.withLock { (state) throws(DMAError) -> IOAddressSpace? in
            guard case .attached(let old) = state.attachment else { throw .notFound }
            guard old !== space else { return nil }
            try space.add(self)
            state.attachment = .changing(from: old, to: space)
            return old
        }
        guard let old else { return }
        try finishChange(from: old, to: space)
    }

    /// Ends the attachment. Afterwards no transfer of this access is under way in this process's memory.
    ///
    /// - Throws: `EINVAL` when it is not attached or a change is under way; `EDEADLOCK` when the device keeps pins though
    ///   told for as long as an unmap would. It is then still attached.
    public func detach() throws(DMAError) {
        let old = try state.withLock { (state) throws(DMAError) -> IOAddressSpace in
            guard case .attached(let old) = state.attachment else { throw .invalid }
            state.attachment = .changing(from: old, to: nil)
            return old
        }
        try finishChange(from: old, to: nil)
    }

    /// Ends the attachment, if there is one, for good: when this returns, no callback runs and none will.
    ///
    /// Waits for callbacks on other threads, for as long as they take; calling it from a callback of the same access
    /// traps. So do pins that are left although the device was told for as long as an unmap would: no peer can cause
    /// that. From the second time on nothing happens.
    public func destroy() {
        let old: IOAddressSpace? = state.wait { state -> IOAddressSpace?? in
            precondition(
                !state.callbackThreads.contains(pthread_self()), "an access is destroyed by its own unmap callback")
            if case .changing = state.attachment {
                assert(state.isDestroyed, "an access is destroyed while another thread changes its attachment")
                return nil
            }
            state.isDestroyed = true
            guard case .attached(let old) = state.attachment else { return .some(nil) }
            state.attachment = .changing(from: old, to: nil)
            return old
        }
        if let old {
            precondition(letGo(of: old), "an access is destroyed with pins left")
            state.update { state in
                old.remove(self)
                state.attachment = .detached
            }
        }
        state.wait { $0.callbackThreads.isEmpty ? () : nil }
    }

    private func finishChange(from old: IOAddressSpace, to new: IOAddressSpace?) throws(DMAError) {
        let isFree = letGo(of: old)
        state.update { state in
            if isFree {
                old.remove(self)
                state.attachment = new.map { .attached(to: $0) } ?? .detached
            } else {
                new?.remove(self)
                state.attachment = .attached(to: old)
            }
        }
        if !isFree { throw .deadlock }
    }

    /// Tells the device to let go of everything, in rounds as an unmap does, at least once; then waits for copies under
    /// way to end. Whether no pin is left.
    private func letGo(of space: IOAddressSpace) -> Bool {
        let configuration = space.configuration
        var round = 0
        var isFree = false
        repeat {
            callBack(.everything) { _ in true }
            round += 1
            let end = MonotonicInstant.after(configuration.roundWait)
            isFree = state.wait(until: end) { $0.pinCount == 0 ? () : nil } != nil
        } while !isFree && round < configuration.unmapRounds
        if isFree { state.wait { $0.copyCount == 0 ? () : nil } }
        return isFree
    }

    /// Tells the device that a mapping is to be removed, unless it has left the address space meanwhile or is being
    /// destroyed, which tells it by itself.
    func noticeUnmap(of range: IOVARange, in space: IOAddressSpace) {
        callBack(range) { !$0.isDestroyed && $0.attachment.includes(space) }
    }

    private func callBack(_ range: IOVARange, if isDue: (State) -> Bool) {
        guard let onUnmap else { return }
        let thread = pthread_self()
        let begins = state.withLock { state in
            guard isDue(state) else { return false }
            state.callbackThreads.append(thread)
            return true
        }
        guard begins else { return }
        onUnmap(range)
        state.update { state in
            if let index = state.callbackThreads.lastIndex(of: thread) { state.callbackThreads.remove(at: index) }
        }
    }

    /// Holds a range of memory in place: until it is unpinned, its mappings are not removed.
    ///
    /// All or nothing. A pin counts on each mapping it touches; the same range may be pinned several times.
    ///
    /// - Throws: the first that applies of `EINVAL` for no rights, or an access that was not made to pin or has no
    ///   callback; `ENOENT` when it is not attached; then, by ascending address, `ENOENT` for what is not mapped;
    ///   `EINVAL` for a mapping that an unmap has closed, remote memory, or memory that is not made of whole pages but
    ///   for the end of the range; `EPERM` for rights that the mapping does not have.
    public func pin(_ range: IOVARange, rights: AccessRights) throws(DMAError) -> PinnedMemory {
        guard needsPin, onUnmap != nil else { throw .invalid }
        guard !rights.isEmpty else { throw .invalid }
        let (pieces, space) = try state.withLock { (state) throws(DMAError) in
            guard case .attached(let space) = state.attachment else { throw .notFound }
            let pieces = try space.pin(range, rights: rights)
            state.pinCount += 1
            return (pieces, space)
        }
        return PinnedMemory(pieces, of: self, in: space)
    }

    func didUnpin() {
        let mayWake = state.withLock { state in
            state.pinCount -= 1
            return state.pinCount == 0 && state.isChanging
        }
        if mayWake { state.update { _ in } }
    }
}

extension DMAAccess {
    /// What a transfer of up to `byteCount` bytes at `iova` reaches at once, and where it has to be reported finished if
    /// it is a copy.
    ///
    /// - Parameter begun: where the steps before were done; a transfer does not follow its access to another space.
    func beginTransfer(
        at iova: IOVA, upTo byteCount: Int, rights: AccessRights, in begun: IOAddressSpace?
    ) throws(DMAError) -> (TransferStep, IOAddressSpace) {
        try state.withLock { (state) throws(DMAError) in
            guard case .attached(let space) = state.attachment, begun == nil || begun === space else {
                throw .notFound
            }
            let step = try space.state.withLock { (table) throws(DMAError) in
                try table.beginTransfer(at: iova, upTo: byteCount, rights: rights)
            }
            if case .copy = step { state.copyCount += 1 }
            return (step, space)
        }
    }

    func endCopy(_ mapping: Mapping, in space: IOAddressSpace) {
        space.wakeWaiters(if: space.state.withLock { $0.endCopy(mapping) })
        let mayWake = state.withLock { state in
            state.copyCount -= 1
            return state.copyCount == 0 && state.isChanging
        }
        if mayWake { state.update { _ in } }
    }
}
