import LinuxHost
import Testing

private let section = LockClass("a read section", .forbidsWaiting)
private let callback = LockClass("a callback of the access")

@Suite struct `Waits under the lock checker` {
    @Test func `a wait inside a section that forbids it is reported, whatever is waited for`() throws {
        let reports = try LockChecker.withRecording {
            let monitor = Monitor(0)
            let thread = try OSThread(name: "joined") {}
            try OSThread(name: "reader") {
                LockChecker.holding(section, mode: .shared, file: "Read.swift", line: 1) {
                    _ = monitor.wait(file: "Read.swift", line: 2) { $0 }
                    _ = monitor.wait(until: .now, file: "Read.swift", line: 3) { $0 }
                    thread.join(file: "Read.swift", line: 4)
                    LockChecker.passes(through: callback, file: "Read.swift", line: 5)
                    LockChecker.waits(file: "Read.swift", line: 6)
                }
            }.join()
        }
        #expect(reports.map(\.kind) == [.waiting, .waiting, .waiting, .waiting, .waiting])
        #expect(reports.map { $0.places.last?.line } == [2, 3, 4, 5, 6])
        #expect(
            reports.first?.text == """
                a wait where none is allowed
                  thread "reader" holds a read section (shared) since Read.swift:1
                    and then waits at Read.swift:2
                """)
    }

    @Test func `a section that waits for all sections waits for itself`() {
        let reports = LockChecker.withRecording {
            LockChecker.holding(section, mode: .shared) { LockChecker.passes(through: section) }
        }
        #expect(reports.map(\.kind) == [.recursion])
    }

    @Test func `outside of it, and under locks that allow it, waiting is fine`() throws {
        let reports = try LockChecker.withRecording {
            let (outer, inner) = (Monitor(0), LockClass("an inner lock"))
            LockChecker.holding(section, mode: .shared) { outer.withLock { _ in } }
            outer.wait { _ in LockChecker.holding(inner) {} }
            try outer.withLock { _ in try onThread("joined") {} }
            LockChecker.waits()
        }
        #expect(reports.isEmpty, "\(reports)")
    }

    @Test func `a callback that joins a worker which destroys the access is reported`() throws {
        let reports = try LockChecker.withRecording {
            let worker = try OSThread(name: "worker", file: "Device.swift", line: 1) {
                LockChecker.passes(through: callback, file: "Destroy.swift", line: 2)
            }
            try onThread("unmapper") {
                LockChecker.holding(callback, mode: .shared, file: "Unmap.swift", line: 3) {
                    worker.join(file: "Device.swift", line: 4)
                }
            }
        }
        // The two threads run at the same time: either may come first.
        let lines = reports.first?.text.split(separator: "\n").map(String.init) ?? []
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(
            Set(lines) == [
                "possible deadlock: each of these can keep another waiting, for ever when they meet",
                #"  thread "worker" was started at Device.swift:1"#,
                "    and then waits at Destroy.swift:2 for a callback of the access",
                #"  thread "unmapper" holds a callback of the access (shared) since Unmap.swift:3"#,
                "    and then waits at Device.swift:4 for the end of the thread started at Device.swift:1",
            ])
    }

    @Test func `a thread may join those it has started, though all are started at one place`() throws {
        @Sendable func start(depth: Int) {
            guard depth > 0 else { return }
            try? OSThread(name: "generation \(depth)") { start(depth: depth - 1) }.join()
        }
        let reports = LockChecker.withRecording { start(depth: 3) }
        #expect(reports.isEmpty, "\(reports)")
    }

    @Test func `a thread joined under a lock that it takes is reported`() throws {
        let device = Monitor(0)
        let reports = try LockChecker.withRecording {
            for isUnderLock in [false, true] {
                let taken = Monitor(false)
                let worker = try OSThread(name: "worker") {
                    device.withLock { $0 += 1 }
                    taken.update { $0 = true }
                }
                taken.wait { $0 ? () : nil }
                if isUnderLock { device.withLock { _ in worker.join() } } else { worker.join() }
            }
        }
        // The two workers are of one class for being started at one place.
        #expect(reports.map(\.kind) == [.lockOrder])
    }

    @Test func `a wait gives its lock back and takes it again after what was taken meanwhile`() throws {
        let reports = try LockChecker.withRecording {
            let monitor = Monitor(0, as: LockClass("the state"))
            let other = LockClass("the other lock")
            try onThread("waiter") {
                _ = monitor.wait(until: .now, file: "Wait.swift", line: 1) { looks -> Int? in
                    looks += 1
                    if looks == 1 { LockChecker.acquire(other, file: "Wait.swift", line: 2) }
                    return looks == 2 ? looks : nil
                }
                LockChecker.release(other)
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                possible deadlock: each of these can keep another waiting, for ever when they meet
                  thread "waiter" holds the other lock since Wait.swift:2
                    and then waits at Wait.swift:1 for the state
                  thread "waiter" holds the state since Wait.swift:1
                    and then waits at Wait.swift:2 for the other lock
                """
            ])
    }

    @Test func `a callback under a lock that forbids it is reported`() throws {
        let internalLock = Monitor(0, as: LockClass("the address space", .forbidsCallbacks))
        let reports = try LockChecker.withRecording {
            LockChecker.callsBack()
            try onThread("unmapper") {
                internalLock.withLock(file: "Unmap.swift", line: 1) { _ in
                    LockChecker.callsBack(file: "Unmap.swift", line: 2)
                }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                a callback where none is allowed
                  thread "unmapper" holds the address space since Unmap.swift:1
                    and then calls back at Unmap.swift:2
                """
            ])
        #expect(reports.map(\.kind) == [.callback])
    }
}

