import CopyEngine
import LinuxHost
import ServedDevices
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Descriptor = CopyEngineDriver.Descriptor
private typealias Register = CopyEngineDriver.Register
private typealias Status = CopyEngineDriver.Status

/// The same numbers for the same seed. SplitMix64
private struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }

    mutating func below(_ limit: UInt64) -> UInt64 { UInt64.random(in: 0..<limit, using: &self) }

    mutating func happens(oneIn count: UInt64) -> Bool { below(count) == 0 }

    /// A number that is near an edge as often as not.
    mutating func any() -> UInt64 {
        switch below(6) {
        case 0: 0
        case 1: .max - below(3)
        case 2: 1 << below(64)
        case 3: below(80)
        case 4: below(80) << 32 | below(80)
        default: next()
        }
    }
}

@Suite struct `A hostile driver` {
    private struct Hostility {
        let driver: CopyEngineDriver
        var numbers: SeededNumbers

        /// In or about memory, rings and records among it, or a virtual address.
        mutating func address() -> UInt64 {
            switch numbers.below(6) {
            case 0: numbers.any()
            case 1: CopyEngineDriver.base + (8 << 20) - numbers.below(8192)
            case 2: driver.address(Int(numbers.below(0x18000))) & ~31
            case 3: numbers.below(32) << 12
            default: driver.memoryPage(Int(numbers.below(1000)))
            }
        }

        mutating func descriptor(_ ring: CopyEngineDriver.RingName) -> Descriptor {
            let isCommand = ring == .command
            let opcodes: [UInt8] = isCommand ? [0, 0x11, 0x11, 0x12, 0x13, 0x13, 0x13, 0x14, 0x15] : [0, 1, 1, 2, 2]
            let opcode = opcodes[Int(numbers.below(UInt64(opcodes.count)))]
            var descriptor = Descriptor(opcode: opcode, flags: UInt8(numbers.below(isCommand ? 4 : 8)))
            if descriptor.flags & 1 != 0 { descriptor.completionAddress = address() }
            if isCommand { descriptor.options = UInt16(numbers.below(opcode == 0x13 ? 4 : 2)) }
            if opcode == 1 { descriptor.sourcePASID = UInt32(numbers.below(5)) }
            if opcode != 0 && opcode != 0x15 { descriptor.pasid = UInt32(numbers.below(5)) }
            switch opcode {
            case 1, 2, 0x13, 0x14:
                descriptor.source = opcode == 0x14 ? 0 : address()
                descriptor.address = address()
                descriptor.length = isCommand ? numbers.below(32) << 12 : numbers.below(300_000)
                if isCommand {
                    descriptor.source &= ~4095
                    descriptor.address &= ~4095
                }
            case 0x15: descriptor.source = numbers.below(20)
            default: break
            }
            if numbers.happens(oneIn: 20) { descriptor.length = numbers.any() }
            if numbers.happens(oneIn: 30) { descriptor.options = UInt16(truncatingIfNeeded: numbers.any()) }
            if numbers.happens(oneIn: 30) { descriptor.pasid = UInt32(truncatingIfNeeded: numbers.any()) }
            if numbers.happens(oneIn: 40) { descriptor.opcode = UInt8(truncatingIfNeeded: numbers.any()) }
            return descriptor
        }

        /// Writes 1 to 8 bytes anywhere among the registers.
        mutating func writeSomewhere() throws {
            let width = numbers.below(4)
            let offset = numbers.below(0x100) & ~(1 << width - 1)
            let value = numbers.any()
            switch width {
            case 0: try driver.client.writeRegister(UInt8(truncatingIfNeeded: value), region: 0, at: offset)
            case 1: try driver.client.writeRegister(UInt16(truncatingIfNeeded: value), region: 0, at: offset)
            case 2: try driver.client.writeRegister(UInt32(truncatingIfNeeded: value), region: 0, at: offset)
            default: try driver.client.writeRegister(value, region: 0, at: offset)
            }
        }

        /// Rings of any good sizes, wherever they lie: over each other, over completion records, over data.
        mutating func enableSomewhere() throws {
            for ring in [Register.commandRing, Register.workRing, Register.pageRing] {
                let size = ring == Register.pageRing && numbers.happens(oneIn: 4) ? 0 : 32 << Int(numbers.below(3))
                try driver.describe(ring: ring, at: address(), size: size)
            }
            try driver.write(Register.control, 0)
            try driver.write(Register.control, 1)
        }

