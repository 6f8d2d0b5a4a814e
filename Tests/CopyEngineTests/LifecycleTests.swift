import CopyEngine
import DMA
import DeviceModel
import LinuxHost
import PCI
import ServedDevices
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Register = CopyEngineDriver.Register
private typealias Status = CopyEngineDriver.Status

@Suite struct Enabling {
    @Test func `the device says what it is`() throws {
        try withDriver({ $0.pasidLimit = 77 }, isEnabled: false) { driver in
            #expect(try driver.client.readRegister(UInt32.self, region: 7, at: 0) == 0xc0e1_1234)
            #expect(try driver.read(Register.identification) == 0x5950_4f43)
            #expect(try driver.read(Register.pasidLimit) == 77)
            #expect(try driver.read(Register.pageRequestCapabilities) == 256 << 16 | 16)
            #expect(try driver.status == 0)
            try driver.enable()
            #expect(try driver.command(.create(76)) == Completion())
            #expect(try driver.command(.create(77)) == Completion(status: 5))
        }
    }

    @Test(arguments: [
        (Register.commandRing, 0x1000 as UInt64, 0), (Register.commandRing, 0x1000, 1),
        (Register.commandRing, 0x1000, 3), (Register.commandRing, 0x1000, 8192),
        (Register.workRing, 0x1000, 0), (Register.workRing, 0xffff_ffff_ffff_ff80, 4),
        (Register.pageRing, 0x1000, 16), (Register.pageRing, 0x1000, 33), (Register.pageRing, 0x1000, 8192),
    ])
    func `rings that cannot be are an error, and better ones are not`(
        ring: UInt64, base: UInt64, size: Int
    ) throws {
        try withDriver { driver in
            try driver.disable()
            try driver.describe(ring: ring, at: base, size: size)
            // Each time it is news.
            for _ in 0..<2 {
                try driver.write(Register.control, 1)
                #expect(try driver.status == Status.configurationError)
                #expect(try driver.client.wait(for: driver.counters[3], atMost: .seconds(60)) == 1)
                try driver.write(Register.control, 0)
            }
            try driver.enable()
            #expect(try driver.command(.init()) == Completion())
            #expect(try driver.status == Status.ready)
        }
    }

    @Test func `an index that is none stops its ring and no other, until the device is enabled anew`() throws {
        try withDriver { driver in
            try driver.write(Register.workRing + Register.tail, 64)
            #expect(try driver.status == Status.ready | Status.workRingError)
            #expect(try driver.client.wait(for: driver.counters[3], atMost: .seconds(60)) == 1)
            #expect(try driver.command(.init()) == Completion())
            let stopped = try driver.submit(.init(), .work)
            #expect(try driver.command(.init()) == Completion())
            #expect(driver.completion(of: stopped) == nil)
            try driver.write(Register.commandRing + Register.tail, .max)
            #expect(try driver.status == Status.ready | Status.workRingError | Status.commandRingError)
            try driver.disable()
            try driver.enable()
            #expect(try driver.work(.init()) == Completion())
            #expect(try driver.command(.init()) == Completion())
        }
    }

    @Test func `a head that was not filled stops page requests, which then fail`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            try driver.write(Register.pageRing + Register.head, 1)
            #expect(try driver.status == Status.ready | Status.pageRingError)
            // Commands come after page requests.
            try driver.command(.init())
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)).status == 9)
            try driver.command(.map(5, at: 0, to: driver.memoryPage(0)))
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)) == Completion(bytes: 8))
        }
    }

    @Test(arguments: [
        (Register.commandRing, Status.commandRingError), (Register.workRing, Status.workRingError),
    ])
    func `a ring that is not in memory is an error`(ring: UInt64, error: UInt32) throws {
        try withDriver(isEnabled: false) { driver in
            try driver.enable(misplaced: ring)
            try driver.write(ring + Register.tail, 1)
            try driver.wait { try driver.status == Status.ready | error }
            #expect(try driver.client.wait(for: driver.counters[3], atMost: .seconds(60)) == 1)
        }
    }

    @Test func `page requests fail when their ring is not in memory, and nothing else does`() throws {
        try withDriver(isEnabled: false) { driver in
            try driver.enable(misplaced: Register.pageRing)
            try driver.command(.create(5, hasDemandPaging: true))
            // What is in the ring already is refused, and what comes later fails.
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)).status == 8)
            #expect(try driver.status == Status.ready | Status.pageRingError)
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)).status == 9)
            try driver.command(.map(5, at: 0, to: driver.memoryPage(0)))
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)) == Completion(bytes: 8))
        }
    }

    @Test(arguments: [0x7000_0000, 16] as [UInt64])
    func `a completion that cannot be written is lost, and told of`(offset: UInt64) throws {
        try withDriver { driver in
            var descriptor = CopyEngineDriver.Descriptor(flags: CopyEngineDriver.Descriptor.completion)
            descriptor.completionAddress = driver.memoryPage(0) + offset
            driver.putAsIs(descriptor, .command)
            try driver.ring(.command)
            try driver.wait { try driver.status == Status.ready | Status.completionLost }
            #expect(try driver.command(.init()) == Completion())
        }
    }

    @Test func `without the bus master bit nothing is reached`() throws {
        try withDriver { driver in
            try driver.client.writeRegister(UInt16(2), region: 7, at: 4)
            try driver.write(Register.commandRing + Register.tail, 1)
            try driver.wait { try driver.status == Status.ready | Status.commandRingError }
        }
    }
}

