import LinuxHost
import Testing

/// Runs `body` on a thread of its own, to its end.
func onThread(
    _ name: String, file: StaticString = #fileID, line: UInt32 = #line, _ body: @escaping @Sendable () -> Void
) throws {
    try OSThread(name: name, file: file, line: line, body).join(file: file, line: line)
}

/// What may run while something else is waited for, as the address space tells of it: no lock, but counted as one.
private let callback = LockClass("a callback of the access", .allowsNesting)
private let unmapping = LockClass("an unmap of the address space")

@Suite struct `Lock orders` {
    @Test func `two locks taken in both orders are reported, with the two places of each order`() throws {
        let disk = Monitor(0, as: LockClass("the disk's lock"))
        let queue = Monitor(0, file: "Disk/Queue.swift", line: 7)
        let reports = try LockChecker.withRecording {
            try onThread("submitter") {
                queue.withLock(file: "Disk/Queue.swift", line: 40) { _ in
                    disk.withLock(file: "Disk/Queue.swift", line: 41) { _ in }
                }
            }
            try onThread("closer") {
                disk.update(file: "Disk/Disk.swift", line: 70) { _ in
                    queue.update(file: "Disk/Disk.swift", line: 71) { _ in }
                }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                possible deadlock: each of these can keep another waiting, for ever when they meet
                  thread "closer" holds the disk's lock since Disk/Disk.swift:70
                    and then waits at Disk/Disk.swift:71 for the lock made at Disk/Queue.swift:7
                  thread "submitter" holds the lock made at Disk/Queue.swift:7 since Disk/Queue.swift:40
                    and then waits at Disk/Queue.swift:41 for the disk's lock
                """
            ])
        #expect(reports.first?.kind == .lockOrder)
        let classes = ["the disk's lock", "the lock made at Disk/Queue.swift:7"]
        #expect(reports.first?.classes.map(\.description) == classes)
        #expect(
            reports.first?.places == [
                SourcePlace(file: "Disk/Disk.swift", line: 70), SourcePlace(file: "Disk/Disk.swift", line: 71),
                SourcePlace(file: "Disk/Queue.swift", line: 40), SourcePlace(file: "Disk/Queue.swift", line: 41),
            ])
    }

    @Test func `both orders on one thread are as bad`() {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        let reports = LockChecker.withRecording {
            LockChecker.holding(first) { LockChecker.holding(second) {} }
            LockChecker.holding(second) { LockChecker.holding(first) {} }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
    }

    @Test func `an access destroyed under the lock that its callback takes is reported`() throws {
        let access = Object()
        let device = Monitor(0, as: LockClass("the device's lock"))
        let reports = try LockChecker.withRecording {
            try onThread("unmapper") {
                LockChecker.holding(unmapping, mode: .shared, file: "DMA/Unmap.swift", line: 1) {
                    LockChecker.holding(
                        callback, instance: ObjectIdentifier(access), mode: .shared, file: "DMA/Unmap.swift", line: 2
                    ) {
                        device.withLock(file: "Device.swift", line: 30) { _ in }
                    }
                }
            }
            // Nothing is unmapped any more: no thread ever waits here.
            try onThread("closer") {
                device.withLock(file: "Device.swift", line: 50) { _ in
                    LockChecker.passes(
                        through: callback, instance: ObjectIdentifier(access), file: "DMA/Destroy.swift", line: 3)
                    LockChecker.passes(through: unmapping, file: "DMA/Destroy.swift", line: 4)
                }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                possible deadlock: each of these can keep another waiting, for ever when they meet
                  thread "closer" holds the device's lock since Device.swift:50
                    and then waits at DMA/Destroy.swift:3 for a callback of the access
                  thread "unmapper" holds a callback of the access (shared) since DMA/Unmap.swift:2
                    and then waits at Device.swift:30 for the device's lock
                """,
                """
                possible deadlock: each of these can keep another waiting, for ever when they meet
                  thread "closer" holds the device's lock since Device.swift:50
                    and then waits at DMA/Destroy.swift:4 for an unmap of the address space
                  thread "unmapper" holds an unmap of the address space (shared) since DMA/Unmap.swift:1
                    and then waits at Device.swift:30 for the device's lock
                """,
            ])
    }