        mutating func act() throws {
            switch numbers.below(16) {
            case 0: try writeSomewhere()
            case 1: try driver.start(hasPageRing: !numbers.happens(oneIn: 4))
            case 2: try enableSomewhere()
            case 3: try driver.write(Register.control, UInt32(numbers.below(2)))
            case 4, 5: try driver.write(Register.pageRing + Register.head, UInt32(numbers.below(40)))
            case 6: try driver.client.writeRegister(UInt16(numbers.below(8)), region: 7, at: 4)
            case 7: if numbers.happens(oneIn: 3) { try driver.client.reset() }
            case 8: _ = try driver.readLong(numbers.below(0x20) * 8)
            case 9: try driver.client.writeRegister(UInt16(6), region: 7, at: 4)
            case 10: try driver.client.serveRequests(for: .microseconds(300))
            default:
                let ring: CopyEngineDriver.RingName = Bool.random(using: &numbers) ? .work : .command
                for _ in 0...numbers.below(12) { driver.putAsIs(descriptor(ring), ring) }
                try driver.ring(ring)
            }
        }
    }

    @Test(arguments: 0..<8 as Range<UInt64>, [Client.Sharing.descriptor, .messages])
    func `does no harm to the device, nor to the next client`(seed: UInt64, sharing: Client.Sharing) throws {
        var options = CopyEngine.Options()
        options.pageTimeout = .milliseconds(20)
        options.workers = 1 + Int(seed % 4)
        options.maximumMappings = 20
        let function = try CopyEngine.makeFunction(options)
        var numbers = SeededNumbers(seed: seed)
        for isLast in [false, false, false, true] {
            try withClient(of: function) { client in
                let driver = try CopyEngineDriver(client, sharing: sharing)
                #expect(try driver.status == 0)
                var hostility = Hostility(driver: driver, numbers: numbers)
                for _ in 0..<150 { try hostility.act() }
                numbers = hostility.numbers
                // The others leave in the middle.
                guard isLast else { return }
                try client.reset()
                try client.writeRegister(UInt16(6), region: 7, at: 4)
                try driver.enable()
                #expect(try driver.work(.init()) == Completion())
                #expect(try driver.command(.create(1)) == Completion())
                #expect(try driver.status == Status.ready)
            }
        }
    }

    @Test(arguments: 0..<30 as Range<UInt64>)
    func `finds that what was read from a ring has completed once when the device is disabled, and nothing else`(
        seed: UInt64
    ) throws {
        var numbers = SeededNumbers(seed: seed)
        try withDriver({ $0.workers = 1 + Int(seed % 4) }) { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let work = (0..<40).map { number in
                var descriptor = Descriptor.fill(0, at: driver.memoryPage(number), pattern: 1, length: 4096)
                if numbers.happens(oneIn: 12) { descriptor.pasid = 5 }
                if numbers.happens(oneIn: 30) { descriptor.pasid = 7 }
                descriptor.flags = Descriptor.interrupt | (numbers.happens(oneIn: 6) ? Descriptor.fence : 0)
                return driver.put(descriptor, .work)
            }
            var command = Descriptor()
            command.flags = Descriptor.interrupt
            let commands = (0..<40).map { _ in driver.put(command, .command) }
            try driver.ring(.work)
            try driver.ring(.command)
            for _ in 0..<numbers.below(30) { _ = try driver.status }
            // The first command is none of these.
            let heads = [
                Int(try driver.read(Register.workRing + Register.head)),
                Int(try driver.read(Register.commandRing + Register.head)) - 1,
            ]
            try driver.disable()
            let before = (work + commands).map { driver.completion(of: $0) }
            for (number, ring) in [work, commands].enumerated() {
                let completions = ring.map { driver.completion(of: $0) }
                let count = completions.prefix { $0 != nil }.count
                #expect(count >= heads[number] && completions.dropFirst(count).allSatisfy { $0 == nil })
                #expect(driver.counters[1 - number].drain() == UInt64(count))
                let statuses: Set<UInt8> = number == 0 ? [1, 5, 12] : [1]
                #expect(statuses.isSuperset(of: completions.compactMap { $0?.status }))
            }
            try driver.enable()
            #expect(try driver.work(.init()) == Completion())
            #expect((work + commands).map { driver.completion(of: $0) } == before)
        }
    }

    @Test func `can have a space of every PASID there is`() throws {
        try withDriver({ $0.pasidLimit = 1 << 20 }) { driver in
            for pasid in [1, 1 << 10, 1 << 20 - 1] as [UInt32] {
                #expect(try driver.command(.create(pasid)) == Completion())
                #expect(try driver.command(.map(pasid, at: 0, to: driver.memoryPage(0))) == Completion())
                let fill = try driver.work(.fill(pasid, at: 0, pattern: UInt64(pasid), length: 8))
                #expect(fill == Completion(bytes: 8))
            }
            #expect(try driver.command(.create(1 << 20)) == Completion(status: 5))
        }
    }
}
