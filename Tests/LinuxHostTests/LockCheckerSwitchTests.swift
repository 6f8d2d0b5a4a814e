import Glibc
import LinuxHost
import Testing

@Suite struct `The lock checker's switch` {
    @Test func `a recording sees its thread and those started in it, and no others`() throws {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        @Sendable func invert() {
            LockChecker.holding(first) { LockChecker.holding(second) {} }
            LockChecker.holding(second) { LockChecker.holding(first) {} }
        }
        let stage = Monitor(0)
        // Started outside: runs while the recording does.
        let bystander = try OSThread(name: "bystander") {
            stage.wait { $0 == 1 ? () : nil }
            let own = LockChecker.withRecording { LockChecker.holding(first) { LockChecker.holding(second) {} } }
            #expect(own.isEmpty)
            stage.update { $0 = 2 }
        }
        let checker = LockChecker()
        try checker.record {
            stage.update { $0 = 1 }
            stage.wait { $0 == 2 ? () : nil }
            LockChecker.holding(second) { LockChecker.holding(first) {} }
            #expect(checker.reports.isEmpty)
            let inner = LockChecker.withRecording { invert() }
            #expect(inner.count == 1)
            #expect(checker.reports.isEmpty)
            try onThread("started inside") { try? onThread("in turn") { invert() } }
        }
        bystander.join()
        #expect(checker.reports.map(\.kind) == [.lockOrder])
        #expect(checker.reports.first?.text.contains(#"thread "in turn""#) == true)
    }

    @Test func `a thread that outlives the recording is still watched`() throws {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        let mayGoOn = Monitor(false)
        let checker = LockChecker()
        let thread = try checker.record {
            try OSThread(name: "long-lived") {
                LockChecker.acquire(first)
                mayGoOn.wait { $0 ? () : nil }
                LockChecker.acquire(second)
                LockChecker.release(first)
                LockChecker.acquire(first)
            }
        }
        mayGoOn.update { $0 = true }
        thread.join()
        #expect(checker.reports.map(\.kind) == [.lockOrder])
    }

    @Test func `one checker remembers from one recording to the next, but not what was held`() {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        let checker = LockChecker()
        checker.record {
            LockChecker.acquire(first)
            LockChecker.acquire(second)
        }
        checker.record { LockChecker.acquire(second) }
        #expect(checker.reports.isEmpty)
        checker.record { LockChecker.holding(second) { LockChecker.holding(first) {} } }
        #expect(checker.reports.count == 1)
    }

    @Test func `nothing is left of a recording, nor of the threads that it watched`() throws {
        weak var left: LockChecker?
        do {
            let checker = LockChecker()
            left = checker
            try checker.record { try onThread("watched") { LockChecker.acquire(LockClass("a lock never given back")) } }
        }
        #expect(left == nil)
    }

    @Test func `without the variable nothing is watched, and nothing that it would need is made`() async {
        let result = await #expect(processExitsWith: .success, observing: [\.standardErrorContent]) {
            unsafe unsetenv("OUTBOARD_LOCK_CHECKER")
            invertMonitors()
            LockChecker.report(.pinMisuse, { () -> String in fatalError("the text is made") }())
            LockChecker.withBudget(.zero, for: { () -> String in fatalError("the name is made") }()) {}
            LockChecker.acquire({ () -> LockClass in fatalError("the class is made") }())
            precondition(!LockChecker.isOn)
            let checker = LockChecker()
            checker.record { precondition(LockChecker.isOn) }
            precondition(!LockChecker.isOn)
            invertMonitors()
            precondition(checker.reports.isEmpty)
        }
        #expect(result.map(standardError) == "")
    }

    @Test func `any other value is off as well`() async {
        await #expect(processExitsWith: .success) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "yes", 1)
            precondition(!LockChecker.isOn)
        }
    }

    @Test func `report prints each thing once and goes on`() async {
        let result = await #expect(processExitsWith: .success, observing: [\.standardErrorContent]) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "report", 1)
            invertMonitors()
            invertMonitors()
            let reports = LockChecker.withRecording { invertMonitors() }
            precondition(reports.count == 1 && LockChecker.isOn)
        }
        #expect(
            result.map(standardError) == """
                lock checker: possible deadlock: each of these can keep another waiting, for ever when they meet
                  thread "inverter" holds the second since Main.swift:3
                    and then waits at Main.swift:4 for the first
                  thread "inverter" holds the first since Main.swift:1
                    and then waits at Main.swift:2 for the second

                """)
    }

    @Test func `trap stops the process after the first report`() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "trap", 1)
            invertMonitors()
            exit(EXIT_SUCCESS)
        }
        let text = result.map(standardError) ?? ""
        #expect(text.hasPrefix("lock checker: possible deadlock: "))
        #expect(text.contains("told to stop"))
    }

    @Test func `a monitor taken twice stops the process instead of hanging it`() async {
        await #expect(processExitsWith: .failure) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "trap", 1)
            let monitor = Monitor(0)
            monitor.withLock { _ in monitor.withLock { _ in } }
            exit(EXIT_SUCCESS)
        }
    }

    @Test func `what is a matter of time stops nothing`() async {
        let result = await #expect(processExitsWith: .success, observing: [\.standardErrorContent]) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "trap", 1)
            LockChecker.withBudget(.seconds(1000), warning: .zero, for: "it") {}
            LockChecker.withBudget(.zero, for: "it") {}
        }
        #expect(result.map(standardError)?.hasPrefix("lock checker: it took ") == true)
    }
}

/// Takes two locks in both orders, one after the other.
private func invertMonitors() {
    let first = Monitor(0, as: LockClass("the first"))
    let second = Monitor(0, as: LockClass("the second"))
    let thread = try? OSThread(name: "inverter") {
        first.withLock(file: "Main.swift", line: 1) { _ in second.withLock(file: "Main.swift", line: 2) { _ in } }
        second.withLock(file: "Main.swift", line: 3) { _ in first.withLock(file: "Main.swift", line: 4) { _ in } }
    }
    thread?.join()
}

private func standardError(_ result: ExitTest.Result) -> String {
    String(decoding: result.standardErrorContent, as: UTF8.self)
}
