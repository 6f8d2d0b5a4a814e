import CLinuxShims
import Glibc

/// A thread of the operating system.
///
/// Join it exactly once before the last reference goes; a thread that nobody joins is a bug of ours and traps. To the lock
/// checker its life is a lock that it holds, and who joins it waits for that. The threads that are started at one place
/// are of one class; a function that starts them for others hands on its caller's place.
public final class OSThread: @unchecked Sendable {  // The handle is written once, before the object is shared.
    private let handle: pthread_t
    private let life: Life
    private let isJoined = PlainLock(false)

    /// Starts a thread that runs `body` and ends. `name` is what `ps` and `gdb` show of it; the kernel takes 15 bytes.
    /// All signals are blocked in it: signals are the main thread's business.
    ///
    /// - Throws: `EAGAIN` when the system has no room for another thread.
    public init(
        name: String, file: StaticString = #fileID, line: UInt32 = #line, _ body: @escaping @Sendable () -> Void
    ) throws(Errno) {
        life = Life(place: SourcePlace(file: file, line: line))
        let start = unsafe Unmanaged.passRetained(Start(name: String(name.prefix(15)), life: life, body: body))
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
                start.run()
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

    /// Lets other threads run that want the processor of the calling one; goes on at once if there are none.
    public static func giveWay() { sched_yield() }

    /// Waits for the thread to end.
    public func join(file: StaticString = #fileID, line: UInt32 = #line) {
        let isFirst = isJoined.withLock { joined in
            defer { joined = true }
            return !joined
        }
        precondition(isFirst, "a thread is joined once")
        LockChecker.passes(through: life.lockClass, instance: ObjectIdentifier(life), file: file, line: line)
        pthread_join(handle, nil)
    }

    /// What the lock checker knows a thread by.
    private final class Life: Sendable {
        let lockClass: LockClass

        init(place: SourcePlace) { lockClass = LockClass(.thread, madeAt: place) }
    }

    private final class Start {
        let name: String
        let life: Life
        let body: @Sendable () -> Void
        /// The checker that records the starting thread, and so this one.
        let checker: LockChecker?

        init(name: String, life: Life, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.life = life
            self.body = body
            checker = LockChecker.isOn ? CheckedThread.own?.checker : nil
        }

        func run() {
            if let checker, checker !== LockChecker.ofProcess {
                checker.record { live() }
            } else {
                live()
            }
        }

        private func live() {
            let place = life.lockClass.place
            LockChecker.holding(
                life.lockClass, instance: ObjectIdentifier(life), file: place.file, line: place.line, body)
        }
    }
}
