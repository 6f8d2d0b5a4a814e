import Glibc
import LinuxHost
import Testing

@Suite struct `Monitors` {
    @Test func `an update wakes who waits for it`() throws {
        let monitor = Monitor(0)
        let thread = try OSThread(name: "counter") {
            for _ in 0..<100 { monitor.update { $0 += 1 } }
        }
        #expect(monitor.wait { $0 == 100 ? $0 : nil } == 100)
        thread.join()
    }

    @Test func `a wait whose condition holds does not wait`() {
        let monitor = Monitor("state")
        #expect(monitor.wait { $0.count } == 5)
        #expect(monitor.wait(until: MonotonicInstant.after(.zero)) { $0.count } == 5)
    }

    @Test func `a deadline ends a wait, and the state is looked at once more after it`() {
        let monitor = Monitor(0)
        let deadline = MonotonicInstant.after(.milliseconds(20))
        var looks = 0
        let result: Int? = monitor.wait(until: deadline) { _ in
            looks += 1
            return MonotonicInstant.now >= deadline ? looks : nil
        }
        #expect(result != nil)
        #expect(MonotonicInstant.now >= deadline)
        let nothing: Int? = monitor.wait(until: deadline) { _ in nil }
        #expect(nothing == nil)
    }

    @Test func `threads exclude each other`() throws {
        let monitor = Monitor(0)
        let threads = try (0..<4).map { number in
            try OSThread(name: "adder \(number)") {
                for _ in 0..<10_000 { monitor.withLock { $0 += 1 } }
            }
        }
        for thread in threads { thread.join() }
        #expect(monitor.withLock { $0 } == 40_000)
    }

    @Test func `what the body throws comes through, and the lock is free afterwards`() {
        let monitor = Monitor(0)
        #expect(throws: Errno.busy) { try monitor.withLock { _ throws(Errno) in throw Errno.busy } }
        #expect(throws: Errno.busy) { try monitor.update { _ throws(Errno) in throw Errno.busy } }
        #expect(monitor.withLock { $0 } == 0)
    }

    @Test func `an instant that does not fit is the far future`() {
        #expect(MonotonicInstant.after(.seconds(Int64.max)).nanoseconds == .max)
        #expect(MonotonicInstant.after(.nanoseconds(1)) > MonotonicInstant(past: .seconds(1)))
        #expect(MonotonicInstant(past: .seconds(1)).remaining == .zero)
        #expect(MonotonicInstant.after(.seconds(1000)).remaining > .seconds(500))
    }
}

extension MonotonicInstant {
    fileprivate init(past duration: Duration) { self = .after(.zero - duration) }
}

@Suite struct `Threads` {
    @Test func `joining waits for the thread's end`() throws {
        let monitor = Monitor(false)
        let thread = try OSThread(name: "setter") { monitor.update { $0 = true } }
        thread.join()
        #expect(monitor.withLock { $0 })
    }

    @Test func `a thread has its name, cut to what the kernel takes, and no signals`() throws {
        let before = blockedSignals()
        let seen = Monitor<(name: String, isBlocked: Bool)>(("", false))
        let thread = try OSThread(name: "a name of more than fifteen bytes") {
            let isBlocked = blockedSignals().isSuperset(of: [SIGTERM, SIGINT, SIGHUP])
            let name = threadName()
            seen.update { $0 = (name, isBlocked) }
        }
        thread.join()
        #expect(seen.withLock { $0.name } == "a name of more ")
        #expect(seen.withLock { $0.isBlocked })
        #expect(blockedSignals() == before)
    }

    @Test func `a thread that nobody joins traps`() async {
        await #expect(processExitsWith: .failure) {
            _ = try OSThread(name: "orphan") {}
        }
    }

    @Test func `joining twice traps`() async {
        await #expect(processExitsWith: .failure) {
            let thread = try OSThread(name: "twin") {}
            thread.join()
            thread.join()
        }
    }
}

/// The calling thread's name as the kernel has it.
private func threadName() -> String {
    let file = OwnedDescriptor(adopting: unsafe open("/proc/thread-self/comm", O_RDONLY | O_CLOEXEC))
    var bytes = [UInt8](repeating: 0, count: 32)
    let count = unsafe read(file.rawValue, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(0, count - 1)), as: UTF8.self)
}

/// The signals that the calling thread has blocked.
private func blockedSignals() -> Set<Int32> {
    var mask = sigset_t()
    unsafe pthread_sigmask(SIG_BLOCK, nil, &mask)
    return Set((1...31).filter { unsafe sigismember(&mask, $0) == 1 })
}
