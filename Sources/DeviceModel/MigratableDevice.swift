public import LinuxHost

/// A device whose state can move to another process, where work that was under way goes on.
///
///                  beginStop, finishStop                 saveState
///      running ───────────────────────────▶ stopped ─────────────────▶ bytes
///         ▲                                  │   ▲  restoreState          │
///         └──────────────────────────────────┘   └──── in this process ◀──┘
///                        resume                         or in another
///
/// A device that only is a `Device` cannot migrate, and its session says so. All calls come on the connection's thread, as
/// those of `Device`, which may come in between: a stopped device still answers accesses to its regions and remembers what
/// they change, but begins nothing on their account before `resume`. A reset puts it into its state after power-on and
/// leaves it stopped.
public protocol MigratableDevice: Device {
    /// What a device must be, elsewhere, to take this one's state; constant.
    var stateIdentity: StateIdentity { get }

    /// Begins nothing more, and raises no interrupt. Returns at once.
    ///
    /// What is under way may end, or fail from now on for no fault of the guest's: guest memory may be closed to the device,
    /// and messages to the client are cancelled. The guest hears nothing of such failures; whatever it has not been told
    /// the end of is carried out again after `resume`, here or elsewhere.
    func beginStop()

    /// Returns when nothing of the device touches guest memory, nor what else it shares with the device that takes over,
    /// such as a disk, to which everything has been written by then.
    ///
    /// - Throws: when that does not come true by the deadline, or not at all. The session has the device resume then.
    func finishStop(by deadline: MonotonicInstant) throws(StopFailure)

    /// Goes on, with what was stopped or what was restored since.
    func resume()

    /// Appends all that a guest could tell apart, and what it waits for. Only while stopped. Interrupts that were raised and
    /// not told belong to it, the event counters of the client do not.
    func saveState(into writer: inout StateWriter)

    /// Puts what was saved into the place of all that there is. Only while stopped.
    ///
    /// The bytes may come from anybody: they are taken whole, or refused with nothing changed.
    func restoreState(from reader: inout StateReader) throws(StateError)
}

/// Why a device could not be stopped. It goes on then.
public enum StopFailure: Error, Hashable, Sendable {
    /// Something under way did not end in time; perhaps it does the next time.
    case tookTooLong
    /// What was written cannot be made durable, so another process might not see it.
    case storageFailed

    /// The Linux error number that tells a client.
    public var errno: Errno {
        switch self {
        case .tookTooLong: .busy
        case .storageFailed: .inputOutput
        }
    }
}
