import Glibc

/// A value that threads share under a lock which nothing watches and nobody can wait on.
///
/// For what `Monitor` and the lock checker themselves stand on; everything else uses `Monitor`. Nothing that a caller
/// handed in may run under it.
@safe
final class PlainLock<State>: @unchecked Sendable {  // `state` is touched only with `mutex` held.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private var state: State

    init(_ state: State) {
        self.state = state
        unsafe mutex = .allocate(capacity: 1)
        let status = unsafe pthread_mutex_init(mutex, nil)
        precondition(status == 0, "default attributes are always accepted")
    }

    deinit {
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
    }

    func withLock<Result>(_ body: (inout State) -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return body(&state)
    }
}
