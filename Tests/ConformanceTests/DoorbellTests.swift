import DMA
import DeviceModel
import Edu
import Glibc
import LinuxHost
import PCI
import Testing
import VFIOUserCheck

private let base: UInt64 = 0x10_0000

extension Payload {
    static func ioDescriptors(_ region: UInt32, argsz: UInt32 = 4096) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(region), .u32(0))
    }
}

extension RawPeer {
    /// Asks for a region's doorbells and gives their counters.
    func doorbells(_ region: UInt32 = 0) throws -> [EventCounter] {
        try succeed(Number.getRegionIODescriptors, Payload.ioDescriptors(region)).descriptors.map {
            try EventCounter(adopting: $0.owned.duplicate())
        }
    }
}

@Suite struct Doorbells {
    @Test func `S72 every way of ringing is an entry, and those of one doorbell share a descriptor`() throws {
        try withPeer(of: BellTower.makeFunction()) { peer in
            let reply = try peer.succeed(Number.getRegionIODescriptors, Payload.ioDescriptors(0))
            let expected = bytes(
                .u32(16 + 4 * 40), .u32(0), .u32(0), .u32(4),
                .u64(0x1000), .u64(4), .u32(0), .u32(0), .u32(1), .u32(0), .u64(0xab),
                .u64(0x1008), .u64(0), .u32(1), .u32(0), .u32(0), .u32(0), .u64(0),
                .u64(0x1010), .u64(2), .u32(2), .u32(0), .u32(0), .u32(0), .u64(0),
                .u64(0x1010), .u64(4), .u32(2), .u32(0), .u32(1), .u32(0), .u64(9))
            #expect(reply.payload == expected)
            #expect(reply.descriptors.count == 3 && reply.strays.isEmpty)
            // Who asks again gets the same counters.
            let again = try peer.succeed(Number.getRegionIODescriptors, Payload.ioDescriptors(0))
            for (one, other) in zip(reply.descriptors, again.descriptors) {
                #expect(try Open.descriptors(like: one.number).contains(other.number))
            }
        }
    }

    @Test func `S72 a client with too little room gets the fixed part and no descriptor`() throws {
        try withPeer(of: BellTower.makeFunction()) { peer in
            for argsz in [16, 17, 16 + 4 * 40 - 1] as [UInt32] {
                let reply = try peer.succeed(Number.getRegionIODescriptors, Payload.ioDescriptors(0, argsz: argsz))
                #expect(reply.payload == bytes(.u32(16 + 4 * 40), .u32(0), .u32(0), .u32(4)))
                #expect(reply.descriptors.isEmpty)
            }
            let reply = try peer.succeed(
                Number.getRegionIODescriptors, Payload.ioDescriptors(0, argsz: 16 + 4 * 40))
            #expect(reply.payload.count == 16 + 4 * 40 && reply.descriptors.count == 3)
        }
    }

