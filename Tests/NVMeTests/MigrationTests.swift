import DMA
import DeviceModel
import LinuxHost
import NVMe
import PCI
import Randomness
import Testing

private func pattern(_ seed: Int, _ byteCount: Int = 4096) -> [UInt8] {
    (0..<byteCount).map { UInt8(truncatingIfNeeded: ($0 &+ seed) &* 131 &+ $0 >> 8) }
}

@Suite struct MigrationTests {
    private func started(
        _ reach: GuestRAM.Reach = .shared, adminCompletionEntries: Int? = nil
    ) throws -> NVMeTestDriver {
        let driver = try NVMeTestDriver(reach: reach, adminCompletionEntries: adminCompletionEntries)
        driver.enable()
        return driver
    }

    /// Takes the completions of `commands` from a queue, each of which must come once.
    private func expectEach(
        of commands: [UInt16], from driver: NVMeTestDriver, _ id: UInt16, status: UInt16 = 0,
        _ location: SourceLocation = #_sourceLocation
    ) throws {
        let completions = try commands.map { _ in try driver.next(id, location) }
        #expect(completions.map(\.command).sorted() == commands.sorted(), sourceLocation: location)
        #expect(completions.allSatisfy { $0.status == status }, sourceLocation: location)
        driver.wait(location) { !driver.isExecuting }
        #expect(driver.poll(id) == nil, sourceLocation: location)
    }