@Suite struct `Budgets and reports of others` {
    @Test func `what takes longer than it may is reported, and a warning comes first`() {
        let reports = LockChecker.withRecording {
            let result = LockChecker.withBudget(.seconds(1000), for: "nothing") { 1 }
            LockChecker.withBudget(.seconds(1000), warning: .zero, for: "the callback", file: "Unmap.swift", line: 1) {}
            LockChecker.withBudget(.zero, warning: .zero, for: "the callback", file: "Unmap.swift", line: 2) {}
            #expect(result == 1)
        }
        #expect(reports.map(\.kind) == [.slow, .overBudget])
        #expect(reports.map(\.isWarning) == [true, false])
        let texts = reports.map { $0.text.replacing(#/took \d+\.\d ms/#, with: "took some time") }
        #expect(
            texts == [
                "the callback took some time, and should take 0.0 ms, at Unmap.swift:1",
                "the callback took some time, and may take 0.0 ms, at Unmap.swift:2",
            ])
    }

    @Test func `a budget is compared as well when the body throws`() {
        let reports = LockChecker.withRecording {
            #expect(throws: Errno.busy) {
                try LockChecker.withBudget(.zero, for: "it") { () throws(Errno) in throw Errno.busy }
            }
        }
        #expect(reports.map(\.kind) == [.overBudget])
    }

    @Test func `others report what they find, each thing once`() {
        let access = LockClass("the access")
        let reports = LockChecker.withRecording {
            for number in 0..<3 {
                LockChecker.report(
                    .pinMisuse, "pin \(number) is released twice", classes: [access],
                    places: [SourcePlace(file: "Pin.swift", line: 1), SourcePlace(file: "Unpin.swift", line: 2)])
                LockChecker.report(.useAfterDestroy, "gone", file: "Use.swift", line: 3)
            }
            LockChecker.report(.pinMisuse, "elsewhere", file: "Use.swift", line: 3)
        }
        #expect(reports.map(\.kind) == [.pinMisuse, .useAfterDestroy, .pinMisuse])
        #expect(
            reports.map(\.text) == [
                "pin 0 is released twice\n    at Pin.swift:1\n    at Unpin.swift:2", "gone\n    at Use.swift:3",
                "elsewhere\n    at Use.swift:3",
            ])
        #expect(reports.first?.classes == [access])
    }
}