    @Test(arguments: [(0, 0), (1, 1), (2, 2), (3, 4), (16, 4)])
    func `S72 S35 a client gets no more descriptors than it takes`(limit: Int, entryCount: Int) throws {
        try withPeer(of: BellTower.makeFunction(), negotiated: false) { peer in
            try peer.negotiate(#"{"capabilities":{"max_msg_fds":\#(limit)}}"#)
            let reply = try peer.succeed(Number.getRegionIODescriptors, Payload.ioDescriptors(0))
            #expect(reply.payload.count == 16 + entryCount * 40)
            #expect(reply.payload.u32(at: 12) == UInt32(entryCount))
            #expect(reply.descriptors.count == min(limit, 3))
        }
    }

    @Test func `a question that wants no reply gets none, and no descriptor is left of it`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let descriptorCount = try Open.all().count
            let times = 10
            for _ in 0..<times {
                try peer.send(
                    message(Number.getRegionIODescriptors, flags: HeaderFlags.noReply, Payload.ioDescriptors(0)))
                #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
            }
            // Not one for each time; the test library opens a few of its own when it sees fit.
            #expect(try Open.all().count < descriptorCount + times)
        }
    }

    @Test func `a doorbell that is rung reaches the device, and no message goes either way`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells()
            bells[1].signal()
            function.model.wait { $0 == [.write(0, at: 0x1008, byteCount: 8)] }
            bells[2].signal()
            function.model.wait { $0.count == 2 }
            bells[0].signal()
            function.model.wait { $0.count == 3 }
            #expect(
                function.model.log == [
                    .write(0, at: 0x1008, byteCount: 8), .write(7, at: 0x1010, byteCount: 2),
                    .write(0xab, at: 0x1000, byteCount: 4),
                ])
            // The very next message is the reply to this one, so there was none before.
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `edu starts a transfer when its doorbell is rung`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try peer.enableBusMaster()
            let bells = try peer.doorbells()
            #expect(bells.count == 4)
            memory[0..<64] = pattern(64)
            // Everything but the command comes by messages, of which the last wants no reply.
            try peer.write(0, at: EduOffset.dmaSource, bytes(.u64(base)))
            try peer.write(0, at: EduOffset.dmaDestination, bytes(.u64(EduOffset.memory)))
            let count = Payload.write(0, at: EduOffset.dmaCount, bytes(.u64(64)))
            try peer.send(message(Number.writeRegion, flags: HeaderFlags.noReply, count))
            bells[0].signal()
            try peer.waitForEdu()
            try peer.write(0, at: EduOffset.dmaSource, bytes(.u64(EduOffset.memory)))
            try peer.write(0, at: EduOffset.dmaDestination, bytes(.u64(base + 0x800)))
            bells[1].signal()
            // Seen without a message: in the client's own memory.
            try eventually { memory[0x800..<0x840] == pattern(64) }
        }
    }

    @Test func `a ring comes after what was posted before it and before what waits for a reply after it`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells()
            for round in 0..<300 as Range<UInt32> {
                function.model.forget()
                let postedCount = round % 5
                for number in 0..<postedCount {
                    let payload = Payload.write(0, at: 0x40, bytes(.u32(number)))
                    try peer.send(message(Number.writeRegion, flags: HeaderFlags.noReply, payload))
                }
                bells[1].signal()
                #expect(try peer.read(0, at: 0, count: 8).number == UInt64(postedCount) + 1)
                let expected = (0..<postedCount).map { BellTower.Entry.write(UInt64($0), at: 0x40, byteCount: 4) }
                #expect(function.model.log == expected + [.write(0, at: 0x1008, byteCount: 8)])
            }
        }
    }

    @Test func `a ring among messages that wait for their client to read is carried out when it reads`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells()
            for id in 0..<4 as Range<UInt16> {
                try peer.send(message(Number.readRegion, id: id, Payload.read(0, at: 0, count: 0x10000)))
            }
            let payload = Payload.write(0, at: 0x40, bytes(.u32(1)))
            try peer.send(message(Number.writeRegion, flags: HeaderFlags.noReply, payload))
            bells[0].signal()
            for _ in 0..<4 { _ = try peer.receive() }
            #expect(try peer.read(0, at: 0, count: 8).number == 2)
            // In which order, a client that awaits replies cannot say.
            #expect(function.model.log.contains(.write(1, at: 0x40, byteCount: 4)))
            #expect(function.model.log.contains(.write(0xab, at: 0x1000, byteCount: 4)))
        }
    }

    @Test func `a counter that its client drives as high as it goes is one ring, and no hold-up`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells()
            for number in 1...20 {
                try write(.max - 1, to: bells[1])
                #expect(try peer.read(0, at: 0, count: 8).number == UInt64(number))
            }
            // The client may take its ring back, and then there may have been none.
            for _ in 0..<100 {
                bells[1].signal()
                bells[1].drain()
            }
            let count = try peer.read(0, at: 0, count: 8).number
            #expect((20...120).contains(count))
            bells[1].signal()
            #expect(try peer.read(0, at: 0, count: 8).number == count + 1)
        }
    }

    @Test func `a client may close its end of a doorbell and go on by messages`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            var bells = try peer.doorbells()
            bells[1].signal()
            bells = []
            try peer.write(0, at: 0x1008, bytes(.u32(5)))
            #expect(
                function.model.log == [.write(0, at: 0x1008, byteCount: 8), .write(5, at: 0x1008, byteCount: 4)])
        }
    }

    @Test func `a ring before a reset does not outlive it`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells()
            for _ in 0..<100 {
                function.model.forget()
                bells[0].signal()
                try peer.succeed(Number.resetDevice)
                #expect(function.model.log == [.write(0xab, at: 0x1000, byteCount: 4), .reset])
                // And the doorbells are still there afterwards.
                bells[0].signal()
                #expect(try peer.read(0, at: 0, count: 8).number == 3)
            }
        }
    }

    @Test func `a function in D3hot hears no doorbell, not even later`() throws {
        let function = BellTower.makeFunction()
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells()
            let power = UInt64(try #require(try peer.capability(0x01))) + 4
            try peer.write(7, at: power, bytes(.u16(3)))
            bells[0].signal()
            try peer.write(7, at: power, bytes(.u16(0)))
            #expect(try peer.read(0, at: 0, count: 8).number == 0)
            bells[0].signal()
            #expect(try peer.read(0, at: 0, count: 8).number == 1)
        }
    }

    @Test func `a doorbell rung while the device's state is read changes nothing, as a message would not`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let bells = try peer.doorbells()
            try peer.write(0, at: EduOffset.dmaCount, bytes(.u64(64)))
            let state = try peer.saveState()
            bells[0].signal()
            #expect(try peer.go(to: Migration.stop).error == nil)
            #expect(try !peer.isEduTransferring())
            #expect(try peer.saveState() == state)
            // A device that only stands still remembers the write, as one by message, and saves it.
            #expect(try peer.go(to: Migration.stop).error == nil)
            bells[0].signal()
            #expect(try peer.isEduTransferring())
            #expect(try peer.saveState() != state)
        }
    }

    @Test func `S100 a client that keeps a doorbell after it has left cannot ring for the next`() throws {
        let function = BellTower.makeFunction()
        try withServer(of: function) { server in
            let first = try server.connect()
            let old = try first.doorbells()
            first.close()
            server.waitForGoneClients(1)
            // The server has closed its own ends.
            for bell in old { #expect(try Open.count(like: bell.rawDescriptor) == 1) }
            old[0].signal()
            let second = try server.connect()
            let new = try second.doorbells()
            old[0].signal()
            #expect(try second.read(0, at: 0, count: 8).number == 0)
            new[0].signal()
            #expect(try second.read(0, at: 0, count: 8).number == 1)
        }
    }

    @Test func `S101 a client may ring and leave`() throws {
        let function = BellTower.makeFunction()
        try withServer(of: function) { server in
            for number in 1...100 {
                let peer = try server.connect()
                let bells = try peer.doorbells()
                for bell in bells { bell.signal() }
                peer.close()
                server.waitForGoneClients(number)
                for bell in bells { #expect(try Open.count(like: bell.rawDescriptor) == 1) }
            }
            #expect(try server.connect().call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    private func write(_ value: UInt64, to counter: EventCounter) throws {
        counter.drain()
        let socket = counter.rawDescriptor
        var value = value
        guard unsafe Glibc.write(socket, &value, 8) == 8 else { throw PeerFailure.tookTooLong }
    }
}

@Suite struct `Many doorbells` {
    /// More than the poller tells of at once.
    private static let count = 40

    @Test func `are given as far as a message has descriptors, and rung together each reaches the device once`() throws
    {
        let function = BellTower.makeFunction(
            (0..<Self.count).map {
                Doorbell(
                    region: $0 < 20 ? 0 : 2, offset: UInt64($0) * 8, value: UInt64($0), byteCount: 4,
                    rungBy: [.anyWrite])
            })
        try withPeer(of: function) { peer in
            let bells = try peer.doorbells(0) + peer.doorbells(2)
            #expect(bells.count == 32)
            let numbers = Array(0..<16) + Array(20..<36) as [UInt64]
            for round in 0..<50 as Range<UInt64> {
                function.model.forget()
                let posted = Payload.write(0, at: 0x400, bytes(.u64(round)))
                try peer.send(message(Number.writeRegion, flags: HeaderFlags.noReply, posted))
                for bell in bells { bell.signal() }
                #expect(try peer.read(0, at: 0, count: 8).number == 33)
                let log = function.model.log
                #expect(log.first == .write(round, at: 0x400, byteCount: 8))
                for number in numbers {
                    #expect(log.count { $0 == .write(number, at: number * 8, byteCount: 4) } == 1)
                }
            }
        }
    }
}

/// A function that writes down what reaches it, by default with a doorbell of each kind: at 0x1000 for one value, at 0x1008 for
/// anything, at 0x1010 for any value of two bytes and for one of four. A read at 0 tells how much has been written down.
final class BellTower: PCIDeviceModel {
    enum Entry: Equatable, Sendable {
        case write(UInt64, at: UInt64, byteCount: Int)
        case reset
    }

    private let entries = Monitor<[Entry]>([])

    static let oneOfEach = [
        Doorbell(region: 0, offset: 0x1000, value: 0xab, byteCount: 4, rungBy: [.value(0xab, byteCount: 4)]),
        Doorbell(region: 0, offset: 0x1008, value: 0, byteCount: 8, rungBy: [.anyWrite]),
        Doorbell(
            region: 0, offset: 0x1010, value: 7, byteCount: 2,
            rungBy: [.anyValue(byteCount: 2), .value(9, byteCount: 4)]),
    ]

    static func makeFunction(_ doorbells: [Doorbell] = oneOfEach) -> PCIFunction<BellTower> {
        PCIFunction(
            PCIDescription(
                vendorID: 0x1b36, deviceID: 0x0d01, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
                bars: [
                    BaseAddressRegister(0, .memory64, byteCount: 0x10000),
                    BaseAddressRegister(2, .memory32, byteCount: 0x1000),
                ], doorbells: doorbells)
        ) { _ in BellTower() }
    }

    var log: [Entry] { entries.withLock { $0 } }
    func forget() { entries.withLock { $0 = [] } }
    func wait(until isSo: ([Entry]) -> Bool) { entries.wait { isSo($0) ? () : nil } }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        offset == 0 ? UInt64(entries.withLock { $0.count }) : 0
    }

    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        entries.update { $0.append(.write(value, at: offset, byteCount: byteCount)) }
    }

    func reset() { entries.update { $0.append(.reset) } }
}
