import CLinuxShims
import Glibc

/// A value that threads share under a lock, and a way to wait for it to change.
///
/// Built on a POSIX mutex and a condition variable on the monotonic clock, which thread checkers understand. Not
/// recursive: taking it again on the thread that holds it deadlocks. The lock checker watches it.
@safe
public final class Monitor<State>: @unchecked Sendable {  // `state` is touched only with `mutex` held.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private let lockClass: LockClass
    private var state: State

    /// - Parameter lockClass: what the lock checker takes it for; when there is none, all monitors that are created at
    ///   the place of the call are of one class.
    public init(
        _ state: State, as lockClass: LockClass? = nil, file: StaticString = #fileID, line: UInt32 = #line
    ) {
        self.state = state
        self.lockClass = lockClass ?? LockClass(.lock, madeAt: SourcePlace(file: file, line: line))
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        let mutexStatus = unsafe pthread_mutex_init(mutex, nil)
        let conditionStatus = unsafe shim_condition_initialize(condition)
        precondition(mutexStatus == 0 && conditionStatus == 0, "default attributes are always accepted")
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Runs `body` with the lock held. Waiting threads are not woken.
    public func withLock<Result, Failure: Error>(
        file: StaticString = #fileID, line: UInt32 = #line, _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let isWatched = LockChecker.isOn && tellsTaking(file, line)
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_mutex_unlock(mutex)
            if isWatched { tellRelease() }
        }
        return try body(&state)
    }

    /// Runs `body` with the lock held, then wakes every waiting thread to look at the state again.
    public func update<Result, Failure: Error>(
        file: StaticString = #fileID, line: UInt32 = #line, _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let isWatched = LockChecker.isOn && tellsTaking(file, line)
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_cond_broadcast(condition)
            unsafe pthread_mutex_unlock(mutex)
            if isWatched { tellRelease() }
        }
        return try body(&state)
    }

    /// Waits until `body`, run with the lock held, returns a value. It is run at once and after every `update`.
    public func wait<Result>(
        file: StaticString = #fileID, line: UInt32 = #line, _ body: (inout State) -> Result?
    ) -> Result {
        let isWatched = LockChecker.isOn && tellsWaiting(file, line)
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_mutex_unlock(mutex)
            if isWatched { tellRelease() }
        }
        while true {
            if let result = body(&state) { return result }
            if isWatched { tellTakingAgain(file, line) }
            unsafe pthread_cond_wait(condition, mutex)
        }
    }

    /// As `wait(_:)`, but returns `nil` when `deadline` passes first; `body` has then been run once after it.
    public func wait<Result>(
        until deadline: MonotonicInstant, file: StaticString = #fileID, line: UInt32 = #line,
        _ body: (inout State) -> Result?
    ) -> Result? {
        let isWatched = LockChecker.isOn && tellsWaiting(file, line)
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_mutex_unlock(mutex)
            if isWatched { tellRelease() }
        }
        var time = deadline.timespec
        while true {
            if let result = body(&state) { return result }
            if isWatched { tellTakingAgain(file, line) }
            if unsafe pthread_cond_timedwait(condition, mutex, &time) == ETIMEDOUT { return body(&state) }
        }
    }

    /// Tells the lock checker that the lock is about to be taken. Whether it has to be told of the release.
    @inline(never)
    private func tellsTaking(_ file: StaticString, _ line: UInt32) -> Bool {
        LockChecker.begin(lockClass, ObjectIdentifier(self), .exclusive, SourcePlace(file: file, line: line))
    }

    @inline(never)
    private func tellsWaiting(_ file: StaticString, _ line: UInt32) -> Bool {
        LockChecker.waits(file: file, line: line)
        return tellsTaking(file, line)
    }

    @inline(never)
    private func tellRelease() {
        LockChecker.end(lockClass, ObjectIdentifier(self))
    }

    /// Tells the lock checker that the lock is given back for the time of a wait and taken again: by now the thread may
    /// hold what it did not when it took it first. Before the wait, which may be the one that never ends.
    @inline(never)
    private func tellTakingAgain(_ file: StaticString, _ line: UInt32) {
        tellRelease()
        _ = tellsTaking(file, line)
    }
}

/// A point on the clock that neither steps nor stops for time adjustments. `CLOCK_MONOTONIC`
public struct MonotonicInstant: Comparable, Hashable, Sendable {
    /// Nanoseconds since an arbitrary start, at most `Int64.max` (292 years).
    public let nanoseconds: Int64

    public static var now: MonotonicInstant {
        var time = Glibc.timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return MonotonicInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }

    /// The instant `duration` from now; the far future for a duration that does not fit.
    public static func after(_ duration: Duration) -> MonotonicInstant {
        let now = MonotonicInstant.now.nanoseconds
        let (sum, overflow) = now.addingReportingOverflow(duration.wholeNanoseconds)
        return MonotonicInstant(nanoseconds: overflow ? .max : sum)
    }

    /// How long until this instant; zero when it has passed.
    public var remaining: Duration {
        .nanoseconds(max(0, nanoseconds - MonotonicInstant.now.nanoseconds))
    }

    public static func < (left: MonotonicInstant, right: MonotonicInstant) -> Bool {
        left.nanoseconds < right.nanoseconds
    }

    var timespec: Glibc.timespec {
        Glibc.timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
    }
}

extension Duration {
    /// The duration in nanoseconds, clamped to what 63 bits hold.
    var wholeNanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        if overflow { return seconds < 0 ? .min : .max }
        let (sum, sumOverflow) = scaled.addingReportingOverflow(attoseconds / 1_000_000_000)
        return sumOverflow ? .max : sum
    }

    /// The duration in whole milliseconds for a call that takes an `int` of them; rounded up, so that a wait is never
    /// shorter than asked for.
    var pollMilliseconds: Int32 {
        let milliseconds = (wholeNanoseconds / 1_000_000) + (wholeNanoseconds % 1_000_000 > 0 ? 1 : 0)
        return Int32(clamping: max(0, milliseconds))
    }
}