@Suite struct `The end of a session` {
    @Test func `work that is under way when the device is disabled is aborted, and what was not read stays`() throws {
        try withDriver({ $0.workers = 2 }) { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let waiting = (0..<2).map { number in
                driver.put(.fill(5, at: UInt64(number) << 20, pattern: 1, length: 8), .work)
            }
            var descriptor = CopyEngineDriver.Descriptor.fill(0, at: driver.memoryPage(0), pattern: 1, length: 8)
            descriptor.flags = CopyEngineDriver.Descriptor.fence
            let behind = driver.put(descriptor, .work)
            try driver.ring(.work)
            _ = try driver.awaitGroup()
            _ = try driver.awaitGroup()
            try driver.disable()
            for work in waiting { #expect(driver.completion(of: work)?.status == 12) }
            // Read or not, it has not begun.
            #expect(driver.completion(of: behind).map { $0.status == 12 } ?? true)
            #expect(driver.contents(0)[0] == 0)
            try driver.enable()
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)).status == 5)
        }
    }

    @Test func `work that waits for pages is no transaction that a reset should wait for`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let waiting = try driver.submit(.fill(5, at: 0, pattern: 1, length: 8), .work)
            let group = try driver.awaitGroup()
            // Device status of the express capability: transactions pending.
            #expect(try driver.client.readRegister(UInt16.self, region: 7, at: 0x54 + 0xa) & 1 << 5 == 0)
            try driver.command(.answer(group[0].cookie, isAccessible: false))
            #expect(try driver.finish(waiting).status == 8)
        }
    }

    @Test func `a reset in the middle of faults lets everything go, and the next session works`() throws {
        try withDriver({ $0.workers = 8 }) { driver in
            for round in 0..<20 {
                try driver.command(.create(5, hasDemandPaging: true))
                let work = (0..<16).map { number in
                    driver.put(.fill(5, at: UInt64(number) << 20, pattern: 1, length: 4096), .work)
                }
                try driver.ring(.work)
                if round % 2 == 0 { _ = try driver.awaitGroup() }
                try driver.client.reset()
                #expect(try driver.status == 0)
                let before = work.map { driver.completion(of: $0) }
                try driver.client.writeRegister(UInt16(6), region: 7, at: 4)
                try driver.enable()
                #expect(try driver.work(.init()) == Completion())
                // Nothing that was begun before completes after the reset.
                #expect(work.map { driver.completion(of: $0) } == before)
            }
        }
    }

    @Test func `a client that leaves in the middle of faults leaves nothing to the next`() throws {
        let function = try CopyEngine.makeFunction()
        for _ in 0..<5 {
            try withClient(of: function) { client in
                let driver = try CopyEngineDriver(client)
                #expect(try driver.status == 0)
                try driver.enable()
                try driver.command(.create(5, hasDemandPaging: true))
                try driver.command(.map(5, at: 0, to: driver.memoryPage(0)))
                _ = try driver.submit(.fill(5, at: 0x1000, pattern: 1, length: 8), .work)
                _ = try driver.awaitGroup()
            }
        }
    }

    @Test func `a device is dropped while its work waits for pages`() throws {
        for _ in 0..<20 {
            try withDriver { driver in
                try driver.command(.create(5, hasDemandPaging: true))
                for number in 0..<8 { driver.put(.fill(5, at: UInt64(number) << 16, pattern: 1, length: 8), .work) }
                try driver.ring(.work)
            }
        }
    }
}
