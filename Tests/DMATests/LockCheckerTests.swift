import DMA
import LinuxHost
import Testing

/// What the lock checker says of devices that lock, wait and call where they must not: each on the first run that shows
/// it, though nothing hangs.
@Suite struct `The lock checker and the order of locks` {
    @Test(arguments: [true, false])
    func `L1 an access is destroyed under the lock that its callback takes`(closesFirst: Bool) throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = try LockChecker.withRecording {
            func close() throws {
                // Not attached any more, so that this thread itself is not called back.
                let disk = Disk()
                try onThread("closer") {
                    disk.lock.withLock(file: "Disk.swift", line: 30) { _ in
                        disk.access.destroy(file: "Disk.swift", line: 31)
                    }
                }
            }
            func unmap() throws {
                try onThread("unmapper") { _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1) }
            }
            if closesFirst { try close() }
            try unmap()
            if !closesFirst { try close() }
        }
        let halves = [
            """
              thread "closer" holds the disk's lock since Disk.swift:30
                and then waits at Disk.swift:31 for a callback of the access made at Disk.swift:10
            """,
            """
              thread "unmapper" holds a callback of the access made at Disk.swift:10 (shared) since Main.swift:1
                and then waits at Disk.swift:20 for the disk's lock
            """,
        ]
        #expect(
            reports.map(\.text) == [
                "possible deadlock: each of these can keep another waiting, for ever when they meet\n"
                    + (closesFirst ? halves.reversed() : halves).joined(separator: "\n")
            ])
        #expect(reports.map(\.kind) == [.lockOrder])
    }

    @Test(arguments: ["detach", "replace", "destroy"])
    func `L1 each way to end an attachment counts`(way: String) throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = LockChecker.withRecording {
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
            let other = Disk()
            other.lock.withLock(file: "Disk.swift", line: 30) { _ in
                switch way {
                case "detach": try? other.access.detach(file: "Disk.swift", line: 31)
                case "replace": try? other.access.replace(with: world.space, file: "Disk.swift", line: 31)
                default: other.access.destroy(file: "Disk.swift", line: 31)
                }
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(reports.first?.names("Disk.swift:30", "Disk.swift:31", "Main.swift:1", "Disk.swift:20") == true)
        disk.access.destroy()
    }

    @Test func `L2 the same through a third lock`() throws {
        let world = try World()
        let disk = Disk()
        let engine = Monitor(0, as: LockClass("the engine's lock"))
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = try LockChecker.withRecording {
            try onThread("unmapper") { _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1) }
            try onThread("doorbell") {
                disk.lock.withLock(file: "Disk.swift", line: 40) { _ in
                    engine.withLock(file: "Disk.swift", line: 41) { _ in }
                }
            }
            let other = Disk()
            try onThread("closer") {
                engine.withLock(file: "Disk.swift", line: 30) { _ in
                    other.access.destroy(file: "Disk.swift", line: 31)
                }
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(
            reports.first?.names(
                "Disk.swift:30", "Disk.swift:31", "Main.swift:1", "Disk.swift:20", "Disk.swift:40", "Disk.swift:41")
                == true)
        disk.access.destroy()
    }

    @Test func `L3 an access is detached in its own callback`() throws {
        let world = try World()
        let disk = Disk { disk, range in
            if range != .everything { try? disk.access.detach(file: "Disk.swift", line: 22) }
        }
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = LockChecker.withRecording {
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
        }
        #expect(reports.map(\.kind) == [.recursion])
        #expect(reports.first?.names("Main.swift:1", "Disk.swift:22") == true)
        disk.access.destroy()
    }

    @Test func `L3 an access is attached in its own callback`() throws {
        let world = try World()
        let disk = Disk { disk, _ in try? disk.access.attach(to: world.space, file: "Disk.swift", line: 22) }
        try disk.access.attach(to: world.space)
        let reports = LockChecker.withRecording { try? disk.access.detach(file: "Main.swift", line: 1) }
        #expect(reports.map(\.kind) == [.recursion])
        #expect(
            reports.map(\.text) == [
                "an access is attached in its own callback\n    at Main.swift:1\n    at Disk.swift:22"
            ])
        disk.access.destroy()
    }

    @Test func `L4 a callback joins a thread that may be waiting for callbacks`() throws {
        let world = try World()
        let worker = Shared<OSThread?>(nil)
        let disk = Disk { _, _ in worker.update { $0.take() }?.join(file: "Disk.swift", line: 22) }
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = try LockChecker.withRecording {
            let idle = try OSThread(name: "worker", file: "Disk.swift", line: 50) {}
            worker.update { $0 = idle }
            try onThread("unmapper") { _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1) }
            try OSThread(name: "worker", file: "Disk.swift", line: 50) {
                try? disk.access.detach(file: "Disk.swift", line: 31)
            }.join()
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(reports.first?.names("Main.swift:1", "Disk.swift:22", "Disk.swift:50", "Disk.swift:31") == true)
        disk.access.destroy()
    }

    @Test(arguments: ["map", "unmap", "attach"])
    func `L5 an address space is changed in a callback that it makes`(change: String) throws {
        let world = try World()
        let disk = Disk { _, range in
            guard range != .everything else { return }
            switch change {
            case "map":
                _ = try? world.space.mapAnywhere(
                    world.backing, byteCount: page, rights: .read, file: "Disk.swift", line: 22)
            case "unmap": _ = try? world.space.unmap(pages(3), file: "Disk.swift", line: 22)
            default: try? world.space.attach(PageTable(), file: "Disk.swift", line: 22)
            }
        }
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = LockChecker.withRecording {
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
        }
        #expect(
            reports.map(\.text) == [
                "an address space is changed in a callback that it makes itself\n    at Main.swift:1\n    at Disk.swift:22"
            ])
        #expect(reports.map(\.kind) == [.recursion])
        disk.access.destroy()
    }

    @Test func `L5 nor does a consumer change the address space that tells it`() throws {
        let space = IOAddressSpace()
        let table = PageTable { _ = try? space.unmap(pages(3), file: "Table.swift", line: 1) }
        try space.attach(table)
        let object = try MemoryObject.anonymous(byteCount: Int(page))
        let reports = LockChecker.withRecording {
            try? space.map(
                .file(object, offset: 0), at: iova(0), byteCount: page, rights: .read, file: "Main.swift", line: 1)
        }
        #expect(reports.map(\.kind) == [.recursion])
        #expect(reports.first?.names("Main.swift:1", "Table.swift:1") == true)
    }

    @Test func `L6 memory is unmapped under the lock that a callback takes`() throws {
        let world = try World()
        let disk = Disk()
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = LockChecker.withRecording {
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
            // Nothing is pinned here, so nobody is called.
            disk.lock.withLock(file: "Disk.swift", line: 30) { _ in
                _ = try? world.space.unmap(pages(2), file: "Disk.swift", line: 31)
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(reports.first?.names("Disk.swift:30", "Disk.swift:31", "Main.swift:1", "Disk.swift:20") == true)
        disk.access.destroy()
    }

    @Test func `L6 a consumer is attached under the lock that consumers take`() throws {
        let space = IOAddressSpace()
        let lock = Monitor(0, as: LockClass("the tables' lock"))
        let table = PageTable { lock.withLock(file: "Table.swift", line: 1) { _ in } }
        try space.attach(table)
        let object = try MemoryObject.anonymous(byteCount: Int(page))
        let reports = LockChecker.withRecording {
            try? space.map(
                .file(object, offset: 0), at: iova(0), byteCount: page, rights: .read, file: "Main.swift", line: 1)
            lock.withLock(file: "Table.swift", line: 2) { _ in
                space.detach(PageTable(), file: "Table.swift", line: 3)
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(reports.first?.names("Table.swift:2", "Table.swift:3", "Main.swift:1", "Table.swift:1") == true)
    }

    @Test func `L22 a request handler unmaps under the lock of its device model`() throws {
        let world = try World()
        let model = Monitor(0, as: LockClass("the device model's lock"))
        // The callback ends the requests that hold the pins, for which it takes the lock of the model.
        let disk = Disk { _, _ in model.withLock(file: "Model.swift", line: 1) { _ in } }
        try disk.access.attach(to: world.space)
        try disk.pin(pages(1))
        let reports = LockChecker.withRecording {
            _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1)
            model.withLock(file: "Model.swift", line: 2) { _ in
                _ = try? world.space.unmap(pages(2), file: "Model.swift", line: 3)
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(reports.first?.names("Model.swift:2", "Model.swift:3", "Main.swift:1", "Model.swift:1") == true)
        disk.access.destroy()
    }

    @Test func `L23 the thread that hears the peer waits for a pin that waits for the peer`() throws {
        let world = try World()
        let transport = LockClass("the thread that reads the socket")
        let requests = LockClass("a request under way")
        let disk = Disk { _, _ in LockChecker.passes(through: requests, file: "Disk.swift", line: 22) }
        try disk.access.attach(to: world.space)
        let reports = try LockChecker.withRecording {
            // A request pins and asks the peer, whose answer the transport reads.
            try onThread("request") {
                LockChecker.holding(requests, mode: .shared, file: "Disk.swift", line: 50) {
                    try? disk.pin(pages(1))
                    LockChecker.passes(through: transport, file: "Disk.swift", line: 51)
                }
            }
            try onThread("unmapper") { _ = try? world.space.unmap(pages(1), file: "Main.swift", line: 1) }
            try onThread("transport") {
                LockChecker.holding(transport, file: "Session.swift", line: 1) {
                    _ = try? world.space.unmap(pages(2), file: "Session.swift", line: 2)
                }
            }
        }
        #expect(reports.map(\.kind) == [.lockOrder])
        #expect(
            reports.first?.names(
                "Main.swift:1", "Disk.swift:22", "Disk.swift:50", "Disk.swift:51", "Session.swift:1", "Session.swift:2")
                == true)
        disk.access.destroy()
    }
}
