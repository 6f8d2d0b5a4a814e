import PCI
import Testing

@Suite struct EventTests {
    private func started(
        _ reach: GuestRAM.Reach = .shared, completionEntries: Int = 32
    ) throws -> NVMeTestDriver {
        let driver = try NVMeTestDriver(reach: reach, adminCompletionEntries: completionEntries)
        driver.enable()
        return driver
    }

    @Test func `four requests can be parked and a fifth is refused`() throws {
        let driver = try started()
        // Which of the five comes last is open: commands are executed side by side.
        for _ in 0..<5 { driver.submit(Command(Opcode.eventRequest)) }
        #expect(try driver.next().status == 0x105)
        driver.wait { !driver.isExecuting }
        #expect(driver.poll() == nil)
        driver.disable()
        driver.enable()
        #expect(driver.poll() == nil, "a reset forgets requests")
    }

    @Test func `abort ends a parked request and finds nothing else`() throws {
        let driver = try started()
        let request = driver.submit(Command(Opcode.eventRequest))
        let abort = try driver.run(Command(Opcode.abort, [10: UInt32(request &+ 7) << 16]))
        #expect(abort.status == 0 && abort.result == 1)
        // The request was fetched before the abort; now it is parked.
        driver.wait { !driver.isExecuting }
        #expect(try driver.run(Command(Opcode.abort, [10: UInt32(request) << 16 | 1])).result == 1)
        let second = driver.submit(Command(Opcode.abort, [10: UInt32(request) << 16]))
        var ends = try [driver.next(), driver.next()]
        if ends[0].command == second { ends.swapAt(0, 1) }
        #expect(ends[0].command == request && ends[0].status == 0x007)
        #expect(ends[1].command == second && ends[1].status == 0 && ends[1].result == 0)
        #expect(try driver.run(Command(Opcode.abort, [10: UInt32(request) << 16])).result == 1, "only once")
    }

    @Test func `parked requests do not fill the smallest completion queue`() throws {
        let driver = try started(completionEntries: 2)
        // Many times over, because a worker must look for a slot just while a request still has the only one.
        for _ in 0..<200 {
            for _ in 0..<4 { driver.submit(Command(Opcode.eventRequest)) }
            #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
            driver.disable()
            driver.enable()
        }
        driver.submit(Command(Opcode.eventRequest))
        driver.write32(77, at: 0x1000)
        #expect(try driver.next().result == 1 << 8 | 1 << 16)
    }

    @Test func `one type of event is told once until its log page is read`() throws {
        let driver = try started()
        let page = driver.ram.allocate(4096)
        driver.submit(Command(Opcode.eventRequest))
        driver.submit(Command(Opcode.eventRequest))
        driver.write32(77, at: 0x1000)
        #expect(try driver.next().result == 1 << 8 | 1 << 16)
        driver.write32(77, at: 0x1000)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
        #expect(driver.poll() == nil)
        let retaining: UInt32 = 1 << 15
        #expect(try driver.run(Command(Opcode.getLogPage, prp1: page, [10: 1 | retaining | 127 << 16])).status == 0)
        driver.write32(77, at: 0x1000)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
        #expect(driver.poll() == nil)
        #expect(try driver.run(Command(Opcode.getLogPage, prp1: page, [10: 1 | 127 << 16])).status == 0)
        driver.write32(77, at: 0x1000)
        #expect(try driver.next().result == 1 << 8 | 1 << 16)
    }

    @Test func `an event that happens while its log page is read is told afterwards`() throws {
        let driver = try started(.messages)
        let page = driver.ram.allocate(4096)
        driver.write32(77, at: 0x1000)
        driver.submit(Command(Opcode.eventRequest))
        #expect(try driver.next().result == 1 << 8 | 1 << 16)
        let request = driver.submit(Command(Opcode.eventRequest))
        driver.wait { !driver.isExecuting }
        // The page has been made up already, without what happens now.
        let function = driver.function
        driver.ram.interruptMessage(to: page) {
            let value: [UInt8] = [77, 0, 0, 0]
            function.writeRegion(0, at: 0x1000, from: value.span)
        }
        let log = driver.submit(Command(Opcode.getLogPage, prp1: page, [10: 1 | 127 << 16]))
        var ends = try [driver.next(), driver.next()]
        if ends[0].command == request { ends.swapAt(0, 1) }
        #expect(ends[0].command == log && ends[0].status == 0)
        #expect(driver.ram.read(page + 64, 1) == [0], "one entry in the log")
        #expect(ends[1].command == request && ends[1].result == 1 << 8 | 1 << 16)
    }

    @Test func `an event that nobody waits for is told to the next request`() throws {
        let driver = try started()
        driver.write32(77, at: 0x1000)
        let request = driver.submit(Command(Opcode.eventRequest))
        let event = try driver.next()
        #expect(event.command == request && event.result == 1 << 8 | 1 << 16)
    }

    @Test func `a temperature threshold warns in the log, and by an event if asked to`() throws {
        let driver = try started()
        let page = driver.ram.allocate(4096)
        let request = driver.submit(Command(Opcode.eventRequest))
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 4, 11: 290])).status == 0)
        #expect(driver.poll() == nil)
        #expect(try driver.run(Command(Opcode.getLogPage, prp1: page, [10: 2 | 1 << 15 | 127 << 16])).status == 0)
        #expect(driver.ram.read(page, 1) == [2])
        let set = driver.submit(Command(Opcode.setFeatures, [10: 0x0b, 11: 2]))
        var ends = try [driver.next(), driver.next()]
        if ends[0].command == set { ends.swapAt(0, 1) }
        #expect(ends[0].command == request)
        #expect(ends[0].result == 1 | 1 << 8 | 2 << 16)
    }
}
