import CopyEngine
import LinuxHost
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Descriptor = CopyEngineDriver.Descriptor
private typealias Register = CopyEngineDriver.Register
private typealias Status = CopyEngineDriver.Status

@Suite struct `Memory that does not answer` {
    private static let stalled = StallingRoute.address

    @Test(arguments: [Descriptor.unmap(3, at: 0x8000), .destroy(3)])
    func `an unmap or destruction completes when no transfer is in its pages any more`(
        command: CopyEngineDriver.Descriptor
    ) throws {
        try withStallingDriver { driver, memory in
            try driver.command(.create(3))
            try driver.command(.map(3, at: 0x8000, to: Self.stalled))
            let fill = try driver.submit(.fill(3, at: 0x8000, pattern: 1, length: 64), .work)
            memory.wait(forTransfers: 1)
            let end = try driver.submit(command, .command)
            try driver.wait { try driver.read(Register.commandRing + Register.head) == 3 }
            for _ in 0..<20 {
                try driver.client.serveRequests(for: .milliseconds(1))
                #expect(driver.completion(of: end) == nil && driver.completion(of: fill) == nil)
            }
            memory.open()
            #expect(try driver.finish(end).status == 1)
            #expect(try driver.finish(fill).bytes == 64)
        }
    }

    @Test func `a reset waits for no transfer, and what was under way completes nowhere`() throws {
        try withStallingDriver { driver, memory in
            var descriptor = Descriptor.fill(0, at: Self.stalled, pattern: 1, length: 64)
            descriptor.flags = Descriptor.interrupt
            let fill = try driver.submit(descriptor, .work)
            memory.wait(forTransfers: 1)
            try driver.client.reset()
            #expect(try driver.status == 0)
            try driver.client.writeRegister(UInt16(6), region: 7, at: 4)
            try driver.start()
            #expect(try driver.status == 0)
            memory.open()
            try driver.wait { try driver.status == Status.ready }
            #expect(try driver.work(.init()) == Completion())
            #expect(driver.completion(of: fill) == nil)
            for counter in driver.counters { #expect(counter.drain() == 0) }
        }
    }

    @Test func `a driver that enables the device without waiting finds it ready when the old work is over`() throws {
        try withStallingDriver { driver, memory in
            let fill = try driver.submit(.fill(0, at: Self.stalled, pattern: 1, length: 64), .work)
            memory.wait(forTransfers: 1)
            try driver.write(Register.control, 0)
            #expect(try driver.status == Status.ready)
            try driver.start()
            #expect(try driver.status == 0)
            try driver.write(Register.control, 0)
            #expect(try driver.status == Status.ready)
            try driver.start()
            let next = try driver.submit(.init(), .work)
            #expect(driver.completion(of: fill) == nil && driver.completion(of: next) == nil)
            memory.open()
            try driver.wait { try driver.status == Status.ready }
            #expect(driver.completion(of: fill)?.status == 1)
            #expect(try driver.finish(next) == Completion())
        }
    }

    @Test func `a head that was not filled counts though the last session is not over`() throws {
        try withStallingDriver { driver, memory in
            _ = try driver.submit(.fill(0, at: Self.stalled, pattern: 1, length: 64), .work)
            memory.wait(forTransfers: 1)
            try driver.write(Register.control, 0)
            try driver.start()
            try driver.write(Register.pageRing + Register.head, 1)
            #expect(try driver.status & Status.pageRingError != 0)
            memory.open()
            try driver.command(.create(5, hasDemandPaging: true))
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)).status == 9)
        }
    }
}
