import Glibc
import LinuxHost
import Synchronization

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
        /// The callbacks that run.
        var callbacks: [Callback] = []
    }

    private struct Callback {
        let thread: pthread_t
        /// What made it necessary.
        let place: SourcePlace
    }

    /// Whether it may pin, and so asks its address space for mappings of whole pages.
    public let needsPin: Bool
    private let onUnmap: (@Sendable (IOVARange) -> Void)?
    /// Whether it may pin and can be asked to let go.
    let mayPin: Bool
    private let callbackIsReentrant: Bool
    /// Where it was made, for the lock checker.
    let place: SourcePlace
    private let state = Monitor(State(), as: .access)
    /// The threads that use it.
    let readers = Readers()
    /// Where those find the mappings, a `Translation`; zero while it is closed: detached, changing or destroyed.
    private let translation = Atomic<UInt>(0)
    /// Somebody waits for the pins to go.
    private let isClosing = Atomic<Bool>(false)

    /// An access that is attached to nothing.
    ///
    /// - Parameters:
    ///   - callbackIsReentrant: whether `onUnmap` stands running on several threads at once. It does so in any case; the
    ///     lock checker reports it for a device that does not stand it.
    ///   - file, line: what reports of the lock checker name; a function that makes accesses for others hands on its
    ///     caller's place.
    ///   - onUnmap: told of mappings that are to be removed, with the whole range of the mapping, or `everything` when
    ///     the attachment ends. Nothing can be pinned without it.
    public init(
        needsPin: Bool, callbackIsReentrant: Bool = true, file: StaticString = #fileID, line: UInt32 = #line,
        onUnmap: (@Sendable (IOVARange) -> Void)?
    ) {
        self.needsPin = needsPin
        self.callbackIsReentrant = callbackIsReentrant
        place = SourcePlace(file: file, line: line)
        self.onUnmap = onUnmap
        mayPin = needsPin && onUnmap != nil
    }

    /// Whether it has a callback that changes of its attachment and of its address space may run.
    var canCallBack: Bool { onUnmap != nil }

    /// Whether destruction has begun.
    var isDestroyed: Bool { state.withLock { $0.isDestroyed } }

    /// Attaches to an address space, which keeps the access alive until it is detached.
    ///
    /// - Throws: `ENODEV` after `destroy`; `EINVAL` when it is attached, were it to the same; `EBUSY` while a change is
    ///   under way; `EADDRINUSE` when it needs pins and a mapping is not made of whole pages.
    public func attach(
        to space: IOAddressSpace, file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) {
        if LockChecker.isOn { tellAttaching(at: SourcePlace(file: file, line: line)) }
        try state.withLock { (state) throws(DMAError) in
            guard !state.isDestroyed else { throw .noDevice }
            switch state.attachment {
            case .attached: throw .invalid
            case .changing: throw .busy
            case .detached: break
            }
            try space.add(self)
            state.attachment = .attached(to: space)
            open(to: space)
        }
    }

    /// Moves to another address space. To the one it is attached to is a change of nothing, without a callback.
    ///
    /// - Throws: `ENOENT` when it is not attached or a change is under way; `EADDRINUSE` as `attach`, before any
    ///   callback; `EDEADLOCK` when the device keeps pins though told for as long as an unmap would. It is then still
    ///   attached where it was.
    public func replace(
        with space: IOAddressSpace, file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) {
        let place = SourcePlace(file: file, line: line)
        if LockChecker.isOn { tellUseAndEnding(at: place) }
        let old = try state.withLock { (state) throws(DMAError) -> IOAddressSpace? in
            guard case .attached(let old) = state.attachment else { throw .notFound }
            guard old !== space else { return nil }
            try space.add(self)
            state.attachment = .changing(from: old, to: space)
            close()
            return old
        }
        guard let old else { return }
        try finishChange(from: old, to: space, at: place)
    }

    /// Ends the attachment. Afterwards no transfer of this access is under way in this process's memory.
    ///
    /// - Throws: `EINVAL` when it is not attached or a change is under way; `EDEADLOCK` when the device keeps pins though
    ///   told for as long as an unmap would. It is then still attached.
    public func detach(file: StaticString = #fileID, line: UInt32 = #line) throws(DMAError) {
        let place = SourcePlace(file: file, line: line)
        if LockChecker.isOn { tellUseAndEnding(at: place) }
        let old = try state.withLock { (state) throws(DMAError) -> IOAddressSpace in
            guard case .attached(let old) = state.attachment else { throw .invalid }
            state.attachment = .changing(from: old, to: nil)
            close()
            return old
        }
        try finishChange(from: old, to: nil, at: place)
    }

    /// Ends the attachment, if there is one, for good: when this returns, no callback runs and none will.
    ///
    /// Waits for callbacks on other threads, for as long as they take; calling it from a callback of the same access
    /// traps. So do pins that are left although the device was told for as long as an unmap would: no peer can cause
    /// that. From the second time on nothing happens.
    public func destroy(file: StaticString = #fileID, line: UInt32 = #line) {
        let place = SourcePlace(file: file, line: line)
        if LockChecker.isOn { tellEnding(at: place) }
        let old: IOAddressSpace? = state.wait { state -> IOAddressSpace?? in
            precondition(
                !state.callbacks.contains { $0.thread == pthread_self() },
                "an access is destroyed by its own unmap callback")
            if case .changing = state.attachment {
                assert(state.isDestroyed, "an access is destroyed while another thread changes its attachment")
                return nil
            }
            state.isDestroyed = true
            guard case .attached(let old) = state.attachment else { return .some(nil) }
            state.attachment = .changing(from: old, to: nil)
            close()
            return old
        }
        if let old {
            let isFree = letGo(of: old, at: place)
            if !isFree && LockChecker.isOn { tellPinsLeft(.teardownOrder, in: .everything, at: place) }
            precondition(isFree, "an access is destroyed with pins left")
            state.update { state in
                old.remove(self)
                state.attachment = .detached
            }
        }
        if LockChecker.isOn { watchWait(at: place) }
        state.wait { $0.callbacks.isEmpty ? () : nil }
    }

    /// Waits for callbacks to return, but no longer than the lock checker finds right, which then reports it.
    private func watchWait(at place: SourcePlace) {
        let end = MonotonicInstant.after(LockChecker.limits.wait)
        if state.wait(until: end, { $0.callbacks.isEmpty ? () : nil }) != nil { return }
        if let callback = state.withLock({ $0.callbacks.first }) { tellWaitingLong(at: place, for: callback.place) }
    }

    private func finishChange(
        from old: IOAddressSpace, to new: IOAddressSpace?, at place: SourcePlace
    ) throws(DMAError) {
        let isFree = letGo(of: old, at: place)
        if !isFree && LockChecker.isOn { tellPinsLeft(in: .everything, at: place) }
        state.update { state in
            if isFree {
                old.remove(self)
                state.attachment = new.map { .attached(to: $0) } ?? .detached
                if let new { open(to: new) }
            } else {
                new?.remove(self)
                state.attachment = .attached(to: old)
                open(to: old)
            }
        }
        if !isFree { throw .deadlock }
    }

    /// Closes it to new pins and transfers. With the lock held.
    private func close() {
        isClosing.store(true, ordering: .sequentiallyConsistent)
        translation.store(0, ordering: .sequentiallyConsistent)
    }

    /// Lets pins and transfers begin, in a space that has the access in its list. With the lock held.
    private func open(to space: IOAddressSpace) {
        translation.store(space.translation.bits, ordering: .sequentiallyConsistent)
        isClosing.store(false, ordering: .sequentiallyConsistent)
    }

    /// Once it is closed: waits for the transfers under way to end and tells the device to let go of everything, in
    /// rounds as an unmap does, at least once. Whether no pin is left; then no thread is about to return one either.
    private func letGo(of space: IOAddressSpace, at place: SourcePlace) -> Bool {
        LockChecker.acquire(
            .unmapping, instance: ObjectIdentifier(space), mode: .shared, file: place.file, line: place.line)
        defer { LockChecker.release(.unmapping, instance: ObjectIdentifier(space)) }
        readers.drain()
        let configuration = space.configuration
        var round = 0
        var isFree = false
        repeat {
            callBack(.everything, at: place) { _ in true }
            round += 1
            let end = MonotonicInstant.after(configuration.roundWait)
            isFree = state.wait(until: end) { _ in readers.pinCount == 0 ? () : nil } != nil
        } while !isFree && round < configuration.unmapRounds
        if isFree { readers.drain() }
        return isFree
    }

    /// Tells the device that a mapping is to be removed, unless it has left the address space meanwhile or is being
    /// destroyed, which tells it by itself.
    func noticeUnmap(of range: IOVARange, in space: IOAddressSpace, at place: SourcePlace) {
        callBack(range, at: place) { !$0.isDestroyed && $0.attachment.includes(space) }
    }

    private func callBack(_ range: IOVARange, at place: SourcePlace, if isDue: (State) -> Bool) {
        guard let onUnmap else { return }
        let thread = pthread_self()
        var other: Callback?
        let begins = state.withLock { state in
            guard isDue(state) else { return false }
            other = state.callbacks.last
            state.callbacks.append(Callback(thread: thread, place: place))
            return true
        }
        guard begins else { return }
        if LockChecker.isOn {
            if let other, !callbackIsReentrant { tellCallingTwice(at: place, beside: other.place) }
            callBackWatched(range, at: place, onUnmap)
        } else {
            onUnmap(range)
        }
        state.update { state in
            if let index = state.callbacks.lastIndex(where: { $0.thread == thread }) {
                state.callbacks.remove(at: index)
            }
        }
    }
}

// Use, inside a section

extension DMAAccess {
    /// Runs `body` inside a section of this thread, with what finds the mappings, of which it touches those in `range`.
    ///
    /// - Parameter place: where that is, if somebody watches.
    /// - Throws: `ENOENT` when the access is not attached.
    @inline(__always)
    func inSection<Result: ~Copyable>(
        _ range: IOVARange, at place: SourcePlace?,
        _ body: (borrowing Readers.Section, Translation) throws(DMAError) -> Result
    ) throws(DMAError) -> Result {
        if let place { tellEntering(at: place) }
        defer { if place != nil { tellLeaving() } }
        let section = readers.enter(Reach(range))
        guard let translation = Translation(bits: translation.load(ordering: .sequentiallyConsistent)) else {
            readers.leave(section)
            if let place { tellUse(at: place) }
            throw .notFound
        }
        do throws(DMAError) {
            let result = try body(section, translation)
            readers.leave(section)
            return result
        } catch {
            readers.leave(section)
            throw error
        }
    }

    /// Wakes the thread that waits for the pins to go, if there is one. Inside the section in which a pin was returned.
    func wakeIfClosing() {
        if isClosing.load(ordering: .sequentiallyConsistent) { state.update { _ in } }
    }
}
