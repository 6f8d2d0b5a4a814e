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
        /// The threads that callbacks run on, one entry for each.
        var callbackThreads: [pthread_t] = []
    }

    /// Whether it may pin, and so asks its address space for mappings of whole pages.
    public let needsPin: Bool
    private let onUnmap: (@Sendable (IOVARange) -> Void)?
    /// Whether it may pin and can be asked to let go.
    let mayPin: Bool
    private let state = Monitor(State())
    /// The threads that use it.
    let readers = Readers()
    /// Where those find the mappings, a `Translation`; zero while it is closed: detached, changing or destroyed.
    private let translation = Atomic<UInt>(0)
    /// Somebody waits for the pins to go.
    private let isClosing = Atomic<Bool>(false)

    /// An access that is attached to nothing.
    ///
    /// - Parameter onUnmap: told of mappings that are to be removed, with the whole range of the mapping, or
    ///   `everything` when the attachment ends. Nothing can be pinned without it.
    public init(needsPin: Bool, onUnmap: (@Sendable (IOVARange) -> Void)?) {
        self.needsPin = needsPin
        self.onUnmap = onUnmap
        mayPin = needsPin && onUnmap != nil
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
            open(to: space)
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
            close()
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
            close()
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
            close()
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
    private func letGo(of space: IOAddressSpace) -> Bool {
        readers.drain()
        let configuration = space.configuration
        var round = 0
        var isFree = false
        repeat {
            callBack(.everything) { _ in true }
            round += 1
            let end = MonotonicInstant.after(configuration.roundWait)
            isFree = state.wait(until: end) { _ in readers.pinCount == 0 ? () : nil } != nil
        } while !isFree && round < configuration.unmapRounds
        if isFree { readers.drain() }
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
}

// Use, inside a section

extension DMAAccess {
    /// Runs `body` inside a section of this thread, with what finds the mappings, of which it touches those in `range`.
    ///
    /// - Throws: `ENOENT` when the access is not attached.
    @inline(__always)
    func inSection<Result: ~Copyable>(
        _ range: IOVARange,
        _ body: (borrowing Readers.Section, Translation) throws(DMAError) -> Result
    ) throws(DMAError) -> Result {
        let section = readers.enter(Reach(range))
        guard let translation = Translation(bits: translation.load(ordering: .sequentiallyConsistent)) else {
            readers.leave(section)
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