    @Test(arguments: GuestRAM.Reach.allCases)
    func `commands under way, and those not yet fetched, are completed once in another controller`(
        reach: GuestRAM.Reach
    ) throws {
        let driver = try started(reach)
        try driver.createPair(1)
        let pages = (0..<7).map { _ in driver.ram.allocate(4096) }
        for (number, page) in pages.enumerated() { driver.ram.write(pattern(number), at: page) }
        driver.store.hold()
        // Four workers are with four commands, three commands wait.
        let commands = pages.enumerated().map { number, page in
            driver.submit(.blocks(Opcode.write, UInt64(number * 8), 8, prp1: page), to: 1)
        }
        driver.store.waitUntilHeld(4)
        driver.function.beginStop()
        driver.store.letGo()
        try driver.function.finishStop(by: .after(.seconds(60)))
        #expect(driver.poll(1) == nil, "a stopped controller completes nothing")
        try driver.replaceController(restoring: driver.savedState())
        #expect(driver.poll(1) == nil)
        driver.function.resume()
        try expectEach(of: commands, from: driver, 1)
        for number in pages.indices { #expect(try driver.store.contents(UInt64(number * 8), 8) == pattern(number)) }
        #expect(try driver.run(.blocks(Opcode.flush, 0, 1), on: 1).status == 0)
    }

    @Test func `a stop that the store holds up is given up, and the commands end as if nothing had been`() throws {
        let driver = try started()
        try driver.createPair(1)
        let page = driver.ram.allocate(4096)
        try driver.store.put(pattern(3), at: 8)
        driver.store.hold()
        let command = driver.submit(.blocks(Opcode.read, 8, 8, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        driver.function.beginStop()
        #expect(throws: StopFailure.tookTooLong) {
            try driver.function.finishStop(by: .after(.milliseconds(20)))
        }
        driver.function.resume()
        driver.store.letGo()
        try expectEach(of: [command], from: driver, 1)
        #expect(driver.ram.read(page, 4096) == pattern(3))
        try driver.migrate()
        #expect(try driver.run(.blocks(Opcode.read, 8, 8, prp1: page), on: 1).status == 0)
    }

    @Test func `what was written is durable before the stop is over, and a store that cannot see to it stops nobody`()
        throws
    {
        let driver = try started()
        let flushes = driver.store.flushes
        try driver.stop()
        #expect(driver.store.flushes == flushes + 1)
        driver.function.resume()
        driver.store.failFlushes()
        driver.function.beginStop()
        #expect(throws: StopFailure.storageFailed) {
            try driver.function.finishStop(by: .after(.seconds(60)))
        }
        driver.function.resume()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test(arguments: [false, true])
    func `a completion that was half written is written whole by the other controller, in its own slot`(
        isSecondHalf: Bool
    ) throws {
        let driver = try started(.messages)
        try driver.createPair(1)
        let queue = try #require(driver.queues[1])
        let page = driver.ram.allocate(4096)
        try driver.store.put(pattern(5), at: 0)
        // A completion goes out in two messages. The stop comes just before one of them is carried out.
        let function = driver.function
        driver.ram.interruptMessage(to: queue.completionBase + (isSecondHalf ? 12 : 0)) { function.beginStop() }
        let command = driver.submit(.blocks(Opcode.read, 0, 8, prp1: page), to: 1)
        driver.wait { !driver.isExecuting }
        try driver.function.finishStop(by: .after(.seconds(60)))
        #expect((driver.ram.poll(queue.completionBase + 12) >> 16 == 1) == isSecondHalf)
        try driver.replaceController(restoring: driver.savedState())
        driver.function.resume()
        try expectEach(of: [command], from: driver, 1)
        #expect(driver.ram.read(page, 4096) == pattern(5))
        #expect(try driver.run(.blocks(Opcode.read, 0, 8, prp1: page), on: 1).status == 0)
    }

    @Test func `a command whose data the stop cuts off is executed anew`() throws {
        let driver = try started(.messages)
        try driver.createPair(1)
        // A page between the two, so that they are two messages.
        let pages = (0..<3).map { _ in driver.ram.allocate(4096) }
        let (first, second) = (pages[0], pages[2])
        try driver.store.put(pattern(5, 8192), at: 0)
        let function = driver.function
        driver.ram.interruptMessage(to: first) { function.beginStop() }
        let command = driver.submit(.blocks(Opcode.read, 0, 16, prp1: first, prp2: second), to: 1)
        driver.wait { !driver.isExecuting }
        try driver.function.finishStop(by: .after(.seconds(60)))
        #expect(driver.ram.read(first, 4096) == Array(pattern(5, 8192)[..<4096]))
        #expect(driver.ram.read(second, 4096).allSatisfy { $0 == 0 })
        try driver.replaceController(restoring: driver.savedState())
        // It must not have been told of as an error either, here or there.
        driver.function.resume()
        try expectEach(of: [command], from: driver, 1)
        #expect(driver.ram.read(second, 4096) == Array(pattern(5, 8192)[4096...]))
        let log = driver.ram.allocate(4096)
        #expect(try driver.run(Command(Opcode.getLogPage, namespace: .max, prp1: log, [10: 15 << 16 | 1])).status == 0)
        #expect(driver.ram.read(log, 64).allSatisfy { $0 == 0 })
    }

    @Test func `a full completion queue is full in the other controller, and goes on when the host makes room`() throws
    {
        let driver = try started()
        try driver.createPair(1, entries: 16, completionEntries: 4)
        let commands = (0..<8).map { _ in driver.submit(.blocks(Opcode.flush, 0, 1), to: 1) }
        var seen: [UInt16] = []
        driver.wait {
            if let completion = driver.poll(1, acknowledging: false) { seen.append(completion.command) }
            return seen.count == 3 && !driver.isExecuting
        }
        try driver.migrate()
        #expect(driver.poll(1) == nil)
        driver.withQueue(1) { driver.acknowledge($0) }
        try expectEach(of: commands.filter { !seen.contains($0) }, from: driver, 1)
    }

    @Test func `parked requests, features and logs go along`() throws {
        let driver = try started()
        let log = driver.ram.allocate(4096)
        let request = driver.submit(Command(Opcode.eventRequest))
        driver.wait { !driver.isExecuting }
        #expect(try driver.run(Command(Opcode.setFeatures, namespace: 1, [10: 5, 11: 1234])).status == 0)
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 6, 11: 0])).status == 0)
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 7, 11: 3 << 16 | 2])).status == 0)
        try driver.migrate()
        #expect(try driver.run(Command(Opcode.getFeatures, namespace: 1, [10: 5])).result == 1234)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 6])).result == 0)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).result == 3 << 16 | 2)
        // A doorbell that does not exist is an event and an entry in the error log.
        driver.write32(1, at: 0x1000 + 8 * 40)
        let event = try driver.next()
        #expect(event.command == request && event.result == 0x0001_0000)
        // Until the host has read the log, nothing more of the kind is told.
        driver.write32(1, at: 0x1000 + 8 * 41)
        let second = driver.submit(Command(Opcode.eventRequest))
        driver.wait { !driver.isExecuting }
        try driver.migrate()
        #expect(driver.poll() == nil)
        #expect(try driver.run(Command(Opcode.getLogPage, namespace: .max, prp1: log, [10: 31 << 16 | 1])).status == 0)
        #expect(driver.ram.read(log, 8) == [2, 0, 0, 0, 0, 0, 0, 0])
        #expect(driver.ram.read(log + 64, 8) == [1, 0, 0, 0, 0, 0, 0, 0])
        // Both events were known by then, so the request waits on.
        driver.wait { !driver.isExecuting }
        #expect(driver.poll() == nil)
        driver.write32(1, at: 0x1000 + 8 * 42)
        #expect(try driver.next().command == second)
    }

    @Test func `a queue that waits for its last command to be deleted waits in the other controller`() throws {
        let driver = try started(.messages)
        try driver.createPair(1)
        let page = driver.ram.allocate(4096)
        driver.store.hold()
        let read = driver.submit(.blocks(Opcode.read, 0, 8, prp1: page), to: 1)
        driver.store.waitUntilHeld(1)
        let deletion = driver.submit(Command(0x00, [10: 1]))
        // The deletion has been fetched when its slot is free for another command.
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
        driver.function.beginStop()
        driver.store.letGo()
        try driver.function.finishStop(by: .after(.seconds(60)))
        try driver.replaceController(restoring: driver.savedState())
        driver.function.resume()
        try expectEach(of: [read], from: driver, 1)
        try expectEach(of: [deletion], from: driver, 0)
    }

    @Test func `interrupts that were raised and not told are told by the other controller`() throws {
        let driver = try started()
        // MSI-X on, all of the function masked.
        var place: UInt64 = 0x40
        func configuration(_ offset: UInt64, _ count: Int) -> UInt64 {
            var bytes = [UInt8](repeating: 0, count: count)
            var span = bytes.mutableSpan
            driver.function.readRegion(PCIRegion.configuration, at: offset, into: &span)
            return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        while configuration(place, 1) != 0x11 { place = configuration(place + 1, 1) }
        func control(_ value: UInt8) {
            driver.function.writeRegion(PCIRegion.configuration, at: place + 3, from: [value].span)
        }
        control(0xc0)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
        try driver.migrate()
        let counter = try EventCounter()
        driver.function.interrupts.connect(.msix, from: 0, to: [counter])
        #expect(counter.drain() == 0)
        control(0x80)
        #expect(counter.drain() == 1)
        // And one that is raised while the controller stands still waits until it goes on.
        let second = try EventCounter()
        driver.function.interrupts.connect(.msix, from: 0, to: [nil])
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
        try driver.stop()
        try driver.replaceController(restoring: driver.savedState())
        driver.function.interrupts.connect(.msix, from: 0, to: [second])
        #expect(second.drain() == 0)
        driver.function.resume()
        #expect(second.drain() == 1)
    }

    @Test(arguments: GuestRAM.Reach.allCases)
    func `a controller that moves again and again at any moment completes every command once`(
        reach: GuestRAM.Reach
    ) throws {
        let driver = try started(reach)
        try driver.createPair(1)
        let pages = (0..<16).map { _ in driver.ram.allocate(4096) }
        var numbers = SeededNumbers(seed: 0x0b0a_4d02)
        for round in 0..<60 {
            // The even ones write, the odd ones read what was written the round before.
            let commands = pages.enumerated().map { number, page in
                let block = UInt64(number / 2 * 2 + (number + round) % 2) * 8
                let isWrite = number % 2 == 0
                driver.ram.write(isWrite ? pattern(round * 16 + number) : [UInt8](repeating: 0, count: 4096), at: page)
                return driver.submit(
                    .blocks(isWrite ? Opcode.write : Opcode.read, block, 8, prp1: page), to: 1)
            }
            for _ in 0..<numbers.below(400) { _ = driver.status }
            try driver.migrate()
            try expectEach(of: commands, from: driver, 1)
            for number in stride(from: 0, to: 16, by: 2) {
                let block = UInt64(number + round % 2) * 8
                #expect(try driver.store.contents(block, 8) == pattern(round * 16 + number))
                if round > 0 { #expect(driver.ram.read(pages[number + 1], 4096) == pattern((round - 1) * 16 + number)) }
            }
        }
    }

    @Test func `a disabled controller and one that has failed are what they were`() throws {
        let driver = try NVMeTestDriver()
        try driver.migrate()
        #expect(driver.status == 0)
        driver.startEnabling(memoryPageShift: 9)
        driver.wait { driver.status == NVMeTestDriver.fatal }
        try driver.migrate()
        #expect(driver.status == NVMeTestDriver.fatal)
        driver.write32(0, at: 0x14)
        driver.enable()
        #expect(driver.status == NVMeTestDriver.ready)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }

    @Test func `a reset of a stopped controller forgets what was under way`() throws {
        let driver = try started(.messages)
        try driver.createPair(1)
        let function = driver.function
        let page = driver.ram.allocate(4096)
        driver.ram.interruptMessage(to: page) { function.beginStop() }
        driver.submit(.blocks(Opcode.read, 0, 8, prp1: page), to: 1)
        driver.wait { !driver.isExecuting }
        try driver.function.finishStop(by: .after(.seconds(60)))
        driver.function.reset()
        #expect(driver.status == 0)
        driver.function.resume()
        driver.setBusMaster(true)
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
        #expect(driver.ram.poll(driver.admin.completionBase + 28) == 0)
    }
}

@Suite struct StateRefusalTests {
    /// A controller in the middle of much: queues, parked requests, commands with a store that holds them up.
    private func busy() throws -> NVMeTestDriver {
        let driver = try NVMeTestDriver(reach: .messages) { $0.queuePairs = 4 }
        driver.enable()
        try driver.createPair(1)
        try driver.createPair(2, entries: 16, completionEntries: 8)
        driver.submit(Command(Opcode.eventRequest))
        driver.submit(Command(Opcode.eventRequest))
        driver.wait { !driver.isExecuting }
        driver.write32(1, at: 0x1000 + 8 * 40)
        driver.wait { !driver.isExecuting }
        let function = driver.function
        let page = driver.ram.allocate(4096)
        driver.ram.interruptMessage(to: page) { function.beginStop() }
        for _ in 0..<3 { driver.submit(.blocks(Opcode.read, 0, 8, prp1: page), to: 2) }
        driver.submit(.blocks(Opcode.flush, 0, 1), to: 1)
        driver.wait { !driver.isExecuting }
        driver.function.beginStop()
        try driver.function.finishStop(by: .after(.seconds(60)))
        return driver
    }

    private func error(_ body: () throws -> Void) -> StateError? {
        do {
            try body()
            return nil
        } catch {
            return error as? StateError
        }
    }

    @Test func `the state of another disk is refused by what is other about it`() throws {
        let driver = try NVMeTestDriver { $0.queuePairs = 4 }
        try driver.stop()
        let state = driver.savedState()
        let reasons = [
            error { try driver.replaceController(restoring: state) { $0.queuePairs = 5 } },
            error { try driver.replaceController(restoring: state) { $0.model = "Another" } },
            error {
                let serial = try #require(NVMeController.SerialNumber("OTHER"))
                try driver.replaceController(restoring: state) { $0.serial = serial }
            },
            error { try driver.replaceController(restoring: state) { $0.workers = 7 } },
        ]
        #expect(
            reasons == [
                .otherProperty("queue pairs", here: "5", there: "4"),
                .otherProperty("model", here: "Another", there: "Outboard NVMe Disk"),
                .otherProperty("serial number", here: "OTHER", there: "OBTEST1"), nil,
            ])
        for store in [try TestStore(byteCount: 32 << 20), try TestStore(isReadOnly: true)] {
            let other = try NVMeTestDriver(store: store) { $0.queuePairs = 4 }
            try other.stop()
            guard case .otherProperty = error({ try other.restore(state) }) else {
                Issue.record("a disk of another size, or one that cannot be written, takes the state")
                continue
            }
        }
    }

    @Test func `a state that is cut short or has bytes after it is refused`() throws {
        let driver = try busy()
        let state = driver.savedState()
        for count in 0..<state.count {
            #expect(error { try driver.restore(Array(state.prefix(count))) } == .tooShort)
        }
        #expect(error { try driver.restore(state + [0]) } == .trailingBytes)
        try driver.restore(state)
    }

    @Test func `a state with any bit changed is refused`() throws {
        let driver = try busy()
        let state = driver.savedState()
        for place in state.indices {
            var changed = state
            changed[place] ^= 1 << UInt8(place % 8)
            #expect(error { try driver.restore(changed) } != nil, "byte \(place)")
        }
        try driver.restore(state)
    }

    /// Its queue could be deleted and made anew by the commands before it, and has no slot for it then.
    @Test func `a parked command that completes in another queue than the admin queue's is refused`() throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        try driver.createPair(1)
        try driver.stop()
        var writer = StateWriter()
        driver.function.saveState(into: &writer)
        let state = writer.bytes
        /// The state with a completion of a parked command of the admin queue, due in a completion queue.
        func withDueCompletion(in queue: UInt16) throws -> [UInt8] {
            var reader = StateReader(state)
            var function = try reader.section("function")
            var model = try reader.section("model")
            var (functionBytes, modelBytes): ([UInt8], [UInt8]) = ([], [])
            while let byte = try? function.integer(UInt8.self) { functionBytes.append(byte) }
            while let byte = try? model.integer(UInt8.self) { modelBytes.append(byte) }
            // A history without errors is last, and before it the number of due completions.
            let historyByteCount = 6 * 8 + 8 + 4
            let place = modelBytes.count - historyByteCount - 4
            #expect(modelBytes[place..<place + 4].allSatisfy { $0 == 0 })
            var completion = StateWriter()
            completion.append(count: 1)
            for number in [0, queue, 7, 0] { completion.append(UInt16(number)) }
            completion.append(UInt32(0))
            completion.append(true)
            modelBytes.replaceSubrange(place..<place + 4, with: completion.bytes)
            var changed = StateWriter()
            changed.section("function") { $0.append(bytes: functionBytes) }
            changed.section("model") { $0.append(bytes: modelBytes) }
            return changed.bytes
        }
        var other = StateReader(try withDueCompletion(in: 1))
        #expect(error { try driver.function.restoreState(from: &other) } == .impossible("parked command"))
        var admin = StateReader(try withDueCompletion(in: 0))
        try driver.function.restoreState(from: &admin)
        driver.function.resume()
        #expect(try driver.next().command == 7)
    }

    /// Without the checksum, which stops nobody who means harm.
    @Test func `a state that was made up is refused, or taken by a controller that works on and can be reset`() throws {
        let driver = try busy()
        var writer = StateWriter()
        driver.function.saveState(into: &writer)
        let state = writer.bytes
        var numbers = SeededNumbers(seed: 0x0b0a_4d00)
        var taken = 0
        for round in 0..<4000 {
            var changed = state
            switch round % 4 {
            case 0: changed = (0..<numbers.below(600)).map { _ in UInt8(numbers.below(256)) }
            case 1: changed = Array(changed.prefix(numbers.below(changed.count)))
            default:
                for _ in 0...numbers.below(3) {
                    let interesting: [UInt8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, UInt8(numbers.below(256))]
                    changed[numbers.below(changed.count)] = interesting[numbers.below(interesting.count)]
                }
            }
            var reader = StateReader(changed)
            if error({ try driver.function.restoreState(from: &reader) }) != nil { continue }
            taken += 1
            driver.function.resume()
            for offset in stride(from: UInt64(0), to: 0x40, by: 8) { _ = driver.read64(offset) }
            for queue in 0..<6 as Range<UInt64> {
                driver.write32(UInt32(numbers.below(20)), at: 0x1000 + queue * 8)
                driver.write32(UInt32(numbers.below(20)), at: 0x1004 + queue * 8)
            }
            driver.function.beginStop()
            try driver.function.finishStop(by: .after(.seconds(60)))
            var copy = StateWriter()
            driver.function.saveState(into: &copy)
            var again = StateReader(copy.bytes)
            try driver.function.restoreState(from: &again)
        }
        #expect(taken > 0, "some changes make another state that can be")
        driver.function.reset()
        driver.function.resume()
        driver.setBusMaster(true)
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).status == 0)
    }
}
