import DMA
import LinuxHost
import SVA
import Testing

/// What the lock checker makes of the waits in this module, which no test has to hang for.
@Suite struct `Deadlocks that the lock checker finds` {
    /// A bound device whose pager takes a lock.
    private struct World {
        let system: System
        let lock = Monitor((), as: LockClass("the lock of the model"))
        let process: Process
        let device: SVADevice

        init(_ body: @escaping @Sendable () -> Void = {}) throws {
            let lock = lock
            system = try System(threads: 1)
            process = try system.process { _ in
                lock.withLock { _ in }
                body()
            }
            device = try system.device { $0.flushTime = .milliseconds(1) }
            _ = try device.bind(process.context)
        }
    }

    /// The threads of a queue are watched by the checker that watches who makes it.
    private func reports(_ body: () throws -> Void) throws -> [LockChecker.Report] {
        let checker = LockChecker()
        try checker.record { () throws(any Error) in try body() }
        return checker.reports
    }

    /// Expects a single report, of an order of locks with these among them.
    private func expectOneOrder(_ reports: [LockChecker.Report], of names: String...) throws {
        #expect(reports.map(\.kind) == [.lockOrder])
        let classes = try #require(reports.first).classes.map(\.description)
        for name in names { #expect(classes.contains(name)) }
    }

    @Test func `an access that may fault under a lock that the pager takes`() throws {
        let reports = try reports {
            let world = try World()
            #expect(world.device.mark(pasid(1)) == .success(1))
            // The page is there now, and so nothing hangs.
            world.lock.withLock { _ in #expect(world.device.mark(pasid(1)) == .success(1)) }
            world.device.remove()
            world.system.queue.stop()
        }
        try expectOneOrder(reports, of: "the handling of a device's faults", "the lock of the model")
    }

    @Test func `an unbind under a lock that the pager takes`() throws {
        let reports = try reports {
            let world = try World()
            let handle = try world.device.bind(world.process.context)
            #expect(world.device.mark(pasid(1)) == .success(1))
            try handle.unbind()
            // The last one waits for faults that are being handled, were there none now.
            world.lock.withLock { _ in #expect(errorOf { () throws(DMAError) in try handle.unbind() } == nil) }
            world.device.remove()
            world.system.queue.stop()
        }
        try expectOneOrder(reports, of: "the handling of a device's faults", "the lock of the model")
    }

    @Test func `a reset under a lock that a handler takes`() throws {
        let reports = try reports {
            let world = try World()
            let (device, lock) = (world.device, world.lock)
            let handler = GroupKeeper { group in
                lock.withLock { _ in }
                group.respond(.invalid)
            }
            try device.attach(IOAddressSpace(), to: pasid(2), handler: handler)
            #expect(device.mark(pasid(2)) == .failure(.refused))
            // It waits for whoever reports to a handler, were there nobody now.
            lock.withLock { _ in device.reset() }
            device.remove()
            world.system.queue.stop()
        }
        try expectOneOrder(reports, of: "the sending of page requests", "the lock of the model")
    }

    @Test func `an access that may meet a replacement under a lock that onUnmap takes`() throws {
        let reports = try reports {
            let system = try System(threads: 1)
            let process = try system.process()
            try process.map(0)
            let lock = Monitor((), as: LockClass("the lock of the model"))
            let device = SVADevice(in: system.pasids, trace: system.record.sink) { _, _ in lock.withLock { _ in } }
            try device.start()
            try device.attach(process.space, to: pasid(1))
            try device.replace(with: IOAddressSpace(), at: pasid(1))
            try device.replace(with: process.space, at: pasid(1))
            lock.withLock { _ in #expect(device.mark(pasid(1)) == .success(1)) }
            device.remove()
            system.queue.stop()
        }
        try expectOneOrder(reports, of: "the replacement of a PASID's address space")
    }

    @Test func `a pager that flushes its own device`() throws {
        let own = Shared<(System, SVADevice)?>(nil)
        let reports = try reports {
            let world = try World {
                guard let (system, device) = own.value else { return }
                _ = errorOf { () throws(DMAError) in try system.queue.flush(device, until: .now) }
            }
            own.update { $0 = (world.system, world.device) }
            #expect(world.device.mark(pasid(1)) == .success(1))
            own.update { $0 = nil }
            world.device.remove()
            world.system.queue.stop()
        }
        #expect(reports.map(\.kind) == [.recursion])
    }

    @Test func `a model that uses translations, faults and unbinds as it should is not reported`() throws {
        let reports = try reports {
            let world = try World()
            for number in 0..<8 as Range<UInt64> {
                try unsafe world.device.withTranslations(of: pages(number), pasid: pasid(1), rights: .read) { _ in }
                #expect(world.device.mark(pasid(1), page: number + 4) == .success(1))
            }
            try world.process.space.unmap(.everything)
            world.device.reset()
            try world.device.start()
            world.process.context.exit()
            world.device.remove()
            world.system.queue.stop()
        }
        #expect(reports.map(\.text) == [])
    }
}