    @Test func `the order of the two observations does not matter`() throws {
        let device = Monitor(0)
        let reports = try LockChecker.withRecording {
            try onThread("closer") { device.withLock { _ in LockChecker.passes(through: callback) } }
            try onThread("unmapper") { LockChecker.holding(callback, mode: .shared) { device.withLock { _ in } } }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
    }

    @Test func `a circle through a third lock is reported whole`() throws {
        let device = Monitor(0, as: LockClass("the device's lock"))
        let engine = Monitor(0, as: LockClass("the engine's lock"))
        let reports = try LockChecker.withRecording {
            try onThread("unmapper") {
                LockChecker.holding(callback, mode: .shared, file: "Unmap.swift", line: 1) {
                    device.withLock(file: "Unmap.swift", line: 2) { _ in }
                }
            }
            try onThread("doorbell") {
                device.withLock(file: "Ring.swift", line: 1) { _ in
                    engine.withLock(file: "Ring.swift", line: 2) { _ in }
                }
            }
            try onThread("closer") {
                engine.withLock(file: "Close.swift", line: 1) { _ in
                    LockChecker.passes(through: callback, file: "Close.swift", line: 2)
                }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                possible deadlock: each of these can keep another waiting, for ever when they meet
                  thread "closer" holds the engine's lock since Close.swift:1
                    and then waits at Close.swift:2 for a callback of the access
                  thread "unmapper" holds a callback of the access (shared) since Unmap.swift:1
                    and then waits at Unmap.swift:2 for the device's lock
                  thread "doorbell" holds the device's lock since Ring.swift:1
                    and then waits at Ring.swift:2 for the engine's lock
                """
            ])
    }

    @Test(arguments: [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    func `three internal locks have one order, and every inversion of it is reported`(order: [Int]) {
        let locks = [LockClass("domains"), LockClass("mappings"), LockClass("pages")].map { Monitor(0, as: $0) }
        func take(_ order: [Int]) {
            locks[order[0]].withLock { _ in
                locks[order[1]].withLock { _ in
                    locks[order[2]].withLock { _ in }
                }
            }
        }
        let inversions = [(0, 1), (0, 2), (1, 2)].filter { first, second in
            (order.firstIndex(of: first) ?? 0) > (order.firstIndex(of: second) ?? 0)
        }
        let reports = LockChecker.withRecording {
            take([0, 1, 2])
            take(order)
        }
        #expect(reports.allSatisfy { $0.kind == .lockOrder })
        let pairs = Set(reports.map { Set($0.classes.map(\.description)) })
        let names = ["domains", "mappings", "pages"]
        #expect(pairs == Set(inversions.map { [names[$0], names[$1]] }))
    }

    @Test func `a deadlock is looked for only where somebody can be kept waiting`() {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        func reports(
            _ one: (LockChecker.Mode, LockChecker.Mode), _ other: (LockChecker.Mode, LockChecker.Mode)
        ) -> Int {
            LockChecker.withRecording {
                LockChecker.holding(first, mode: one.0) { LockChecker.holding(second, mode: one.1) {} }
                LockChecker.holding(second, mode: other.0) { LockChecker.holding(first, mode: other.1) {} }
            }.count
        }
        let modes: [LockChecker.Mode] = [.exclusive, .shared]
        for a in modes {
            for b in modes {
                for c in modes {
                    for d in modes {
                        // The first is held as `a` and taken as `d`, the second taken as `b` and held as `c`.
                        let isDeadlock = (a == .exclusive || d == .exclusive) && (b == .exclusive || c == .exclusive)
                        #expect(reports((a, b), (c, d)) == (isDeadlock ? 1 : 0), "\((a, b)) \((c, d))")
                    }
                }
            }
        }
    }

    @Test func `who shares a fair lock may wait for who shares it`() {
        let (fair, other) = (LockClass("the fair one", .queuesFairly), LockClass("the other"))
        let reports = LockChecker.withRecording {
            LockChecker.holding(fair, mode: .shared) { LockChecker.holding(other) {} }
            LockChecker.holding(other) { LockChecker.holding(fair, mode: .shared) {} }
            LockChecker.holding(fair, mode: .shared) { LockChecker.holding(fair, mode: .shared) {} }
        }
        #expect(reports.map(\.kind) == [.lockOrder, .recursion])
    }

    @Test func `a circle is reported once, however often and from wherever it is closed`() throws {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        let reports = try LockChecker.withRecording {
            for _ in 0..<3 {
                for mode in [LockChecker.Mode.exclusive, .shared] {
                    try onThread("one") {
                        LockChecker.holding(first, mode: mode) { LockChecker.holding(second) {} }
                    }
                    try onThread("other") {
                        LockChecker.holding(second) { LockChecker.holding(first, mode: mode) {} }
                    }
                }
            }
        }
        #expect(reports.count == 1)
    }

    @Test func `locks in one order are nothing to report`() throws {
        let outer = Monitor(0)
        let inner = Monitor(0)
        let leaf = LockClass("a leaf")
        let reports = try LockChecker.withRecording {
            let threads = try (0..<4).map { index in
                try OSThread(name: "orderly \(index)") {
                    for _ in 0..<200 {
                        outer.withLock { $0 += 1 }
                        inner.withLock { $0 += 1 }
                        outer.withLock { outer in
                            inner.update { inner in
                                LockChecker.holding(leaf) { (outer, inner) = (outer + 1, inner + 1) }
                            }
                        }
                        inner.wait { _ in LockChecker.holding(leaf) {} }
                        outer.update { _ in LockChecker.passes(through: leaf) }
                    }
                }
            }
            for thread in threads { thread.join() }
        }
        #expect(reports.isEmpty, "\(reports)")
        #expect(outer.withLock { $0 } == 1600)
    }

    @Test func `an inversion among many threads is found once`() throws {
        let locks = (0..<6).map { Monitor(0, as: LockClass("a lock of its own", line: UInt32($0 + 1))) }
        let reports = try LockChecker.withRecording {
            let threads = try (0..<6).map { index in
                try OSThread(name: "busy \(index)") {
                    for round in 0..<300 {
                        let first = (index + round) % 5
                        locks[first].withLock { _ in locks[first + 1].update { $0 += 1 } }
                    }
                }
            }
            for thread in threads { thread.join() }
            // Alone, so that it does not deadlock.
            try onThread("inverter") { locks[5].withLock { _ in locks[0].withLock { _ in } } }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(reports.first?.classes.count == 6)
    }
}

@Suite struct `Locks of one class` {
    @Test func `a lock that is taken again on its thread is a deadlock for certain`() throws {
        let disk = LockClass("the disk's lock")
        let object = Object()
        let reports = try LockChecker.withRecording {
            try onThread("worker") {
                LockChecker.holding(disk, instance: ObjectIdentifier(object), file: "Disk.swift", line: 1) {
                    LockChecker.acquire(disk, instance: ObjectIdentifier(object), file: "Disk.swift", line: 2)
                }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                deadlock: a thread waits for itself
                  thread "worker" holds the disk's lock since Disk.swift:1
                    and then waits at Disk.swift:2 for the same
                """
            ])
        #expect(reports.map(\.kind) == [.recursion])
    }

    @Test func `two monitors made at one place must not be held together`() throws {
        let spaces = (0..<2).map { _ in Monitor(0, file: "Space.swift", line: 9) }
        let reports = try LockChecker.withRecording {
            try onThread("copier") {
                spaces[0].withLock(file: "Copy.swift", line: 1) { _ in
                    spaces[1].withLock(file: "Copy.swift", line: 2) { _ in }
                }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                possible deadlock: two of a kind are taken, and nothing fixes which is the first
                  thread "copier" holds the lock made at Space.swift:9 since Copy.swift:1
                    and then waits at Copy.swift:2 for another of the kind
                """
            ])
        #expect(reports.map(\.kind) == [.nesting])
    }

    @Test func `a class may allow another of its locks, but never the same`() {
        let (one, other) = (Object(), Object())
        let reports = LockChecker.withRecording {
            LockChecker.holding(callback, instance: ObjectIdentifier(one), mode: .shared) {
                LockChecker.passes(through: callback, instance: ObjectIdentifier(other))
            }
        }
        #expect(reports.isEmpty)
        let worse = LockChecker.withRecording {
            LockChecker.holding(callback, instance: ObjectIdentifier(one), mode: .shared) {
                LockChecker.passes(through: callback, instance: ObjectIdentifier(one))
            }
        }
        #expect(worse.map(\.kind) == [.recursion])
    }

    @Test func `without an instance all locks of the class are meant`() {
        let one = Object()
        let reports = LockChecker.withRecording {
            LockChecker.holding(callback, instance: ObjectIdentifier(one), mode: .shared) {
                LockChecker.passes(through: callback)
            }
        }
        #expect(reports.map(\.kind) == [.recursion])
    }

    @Test func `sharing a lock twice is fine`() {
        let reports = LockChecker.withRecording {
            LockChecker.holding(unmapping, mode: .shared) { LockChecker.holding(unmapping, mode: .shared) {} }
        }
        #expect(reports.isEmpty)
    }

    @Test func `locks are given back in any order, and one that nobody saw taken is given back too`() {
        let (first, second) = (LockClass("the first"), LockClass("the second"))
        let reports = LockChecker.withRecording {
            LockChecker.release(first)
            LockChecker.acquire(first)
            LockChecker.acquire(second)
            LockChecker.release(first)
            LockChecker.acquire(first)
            LockChecker.release(second)
            LockChecker.release(first)
            LockChecker.holding(first) {}
        }
        #expect(reports.map(\.kind) == [.lockOrder])
    }

    @Test func `monitors made at different places, or of different names, are of different classes`() {
        let one = LockClass("one", file: "Same.swift", line: 1)
        #expect(one != LockClass("other", file: "Same.swift", line: 1))
        #expect(one == LockClass("one", file: "Same.swift", line: 1))
        #expect(one != LockClass("one", file: "Same.swift", line: 2))
        let reports = LockChecker.withRecording {
            let first = Monitor(0)
            let second = Monitor(0)
            first.withLock { _ in second.withLock { _ in } }
        }
        #expect(reports.isEmpty)
    }
}

/// Something to be told apart by.
final class Object: Sendable {}
