import CLinuxShims
import Glibc

/// A thread of the operating system.
///
/// Join it exactly once before the last reference goes; a thread that nobody joins is a bug of ours and traps.
public final class OSThread: @unchecked Sendable {  // The handle is written once, before the object is shared.
    private let handle: pthread_t
    private let isJoined = Monitor(false)

    /// Starts a thread that runs `body` and ends. `name` is what `ps` and `gdb` show of it; the kernel takes 15 bytes.
    /// All signals are blocked in it: signals are the main thread's business.
    ///
    /// - Throws: `EAGAIN` when the system has no room for another thread.
    public init(name: String, _ body: @escaping @Sendable () -> Void) throws(Errno) {
        let start = unsafe Unmanaged.passRetained(Start(name: String(name.prefix(15)), body: body))
        var all = sigset_t()
        var previous = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_SETMASK, &all, &previous)
        var created = pthread_t()
        let status = unsafe pthread_create(
            &created, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                unsafe shim_set_thread_name(start.name)
                start.body()
                return nil
            }, unsafe start.toOpaque())
        unsafe pthread_sigmask(SIG_SETMASK, &previous, nil)
        handle = created
        if status != 0 {
            unsafe start.release()
            isJoined.withLock { $0 = true }
            throw Errno(rawValue: status)
        }
    }

    deinit {
        precondition(isJoined.withLock { $0 }, "a thread was dropped without being joined")
    }

    /// Waits for the thread to end.
    public func join() {
        let isFirst = isJoined.withLock { joined in
            defer { joined = true }
            return !joined
        }
        precondition(isFirst, "a thread is joined once")
        pthread_join(handle, nil)
    }

    private final class Start {
        let name: String
        let body: @Sendable () -> Void

        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
}
