import CHeapCount
import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserTransport
import VFIOUserCheck

/// A request of a script.
private struct ScriptedRequest {
    let bytes: [UInt8]
    var descriptors: [Int32] = []
}

/// What a client received, down to the number of descriptors.
private struct ScriptedReply: Hashable {
    let bytes: [UInt8]
    let descriptorCount: Int
}

/// A conversation whose answers depend on nothing but what is asked: descriptors both ways, refusals, long messages.
private func script(_ memory: ClientMemoryFile, _ counters: [EventCounter]) -> [ScriptedRequest] {
    var script = [ScriptedRequest(bytes: message(Number.version, Payload.version(Payload.qemuCapabilities)))]
    func add(_ command: UInt16, _ payload: [UInt8] = [], flags: UInt32 = 0, _ descriptors: [Int32] = []) {
        let id = UInt16(script.count + 1)
        script.append(
            ScriptedRequest(bytes: message(command, id: id, flags: flags, payload), descriptors: descriptors))
    }
    add(Number.getDeviceInfo, Payload.deviceInfo())
    add(Number.getRegionInfo, Payload.regionInfo(0, argsz: 80))
    add(Number.getRegionInfo, Payload.regionInfo(50))
    for page in 0..<4 as Range<UInt64> {
        let map = Payload.map(at: page * 0x2000, size: 0x1000, offset: page * 0x1000)
        add(Number.mapDMA, map, [memory.number])
        add(Number.mapDMA, Payload.map(at: page * 0x2000, size: 0x2000))
        add(Number.writeRegion, Payload.write(0, at: page * 0x100, pattern(Int(page) * 600, seed: UInt8(page))))
    }
    add(
        Number.setInterrupts,
        Payload.setInterrupts(SetFlags.descriptors | SetFlags.trigger, index: Interrupt.intx, count: 1),
        [counters[0].rawDescriptor])
    add(
        Number.setInterrupts,
        Payload.setInterrupts(SetFlags.descriptors | SetFlags.unmask, index: Interrupt.intx, count: 1),
        [counters[1].rawDescriptor])
    let posted = Payload.write(0, at: 0x3000, pattern(3000, seed: 7))
    add(Number.writeRegion, posted, flags: HeaderFlags.noReply)
    add(Number.readRegion, Payload.read(0, at: 0x2000, count: 0x2000))
    for size in [1, 3, 8, 100] as [UInt32] { add(Number.readRegion, Payload.read(0, at: 0x3000, count: size)) }
    add(Number.dirtyPages, pattern(40))
    add(Number.unmapDMA, Payload.unmap(at: 0, size: 0x4000))
    add(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
    add(Number.resetDevice)
    return script
}

private func decorator(_ plan: FaultPlan) -> Decorator {
    { socket, role in
        switch role {
        case .main: FaultyTransport(socket, plan)
        case .twin: FaultyTransport(socket, plan, number: 1)
        }
    }
}

@Suite struct Faults {
    private func answers(_ decorate: @escaping Decorator, pipelined: Bool) throws -> [ScriptedReply] {
        let memory = try ClientMemoryFile(byteCount: 0x4000)
        let counters = try eventCounters(2)
        defer { withExtendedLifetime(counters) {} }
        var replies: [ScriptedReply] = []
        try withPeer(of: WindowDevice(), negotiated: false, decorate: decorate) { peer in
            var owed = 0
            func collect() throws {
                while owed > 0 {
                    let reply = try peer.receive()
                    #expect(reply.strays.isEmpty)
                    replies.append(ScriptedReply(bytes: reply.bytes, descriptorCount: reply.descriptors.count))
                    owed -= 1
                }
            }
            for request in script(memory, counters) {
                try peer.send(request.bytes, request.descriptors)
                if request.bytes.u32(at: 8) & HeaderFlags.noReply == 0 { owed += 1 }
                if !pipelined { try collect() }
            }
            try collect()
        }
        return replies
    }

    @Test func `S6 S7 S5 three hundred conversations with harmless faults get the answers of one without any`() throws {
        let expected = try answers({ socket, _ in socket }, pipelined: false)
        #expect(expected.count == 27 && expected.contains { $0.descriptorCount == 1 })
        #expect(expected.contains { $0.bytes.count > 0x2000 })
        for seed in 1...300 as ClosedRange<UInt64> {
            var plan = FaultPlan()
            plan.seed = seed
            plan.shortReads = .percent(seed % 101)
            plan.shortWrites = .percent(seed * 7 % 101)
            plan.interruptions = .percent(seed * 3 % 40)
            plan.refusals = .percent(seed * 5 % 40)
            plan.delays = .percent(seed % 10)
            plan.delay = .microseconds(20)
            #expect(plan.isHarmless)
            let found = try answers(decorator(plan), pipelined: seed % 2 == 0)
            #expect(found == expected, "seed \(seed)")
        }
    }

    @Test func `S57 transfers by messages work under harmless faults on both sockets`() throws {
        for seed in 1...30 as ClosedRange<UInt64> {
            let plan = try FaultPlan(
                parsing: "seed=\(seed),short-reads=50%,short-writes=50%,interruptions=20%,refusals=20%")
            try withPeer(of: Edu.makeFunction(), decorate: decorator(plan)) { peer in
                try peer.succeed(Number.mapDMA, Payload.map(at: 0x10_0000, size: 0x4000))
                try peer.enableBusMaster()
                let memory = PeerMemory(byteCount: 0x4000, at: 0x10_0000)
                try peer.startEduRead(from: 0x10_0000, count: 4096)
                _ = try memory.serve(peer, until: .reads(1))
                try peer.waitForEdu()
                try peer.startEduWrite(to: 0x10_1000, count: 4096)
                _ = try memory.serve(peer, until: .writes(1))
                #expect(memory.bytes[0x1000..<0x2000] == memory.bytes[0..<0x1000])
                try peer.waitForEdu()
            }
        }
    }

    /// In a process of its own, where nothing else opens a descriptor, starts a thread or allocates.
    @Test func `S16 S100 S103 six hundred conversations with harmful faults leave nothing behind`() async {
        await #expect(processExitsWith: .success) {
            let seeds = Monitor<UInt64>(0)
            let decorate: Decorator = { socket, role in
                guard case .main = role else { return socket }
                var plan = FaultPlan()
                plan.seed = seeds.withLock { seed in
                    seed += 1
                    return seed
                }
                plan.shortReads = .percent(20)
                plan.shortWrites = .percent(20)
                plan.interruptions = .percent(5)
                plan.refusals = .percent(5)
                plan.lostDescriptors = .percent(30)
                plan.swappedDescriptors = .percent(30)
                plan.flippedBits = .percent(plan.seed % 3 * 4)
                plan.cuts = .percent(plan.seed % 5)
                return FaultyTransport(socket, plan)
            }
            try withServer(of: WindowDevice(), decorate: decorate) { server in
                let memory = try ClientMemoryFile(byteCount: 0x4000)
                let counters = try eventCounters(2)
                defer { withExtendedLifetime(counters) {} }
                let script = script(memory, counters)
                var (descriptors, threads, bytes) = (0, 0, 0)
                for number in 1...600 {
                    let peer = try server.connect(negotiated: false)
                    for request in script {
                        guard (try? peer.send(request.bytes, request.descriptors)) != nil else { break }
                    }
                    // Whatever it makes of that, the server sees the end of it.
                    Glibc.shutdown(peer.socket.descriptor.rawValue, Int32(SHUT_WR))
                    var held: [HeldDescriptor] = []
                    while let part = try? peer.receivePart(atMost: 4096, &held), !part.isEmpty {}
                    server.waitForGoneClients(number)
                    if number == 200 {
                        descriptors = try Open.all().count
                        threads = try threadCount()
                        bytes = heap_bytes_in_use()
                    }
                }
                try eventually { try Open.all().count <= descriptors }
                try eventually { try threadCount() <= threads }
                let growth = heap_bytes_in_use() - bytes
                if growth > 65536 { throw Growth(bytes: growth) }
                guard try Open.mappingCount(of: memory.number) == 1 else { throw Growth(bytes: 0) }
            }
        }
    }
}

private func threadCount() throws -> Int {
    let status = try lines(of: "/proc/self/status")
    return status.first { $0.hasPrefix("Threads:") }.flatMap { Int($0.dropFirst(8).filter(\.isNumber)) } ?? 0
}

private struct Growth: Error {
    let bytes: Int
}
