import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserServer
import VFIOUserCheck

private let base: UInt64 = 0x10_0000

@Suite struct Lifecycle {
    @Test func `S99 a reset puts registers and configuration space back, and keeps memory and counters`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let counter = try EventCounter()
            let before = try peer.read(7, at: 0, count: 256)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try peer.connect(Interrupt.intx, to: [counter])
            try peer.enableBusMaster()
            try peer.write(7, at: 0x10, bytes(.u32(0xfe00_0000)))
            try peer.write(0, at: EduOffset.liveness, bytes(.u32(1)))
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 1)
            let reply = try peer.call(Number.resetDevice)
            #expect(reply.size == 16 && reply.error == nil)
            #expect(try peer.read(7, at: 0, count: 256) == before)
            #expect(try peer.read(0, at: EduOffset.liveness, count: 4).number == 0)
            #expect(try peer.read(0, at: EduOffset.interruptStatus, count: 4).number == 0)
            // Everything that the client connected still is.
            try peer.enableBusMaster()
            memory[0..<64] = pattern(64)
            try peer.eduRead(from: base, count: 64)
            try peer.eduWrite(to: base + 0x800, count: 64)
            #expect(memory[0x800..<0x840] == pattern(64))
            try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 1)
        }
    }

    @Test func `S99 a function-level reset through configuration space does the same`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(1)
            let before = try peer.read(7, at: 0, count: 256)
            let express = try #require(try peer.capability(0x10))
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: counters)
            try peer.write(0, at: VectorDevice.storage, pattern(16))
            try peer.write(7, at: UInt64(express) + 8, bytes(.u16(1 << 15)))
            #expect(try peer.read(7, at: 0, count: 256) == before)
            #expect(try peer.read(0, at: VectorDevice.storage, count: 16) == [UInt8](repeating: 0, count: 16))
            try peer.enableBusMaster()
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(0)))
            #expect(counters[0].drain() == 1)
        }
    }

    @Test func `S100 a client that leaves takes its memory and its counters along, and leaves the device as it is`()
        throws
    {
        try withServer(of: Edu.makeFunction()) { server in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let counters = try eventCounters(3)
            let first = try server.connect()
            try first.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try first.connect(Interrupt.intx, to: [counters[0]])
            try first.connect(Interrupt.msi, to: [counters[1]])
            try first.setInterrupts(
                SetFlags.descriptors | SetFlags.unmask, index: Interrupt.intx, count: 1, [counters[2]])
            try first.enableBusMaster()
            try first.write(0, at: EduOffset.liveness, bytes(.u32(0x55)))
            first.close()
            let ending = server.waitForGoneClients(1)
            let hasLeft = if case .clientLeft = ending { true } else { false }
            #expect(hasLeft)
            #expect(try Open.mappingCount(of: memory.number) == 1)
            #expect(try Open.count(like: memory.number) == 1)
            for counter in counters { #expect(try Open.count(like: counter.rawDescriptor) == 1) }
            // The next one starts from scratch with the protocol, not with the device.
            let second = try server.connect(negotiated: false)
            #expect(try second.call(Number.version, Payload.version(Payload.qemuCapabilities)).error == nil)
            #expect(try second.read(0, at: EduOffset.liveness, count: 4).number == 0xffff_ffaa)
            #expect(try second.call(Number.mapDMA, Payload.map(at: base, size: 0x2000)).error == nil)
            try second.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counters.allSatisfy { $0.drain() == 0 })
        }
    }

    /// A conversation that uses everything a client leaves behind.
    private func script(_ memory: ClientMemoryFile, _ counters: [EventCounter]) -> [(bytes: [UInt8], [Int32])] {
        let assign = SetFlags.descriptors | SetFlags.trigger
        let resample = SetFlags.descriptors | SetFlags.unmask
        func write(_ region: UInt32, _ offset: UInt64, _ data: [UInt8]) -> ([UInt8], [Int32]) {
            (message(Number.writeRegion, Payload.write(region, at: offset, data)), [])
        }
        return [
            (message(Number.version, Payload.version(Payload.qemuCapabilities)), []),
            (message(Number.mapDMA, Payload.map(at: base, size: 0x1000)), [memory.number]),
            (message(Number.mapDMA, Payload.map(at: base + 0x1000, size: 0x1000)), []),
            (message(Number.getDeviceInfo, Payload.deviceInfo()), []),
            (message(Number.readRegion, Payload.read(7, at: 0, count: 256)), []),
            (
                message(Number.setInterrupts, Payload.setInterrupts(assign, index: 0, count: 1)),
                [counters[0].rawDescriptor]
            ),
            (
                message(Number.setInterrupts, Payload.setInterrupts(resample, index: 0, count: 1)),
                [counters[1].rawDescriptor]
            ),
            write(7, 4, bytes(.u16(6))), write(0, EduOffset.interruptRaise, bytes(.u32(1))),
            // A transfer that needs an answer of the client, which never comes.
            write(0, EduOffset.dmaSource, bytes(.u64(base + 0x1000))),
            write(0, EduOffset.dmaDestination, bytes(.u64(EduOffset.memory))),
            write(0, EduOffset.dmaCount, bytes(.u64(64))), write(0, EduOffset.dmaCommand, bytes(.u64(1))),
            (message(Number.unmapDMA, Payload.unmap(at: base, size: 0x1000)), []),
            (message(Number.resetDevice), []),
        ]
    }

    @Test func `S101 a client may leave after any message, its answers unread, and the next one is served`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let counters = try eventCounters(2)
            let count = script(memory, counters).count
            for length in 0...count {
                let peer = try server.connect(negotiated: false)
                for (bytes, descriptors) in script(memory, counters).prefix(length) {
                    try peer.send(bytes, descriptors)
                }
                peer.close()
                server.waitForGoneClients(length + 1)
                #expect(try Open.mappingCount(of: memory.number) == 1)
                #expect(try Open.count(like: memory.number) == 1)
                for counter in counters { #expect(try Open.count(like: counter.rawDescriptor) == 1) }
            }
            let last = try server.connect()
            try last.succeed(Number.resetDevice)
            #expect(try last.read(0, at: 0, count: 4).number == 0x0100_00ed)
        }
    }

    @Test(arguments: [1, 15, 16, 17, 40, 47])
    func `S101 a client may leave in the middle of any message, and the next one is served`(count: Int) throws {
        try withServer(of: Edu.makeFunction()) { server in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let counters = try eventCounters(2)
            for (number, (bytes, descriptors)) in script(memory, counters).enumerated() {
                let peer = try server.connect(negotiated: number > 0)
                try peer.send(Array(bytes.prefix(min(count, bytes.count - 1))), descriptors)
                peer.close()
                server.waitForGoneClients(number + 1)
                #expect(try Open.count(like: memory.number) == 1)
                for counter in counters { #expect(try Open.count(like: counter.rawDescriptor) == 1) }
            }
            #expect(try server.connect().call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S101 a client may vanish with replies and requests of the server on their way`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            for round in 1...20 {
                let peer = try server.connect()
                try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
                try peer.enableBusMaster()
                try peer.startEduRead(from: base, count: 4096)
                for _ in 0..<4 { try peer.send(message(Number.readRegion, Payload.read(0, at: 0, count: 1 << 20))) }
                peer.close()
                server.waitForGoneClients(round)
            }
            #expect(try server.connect().call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S104 a device that is no bus master touches no memory`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try peer.succeed(Number.mapDMA, Payload.map(at: base + 0x1000, size: 0x1000))
            memory[0..<64] = pattern(64)
            try peer.enableBusMaster()
            try peer.eduRead(from: base, count: 64)
            try peer.write(7, at: 4, bytes(.u16(2)))
            try peer.eduWrite(to: base + 0x800, count: 64)
            try peer.eduRead(from: base + 0x800, count: 64)
            // Memory that only messages reach is not asked for either.
            try peer.eduRead(from: base + 0x1000, count: 64)
            #expect(memory[0x800..<0x840] == [UInt8](repeating: 0, count: 64))
            try peer.enableBusMaster()
            try peer.eduWrite(to: base + 0x800, count: 64)
            #expect(memory[0x800..<0x840] == pattern(64))
        }
    }

    @Test(arguments: [Interrupt.msi, Interrupt.msix])
    func `S104 a device that is no bus master sends no messages, and sends them when it is one`(index: UInt32) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(2)
            try peer.connect(index, to: counters)
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(1)))
            #expect(counters.map { $0.drain() } == [0, 0])
            try peer.enableBusMaster()
            #expect(counters.map { $0.drain() } == [0, 1])
        }
    }

    @Test func `S106 configuration space shows nothing that the protocol cannot carry`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let ids = try peer.capabilities()
            #expect(ids == [0x01, 0x05, 0x11, 0x10])
            // 0x000f ATS, 0x0010 SR-IOV, 0x0013 PRI, 0x001b PASID.
            #expect(try peer.extendedCapabilities().isEmpty)
        }
        try withPeer(of: Edu.makeFunction()) { peer in
            #expect(try peer.capabilities() == [0x05])
            let info = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(7))
            #expect(info.payload.u64(at: 16) == 256)
        }
    }
}

extension RawPeer {
    /// The capabilities of the first 256 bytes, in the order of their list.
    func capabilities() throws -> [UInt8] { try capabilityList().map(\.id) }

    /// Where the capability with an identifier is.
    func capability(_ id: UInt8) throws -> UInt8? { try capabilityList().first { $0.id == id }?.offset }

    private func capabilityList() throws -> [(id: UInt8, offset: UInt8)] {
        var found: [(id: UInt8, offset: UInt8)] = []
        var next = try read(7, at: 0x34, count: 1)[0]
        while next != 0, found.count < 48 {
            let header = try read(7, at: UInt64(next), count: 2)
            found.append((header[0], next))
            next = header[1]
        }
        return found
    }

    func extendedCapabilities() throws -> [UInt16] {
        var found: [UInt16] = []
        var next: UInt64 = 0x100
        while next >= 0x100, found.count < 100 {
            let header = try read(7, at: next, count: 4).number
            guard header != 0 else { break }
            found.append(UInt16(truncatingIfNeeded: header))
            next = header >> 20
        }
        return found
    }
}
