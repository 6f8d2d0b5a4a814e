import CLinuxShims
import Glibc

/// A value that threads share under a lock, and a way to wait for it to change.
///
/// Built on a POSIX mutex and a condition variable on the monotonic clock, which thread checkers understand. Not
/// recursive: taking it again on the thread that holds it deadlocks.
@safe
public final class Monitor<State>: @unchecked Sendable {  // `state` is touched only with `mutex` held.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var state: State

    public init(_ state: State) {
        self.state = state
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
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try body(&state)
    }

    /// Runs `body` with the lock held, then wakes every waiting thread to look at the state again.
    public func update<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_cond_broadcast(condition)
            unsafe pthread_mutex_unlock(mutex)
        }
        return try body(&state)
    }

    /// Waits until `body`, run with the lock held, returns a value. It is run at once and after every `update`.
    public func wait<Result>(_ body: (inout State) -> Result?) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            unsafe pthread_cond_wait(condition, mutex)
        }
    }

    /// As `wait(_:)`, but returns `nil` when `deadline` passes first; `body` has then been run once after it.
    public func wait<Result>(until deadline: MonotonicInstant, _ body: (inout State) -> Result?) -> Result? {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        var time = deadline.timespec
        while true {
            if let result = body(&state) { return result }
            if unsafe pthread_cond_timedwait(condition, mutex, &time) == ETIMEDOUT { return body(&state) }
        }
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
