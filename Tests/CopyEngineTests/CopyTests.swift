import CopyEngine
import LinuxHost
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion

/// A byte that depends on where it is.
private func mark(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 31 &+ index >> 8 &* 7) }

@Suite struct Copying {
    @Test(arguments: [Client.Sharing.descriptor, .messages])
    func `work without a PASID goes from memory to memory`(sharing: Client.Sharing) throws {
        try withDriver(sharing: sharing) { driver in
            driver.fill(0, count: 40, mark)
            let length = UInt64(40 * 4096 - 100)
            let done = try driver.work(
                .copy((0, driver.memoryPage(0) + 33), to: (0, driver.memoryPage(50) + 7), length: length))
            #expect(done == Completion(bytes: length))
            #expect(
                driver.contents(50, count: 40)[7..<7 + Int(length)]
                    == driver.contents(0, count: 40)[33..<33 + Int(length)])
            #expect(driver.contents(50)[..<7] == [UInt8](repeating: 0, count: 7)[...])
        }
    }

    @Test func `mapped pages are copied between address spaces, wherever they lie in memory`() throws {
        try withDriver { driver in
            try driver.command(.create(1))
            try driver.command(.create(1023))
            driver.fill(0, count: 32, mark)
            for page in 0..<32 {
                // Backwards in memory.
                let completion = try driver.command(
                    .map(1, at: 0x7000_0000 + UInt64(page) * 4096, to: driver.memoryPage(31 - page), rights: 1))
                #expect(completion == Completion())
            }
            try driver.command(.map(1023, at: 0xffff_ffff_ffff_0000, to: driver.memoryPage(100), length: 0x1_0000))
            let done = try driver.work(
                .copy((1, 0x7000_0800), to: (1023, 0xffff_ffff_ffff_0000), length: 0x1_0000))
            #expect(done == Completion(bytes: 0x1_0000))
            let expected = (0..<32).reversed().flatMap { driver.contents($0) }
            #expect(driver.contents(100, count: 16) == Array(expected[0x800..<0x10800]))
        }
    }

    @Test func `a fill repeats its pattern from the first byte on, at any address and length`() throws {
        try withDriver { driver in
            let length = 200_003
            let done = try driver.work(
                .fill(0, at: driver.memoryPage(0) + 5, pattern: 0x8877_6655_4433_2211, length: UInt64(length)))
            #expect(done == Completion(bytes: UInt64(length)))
            let bytes = driver.contents(0, count: 60)
            #expect(bytes[..<5].allSatisfy { $0 == 0 } && bytes[(5 + length)...].allSatisfy { $0 == 0 })
            #expect((0..<length).allSatisfy { bytes[5 + $0] == UInt8(0x11 * ($0 % 8 + 1)) })
        }
    }

    @Test func `more work than the ring holds goes through it, and all of it is done`() throws {
        try withDriver(ringSize: 32) { driver in
            for round in 0..<20 {
                let submitted = (0..<31).map { number in
                    driver.put(
                        .fill(0, at: driver.memoryPage(number), pattern: UInt64(round * 31 + number), length: 4096),
                        .work)
                }
                try driver.ring(.work)
                for work in submitted { #expect(try driver.finish(work) == Completion(bytes: 4096)) }
                for number in 0..<31 {
                    #expect(driver.contents(number)[0] == UInt8(truncatingIfNeeded: round * 31 + number))
                }
            }
        }
    }

    @Test func `what was read from the ring shows in its head`() throws {
        try withDriver { driver in
            for _ in 0..<5 { _ = try driver.work(.init()) }
            #expect(try driver.read(CopyEngineDriver.Register.workRing + CopyEngineDriver.Register.head) == 5)
            #expect(try driver.read(CopyEngineDriver.Register.commandRing + CopyEngineDriver.Register.head) == 0)
        }
    }

    @Test func `work with a fence begins when all before it has completed`() throws {
        try withDriver { driver in
            try driver.command(.create(1, hasDemandPaging: true))
            driver.fill(0) { _ in 1 }
            let slow = driver.put(.copy((1, 0), to: (0, driver.memoryPage(8)), length: 4096), .work)
            var after = CopyEngineDriver.Descriptor.copy(
                (0, driver.memoryPage(8)), to: (0, driver.memoryPage(9)), length: 4096)
            after.flags = CopyEngineDriver.Descriptor.fence
            let fenced = driver.put(after, .work)
            let last = driver.put(.init(), .work)
            try driver.ring(.work)
            let group = try driver.awaitGroup()
            // The first waits for its page, and the others for it.
            #expect(driver.completion(of: slow) == nil && driver.completion(of: fenced) == nil)
            #expect(driver.completion(of: last) == nil)
            try driver.command(.map(1, at: 0, to: driver.memoryPage(0)))
            try driver.command(.answer(group[0].cookie))
            #expect(try driver.finish(slow) == Completion(bytes: 4096))
            #expect(try driver.finish(fenced) == Completion(bytes: 4096))
            #expect(try driver.finish(last) == Completion())
            #expect(driver.contents(9) == [UInt8](repeating: 1, count: 4096))
        }
    }

    @Test func `who asks for it is interrupted, on the vector of its ring`() throws {
        try withDriver { driver in
            var descriptor = CopyEngineDriver.Descriptor()
            _ = try driver.work(descriptor)
            try driver.command(descriptor)
            for counter in driver.counters { #expect(counter.drain() == 0) }
            descriptor.flags = CopyEngineDriver.Descriptor.interrupt
            driver.putAsIs(descriptor, .work)
            try driver.ring(.work)
            #expect(try driver.client.wait(for: driver.counters[1], atMost: .seconds(60)) == 1)
            driver.putAsIs(descriptor, .command)
            try driver.ring(.command)
            #expect(try driver.client.wait(for: driver.counters[0], atMost: .seconds(60)) == 1)
        }
    }
}
