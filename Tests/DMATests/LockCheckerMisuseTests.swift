@testable import DMA
import Glibc
import LinuxHost
import Testing

/// What the lock checker says of pins, waits, time and order of use.
@Suite struct `The lock checker and the promises of devices` {
    @Test func `L7 memory is unmapped inside a read section`() throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        let reports = LockChecker.withRecording {
            try? unsafe disk.access.withMemory(pages(1), rights: .read, file: "Disk.swift", line: 40) { _ in
                // Nothing is mapped there: otherwise it would wait for itself.
                _ = try? world.space.unmap(pages(20), file: "Disk.swift", line: 41)
            }
        }
        #expect(reports.contains { $0.kind == .recursion && $0.names("Disk.swift:40", "Disk.swift:41") })
        #expect(reports.allSatisfy { [.recursion, .waiting].contains($0.kind) })
        disk.access.destroy()
    }

    @Test func `L7 memory is unmapped by the thread that pins it`() throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        let box = Shared<PinnedBox?>(nil)
        let reports = try LockChecker.withRecording {
            try onThread("front end") {
                let own = try? disk.pinUnrecorded(pages(1))
                box.update { $0 = own }
                #expect(throws: DMAError.deadlock) { try world.space.unmap(pages(1), file: "Main.swift", line: 1) }
            }
        }
        #expect(
            reports.map(\.text) == [
                """
                a pin stays that was to go
                  thread "front end" pinned 0x1000...0x1fff at Disk.swift:16
                  the callback of the access made at Disk.swift:10 was told of 0x1000...0x1fff for Main.swift:1
                  that is the thread which pinned: it waits for itself, unless the callback releases the pin
                    at Disk.swift:16
                    at Main.swift:1
                """
            ])
        #expect(reports.map(\.kind) == [.lostPin])
        box.value?.unpin()
        disk.access.destroy()
    }

    @Test(arguments: ["unmap", "detach", "replace"])
    func `L8 a pin is recorded where the callback may have come before`(change: String) throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        let box = Shared<PinnedBox?>(nil)
        let reports = try LockChecker.withRecording {
            try onThread("queue") {
                let own = try? disk.pinUnrecorded(pages(1))
                box.update { $0 = own }
            }
            switch change {
            case "unmap": _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
            case "detach": try? disk.access.detach(file: "Main.swift", line: 1)
            default: try? disk.access.replace(with: IOAddressSpace(), file: "Main.swift", line: 1)
            }
        }
        let told = change == "unmap" ? "0x1000...0x1fff" : "0x0...0xffffffffffffffff"
        #expect(
            reports.map(\.text) == [
                """
                a pin stays that was to go
                  thread "queue" pinned 0x1000...0x1fff at Disk.swift:16
                  the callback of the access made at Disk.swift:10 was told of \(told) for Main.swift:1
                  the callback takes the disk's lock, which was not held around the pin: it may have run before the pin \
                was recorded
                    at Disk.swift:16
                    at Main.swift:1
                """
            ])
        #expect(reports.map(\.kind) == [.lostPin])
        box.value?.unpin()
        disk.access.destroy()
    }

    @Test func `L8 a pin under the lock of the callback is only forgotten`() throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        let box = Shared<PinnedBox?>(nil)
        let reports = try LockChecker.withRecording {
            try onThread("queue") {
                let own = disk.lock.withLock { _ in try? disk.pinUnrecorded(pages(1)) }
                box.update { $0 = own }
            }
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
        }
        #expect(reports.map(\.kind) == [.lostPin])
        #expect(reports.first?.names("Disk.swift:16", "Main.swift:1") == true)
        #expect(reports.first?.text.contains("may have run before") == false)
        box.value?.unpin()
        disk.access.destroy()
    }

    @Test func `a pin that is released in time is no fault, wherever it was made`() throws {
        let world = try World()
        let box = Shared<PinnedBox?>(nil)
        let disk = Disk { _, _ in box.update { $0.take() }?.unpin() }
        try disk.access.attach(to: world.space)
        let reports = LockChecker.withRecording {
            let own = try? disk.pinUnrecorded(pages(1))
            box.update { $0 = own }
            _ = try? world.space.unmap(pages(1))
        }
        #expect(reports == [])
        disk.access.destroy()
    }

    @Test func `L9 the lock of an access is taken inside that of an address space`() throws {
        let world = try World()
        let disk = Disk()
        let reports = LockChecker.withRecording {
            try? disk.access.attach(to: world.space)
            LockChecker.holding(.addressSpace, file: "Inside.swift", line: 1) {
                LockChecker.holding(.access, file: "Inside.swift", line: 2) {}
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(
            reports.first?.names("Inside.swift:1", "Inside.swift:2", "DMA/DMAAccess.swift", "DMA/IOAddressSpace.swift")
                == true)
        disk.access.destroy()
    }

    @Test func `L10 the lock of an address space is taken inside that of another`() throws {
        let world = try World()
        let other = ObjectIdentifier(Shared(0))
        let reports = LockChecker.withRecording {
            LockChecker.holding(.addressSpace, instance: other, file: "Inside.swift", line: 1) {
                _ = world.space.alignment
            }
        }
        #expect(reports.map(\.kind) == [.nesting])
        #expect(reports.first?.names("Inside.swift:1", "DMA/IOAddressSpace.swift") == true)
    }

    @Test(arguments: [LockClass.access, .addressSpace, .dirtyLog, .objectCache])
    func `L11, L12 a device is called back under a lock of the module`(lockClass: LockClass) throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = LockChecker.withRecording {
            LockChecker.holding(lockClass, instance: ObjectIdentifier(Shared(0)), file: "Inside.swift", line: 1) {
                _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
            }
        }
        let callbacks = reports.filter { $0.kind == .callback }
        #expect(callbacks.map(\.classes) == [[lockClass]])
        #expect(callbacks.first?.names("Inside.swift:1", "Main.swift:1") == true)
        disk.access.destroy()
    }

    @Test(arguments: [
        "consumer attached", "mapping pushed", "mapping taken back", "message", "revocation", "space gone",
    ])
    func `L12 whoever else is handed in is called under no lock of the module either`(call: String) throws {
        let space = IOAddressSpace()
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        if ["mapping pushed", "mapping taken back"].contains(call) { try space.attach(PageTable()) }
        let isMapped = call != "mapping pushed"
        if isMapped { try space.map(.remote(PeerMemory(byteCount: 64)), at: iova(0), byteCount: 64, rights: .read) }
        let doomed = Shared<IOAddressSpace?>(IOAddressSpace())
        if let space = doomed.value, call == "space gone" {
            try space.attach(PageTable())
            try space.map(.remote(PeerMemory(byteCount: 64)), at: iova(0), byteCount: 64, rights: .read)
        }
        let reports = LockChecker.withRecording {
            // Not the lock of this address space, which would be nested.
            LockChecker.holding(.dirtyLog, instance: ObjectIdentifier(Shared(0)), file: "Inside.swift", line: 1) {
                switch call {
                case "consumer attached": try? space.attach(PageTable())
                case "mapping pushed":
                    try? space.map(.remote(PeerMemory(byteCount: 64)), at: iova(0), byteCount: 64, rights: .read)
                case "mapping taken back", "revocation": _ = try? space.unmap(.everything)
                case "message": _ = try? access.read(range(0, 7))
                default: doomed.update { $0.take() }.map { _ = $0 }
                }
            }
        }
        #expect(reports.contains { $0.kind == .callback && $0.classes == [.dirtyLog] && $0.names("Inside.swift:1") })
        #expect(reports.allSatisfy { $0.kind == .callback })
        access.destroy()
    }

    @Test(arguments: ["condition", "thread", "message", "declared"])
    func `L16 a read section waits`(wait: String) throws {
        let world = try World()
        try world.space.map(.remote(PeerMemory(byteCount: 64)), at: iova(32 * page), byteCount: page, rights: .read)
        let disk = Disk()
        try disk.access.attach(to: world.space)
        let condition = Monitor(true)
        let reports = LockChecker.withRecording {
            guard let thread = try? OSThread(name: "other", {}) else { return }
            try? unsafe disk.access.withMemory(pages(1), rights: .read, file: "Disk.swift", line: 40) { _ in
                var byte: UInt8 = 0
                switch wait {
                case "condition": condition.wait(file: "Disk.swift", line: 41) { $0 ? () : nil }
                case "thread": thread.join(file: "Disk.swift", line: 41)
                case "message":
                    unsafe withUnsafeMutableBytes(of: &byte) { buffer in
                        try? unsafe disk.access.read(
                            range(32 * page, 32 * page), into: buffer, file: "Disk.swift", line: 41)
                    }
                default: LockChecker.waits(file: "Disk.swift", line: 41)
                }
            }
            if wait != "thread" { thread.join() }
        }
        #expect(
            reports.map { $0.text.replacing(#/thread ".*"/#, with: "the thread") } == [
                """
                a wait where none is allowed
                  the thread holds a read section of an access (shared) since Disk.swift:40
                    and then waits at Disk.swift:41
                """
            ])
        #expect(reports.map(\.kind) == [.waiting])
        disk.access.destroy()
    }

    @Test func `L17 a pin is dropped`() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "report", 1)
            let world = try World()
            let disk = Disk()
            try disk.access.attach(to: world.space)
            _ = try disk.access.pin(pages(1), rights: .read, file: "Disk.swift", line: 16)
        }
        let text = result.map { String(decoding: $0.standardErrorContent, as: UTF8.self) } ?? ""
        #expect(text.hasPrefix("lock checker: a pin was dropped without unpin()\n    at Disk.swift:16\n"))
    }

    @Test func `L19 an access is used after its destruction began`() throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        disk.access.destroy()
        let uses: [@Sendable (UInt32) -> Void] = [
            { line in try? disk.access.attach(to: world.space, file: "Use.swift", line: line) },
            { line in try? disk.access.replace(with: world.space, file: "Use.swift", line: line) },
            { line in try? disk.access.detach(file: "Use.swift", line: line) },
            { line in (try? disk.access.pin(pages(1), rights: .read, file: "Use.swift", line: line))?.unpin() },
            { line in
                try? unsafe disk.access.withMemory(pages(1), rights: .read, file: "Use.swift", line: line) { _ in }
            },
            { line in
                var byte: UInt8 = 0
                unsafe withUnsafeMutableBytes(of: &byte) { buffer in
                    try? unsafe disk.access.read(range(0, 0), into: buffer, file: "Use.swift", line: line)
                }
            },
            { line in
                unsafe withUnsafeBytes(of: 0 as UInt8) { bytes in
                    try? unsafe disk.access.write(bytes, to: iova(0), file: "Use.swift", line: line)
                }
            },
        ]
        for (line, use) in uses.enumerated() {
            let reports = LockChecker.withRecording { use(UInt32(line)) }
            #expect(
                reports.map(\.text) == [
                    """
                    an access is used after its destruction began; it was made at Disk.swift:10
                        at Use.swift:\(line)
                    """
                ])
            #expect(reports.map(\.kind) == [.useAfterDestroy])
        }
        #expect(LockChecker.withRecording { disk.access.destroy() } == [])
    }

    @Test func `L20 a callback takes longer than it may`() throws {
        var limits = LockChecker.Limits()
        limits.callbackWarning = .zero
        #expect(try kindsOfCallback(within: limits) == [.slow])
        limits.callback = .zero
        #expect(try kindsOfCallback(within: limits) == [.overBudget])
        limits.callback = .seconds(1000)
        limits.callbackWarning = .seconds(1000)
        #expect(try kindsOfCallback(within: limits) == [])
    }

    private func kindsOfCallback(within limits: LockChecker.Limits) throws -> [LockChecker.Report.Kind] {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        let checker = LockChecker(limits: limits)
        checker.record { try? disk.access.detach(file: "Main.swift", line: 1) }
        #expect(checker.reports.allSatisfy { $0.names("Disk.swift:10", "Main.swift:1") })
        disk.access.destroy()
        return checker.reports.map(\.kind)
    }

    @Test(arguments: [false, true])
    func `L21 a callback that runs beside itself is a fault for those who do not stand it`(isReentrant: Bool) throws {
        let world = try World()
        let inside = Shared(0)
        let disk = Disk(callbackIsReentrant: isReentrant) { _, range in
            guard range != .everything else { return }
            inside.update { $0 += 1 }
            inside.wait { $0 >= 2 }
        }
        try disk.access.attach(to: world.space)
        let pins = [try disk.pinUnrecorded(pages(1)), try disk.pinUnrecorded(pages(2))]
        let reports = try LockChecker.withRecording {
            let threads = try (1...2).map { number in
                try OSThread(name: "unmapper") {
                    _ = try? world.space.unmap(pages(number), file: "Main.swift", line: UInt32(number))
                }
            }
            for thread in threads { thread.join() }
        }.filter { $0.kind != .lostPin && !$0.isMatterOfTime }
        #expect(reports.map(\.kind) == (isReentrant ? [] : [.reentrancy]))
        #expect(reports.allSatisfy { $0.names("Disk.swift:10", "Main.swift:1", "Main.swift:2") })
        for pin in pins { pin.unpin() }
        disk.access.destroy()
    }

    @Test func `L24 an access is destroyed while its device holds pins`() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            unsafe setenv("OUTBOARD_LOCK_CHECKER", "report", 1)
            let world = try World()
            let disk = Disk()
            try disk.access.attach(to: world.space)
            let pinned = try disk.pinUnrecorded(pages(1))
            disk.access.destroy(file: "Main.swift", line: 1)
            pinned.unpin()
        }
        let text = result.map { String(decoding: $0.standardErrorContent, as: UTF8.self) } ?? ""
        #expect(text.hasPrefix("lock checker: an access is destroyed with a pin left\n"))
        #expect(text.contains("\n    at Disk.swift:16\n    at Main.swift:1\n"))
    }

    @Test func `D4 a destruction that waits and waits is reported, and goes on waiting`() throws {
        var limits = LockChecker.Limits()
        limits.wait = .zero
        let checker = LockChecker(limits: limits)
        let world = try World()
        let isInside = Shared(false)
        let hasReported = Shared(false)
        let isDestroyed = Shared(false)
        let disk = Disk { _, range in
            guard range != .everything else { return }
            isInside.update { $0 = true }
            hasReported.wait { $0 }
            #expect(!isDestroyed.value)
        }
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let unmapper = try OSThread(name: "unmapper") {
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
        }
        isInside.wait { $0 }
        let destroyer = try checker.record {
            try OSThread(name: "destroyer") {
                disk.access.destroy(file: "Disk.swift", line: 31)
                isDestroyed.update { $0 = true }
            }
        }
        while checker.reports.isEmpty { sched_yield() }
        hasReported.update { $0 = true }
        unmapper.join()
        destroyer.join()
        #expect(
            checker.reports.map(\.text) == [
                """
                the destruction of the access made at Disk.swift:10 waits and waits for a callback to return
                    at Disk.swift:31
                    at Main.swift:1
                """
            ])
        #expect(checker.reports.map(\.kind) == [.stalled])
    }

    @Test func `a device that behaves is not reported`() throws {
        let world = try World()
        let holders = (0..<3).map { _ in PinHolder() }
        let reports = try LockChecker.withRecording {
            try world.space.attach(PageTable())
            let peer = PeerMemory(byteCount: Int(33 * page))
            try world.space.map(.remote(peer), at: iova(32 * page), byteCount: page, rights: .read)
            for holder in holders { try holder.access.attach(to: world.space) }
            let threads = try holders.map { holder in
                try OSThread(name: "device") {
                    for number in 0..<100 {
                        let page = pages(UInt64(number % 8))
                        try? holder.pin(page)
                        _ = try? holder.access.read(page)
                        try? holder.access.write([1, 2, 3], to: page.first)
                        try? unsafe holder.access.withMemory(page, rights: .write) { _ in }
                        _ = try? holder.access.read(range(32 * DMATests.page, 32 * DMATests.page + 7))
                        if number % 3 == 0 { holder.unpinAny() }
                    }
                }
            }
            for number in 0..<50 {
                let page = pages(UInt64(number % 8))
                _ = try? world.space.unmap(page)
                try? world.space.map(world.backing, at: page.first, byteCount: page.byteCount, rights: [.read, .write])
            }
            for thread in threads { thread.join() }
            let other = IOAddressSpace()
            try holders[0].access.replace(with: other)
            try holders[1].access.detach()
            for holder in holders { holder.access.destroy() }
            _ = try world.space.unmap(.everything)
        }
        #expect(reports.filter { !$0.isMatterOfTime } == [])
    }
}
