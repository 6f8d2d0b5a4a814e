import DMA
import DeviceModel
import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserServer
import VFIOUserCheck

private let busy: UInt32 = 16

private func edus(_ count: Int) -> DeviceSupply {
    .forEachClient(maximum: count) { () throws(Errno) in try Edu.makeFunction() }
}

@Suite struct Clients {
    @Test func `S102 a second client of an exclusive device is refused, and the first does not notice`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            let first = try server.connect()
            for value in 0..<50 as Range<UInt32> {
                try first.write(0, at: EduOffset.liveness, bytes(.u32(value)))
                let second = try server.connect(negotiated: false)
                let reply = try second.call(Number.version, Payload.version(Payload.qemuCapabilities))
                #expect(reply.error == busy && reply.size == 16)
                #expect(try second.isClosed())
                #expect(try first.read(0, at: EduOffset.liveness, count: 4) == bytes(.u32(~value)))
            }
            #expect(server.refusedClientCount == 50)
            first.close()
            let third = try server.connect()
            #expect(try third.read(0, at: EduOffset.liveness, count: 4) == bytes(.u32(~49)))
        }
    }

    @Test func `S102 a refused client that says nothing, or something else, is closed in the end`() throws {
        var limits = ServerLimits()
        limits.refusalWait = .milliseconds(1)
        try withServer(of: .exclusive(Edu.makeFunction()), limits: limits) { server in
            let first = try server.connect()
            let descriptorCount = try Open.all().count
            let silent = try server.connect(negotiated: false)
            #expect(try silent.isClosed())
            let half = try server.connect(negotiated: false)
            // It may be closed already.
            try? half.send(Array(message(Number.version, Payload.version(nil)).prefix(17)))
            #expect(try half.isClosed())
            let other = try server.connect(negotiated: false)
            try? other.send(message(Number.resetDevice))
            #expect(try other.isClosed())
            server.waitForRefusedClients(3)
            // The three ends of this side are left, and not one of the other for each; the test library may open one.
            try eventually { try Open.all().count < descriptorCount + 6 }
            #expect(try first.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S102 more clients than are refused at once are closed without a word`() throws {
        var limits = ServerLimits()
        limits.refusals = 2
        limits.refusalWait = .seconds(120)
        try withServer(of: .exclusive(Edu.makeFunction()), limits: limits) { server in
            let first = try server.connect()
            let silent = [try server.connect(negotiated: false), try server.connect(negotiated: false)]
            server.waitForRefusedClients(2)
            let third = try server.connect(negotiated: false)
            #expect(try third.isClosed())
            for peer in silent {
                let reply = try peer.call(Number.version, Payload.version(nil))
                #expect(reply.error == busy)
            }
            #expect(try first.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S102 a refused version message that wants no reply gets none`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            let first = try server.connect()
            let second = try server.connect(negotiated: false)
            try second.send(message(Number.version, flags: HeaderFlags.noReply, Payload.version(nil)))
            #expect(try second.isClosed())
            #expect(try first.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S102 a client that comes when the one before has just gone is not refused`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            for number in 0..<200 {
                let peer = try server.connect()
                // Replies that nobody will read, so that there is something left to end.
                let count: UInt32 = number % 20 == 0 ? 0x40000 : 0x400
                for _ in 0..<3 { try peer.send(message(Number.readRegion, Payload.read(0, at: 0, count: count))) }
                peer.close()
            }
            #expect(server.refusedClientCount == 0)
        }
    }

    @Test func `S102 a client waits while the device of the one before lets go of its memory`() throws {
        let device = SlowToLeave()
        try withServer(of: device) { server in
            let first = try server.connect()
            first.close()
            device.waitUntilLeaving()
            let second = try server.connect(negotiated: false)
            try second.send(message(Number.version, Payload.version(Payload.qemuCapabilities)))
            // There is one place, and one waits for it.
            let third = try server.connect(negotiated: false)
            #expect(try third.call(Number.version, Payload.version(nil)).error == busy)
            device.mayLeave()
            #expect(try second.receive().error == nil)
            #expect(server.refusedClientCount == 1)
        }
    }

    @Test func `S102 a client that gives up waiting leaves its turn to the next`() throws {
        let device = SlowToLeave()
        try withServer(of: device) { server in
            try server.connect().close()
            device.waitUntilLeaving()
            try server.connect(negotiated: false).close()
            let third = try server.connect(negotiated: false)
            try third.send(message(Number.version, Payload.version(nil)))
            device.mayLeave()
            #expect(try third.receive().error == nil)
            #expect(server.refusedClientCount == 0)
        }
    }

    @Test func `each client has a device of its own, up to the maximum`() throws {
        try withServer(of: edus(3)) { server in
            let peers = [try server.connect(), try server.connect(), try server.connect()]
            for (number, peer) in peers.enumerated() {
                try peer.write(0, at: EduOffset.liveness, bytes(.u32(UInt32(number))))
            }
            for (number, peer) in peers.enumerated() {
                #expect(try peer.read(0, at: EduOffset.liveness, count: 4) == bytes(.u32(~UInt32(number))))
            }
            let fourth = try server.connect(negotiated: false)
            #expect(try fourth.call(Number.version, Payload.version(nil)).error == busy)
            peers[1].close()
            server.waitForGoneClients(1)
            // A device that was made for it, and not the one that was left.
            let fifth = try server.connect()
            #expect(try fifth.read(0, at: EduOffset.liveness, count: 4) == bytes(.u32(0)))
        }
    }

    @Test func `S20 clients that stall in every way hold up nobody else`() throws {
        try withServer(of: edus(5)) { server in
            let deaf = try server.connect()
            for _ in 0..<8 { try deaf.send(message(Number.readRegion, Payload.read(0, at: 0, count: 1 << 20))) }
            let half = try server.connect()
            try half.send(Array(message(Number.writeRegion, Payload.write(0, at: 4, [1, 2, 3, 4])).prefix(20)))
            let mute = try server.connect()
            try mute.succeed(Number.mapDMA, Payload.map(at: 0, size: 0x1000))
            try mute.enableBusMaster()
            try mute.startEduRead(from: 0, count: 64)
            #expect(try mute.receive().command == Number.writeClientMemory)
            let silent = try server.connect(negotiated: false)
            let working = try server.connect()
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            try working.succeed(Number.mapDMA, Payload.map(at: 0, size: 0x1000), [memory.number])
            try working.enableBusMaster()
            memory[0..<64] = pattern(64)
            for _ in 0..<100 {
                try working.eduRead(from: 0, count: 64)
                try working.eduWrite(to: 0x800, count: 64)
                #expect(memory[0x800..<0x840] == pattern(64))
            }
            // All of them are still clients.
            #expect(!half.socket.isHungUp && !silent.socket.isHungUp)
            #expect(try server.connect(negotiated: false).call(Number.version, Payload.version(nil)).error == busy)
        }
    }

    @Test func `a device that cannot be made costs its client the connection, and nobody else`() throws {
        let attempts = Monitor(0)
        let supply = DeviceSupply.forEachClient(maximum: 2) { () throws(Errno) in
            let number = attempts.withLock { count in
                count += 1
                return count
            }
            guard number != 2 else { throw .noSpace }
            return try Edu.makeFunction()
        }
        try withServer(of: supply) { server in
            let first = try server.connect()
            #expect(try server.connect(negotiated: false).isClosed())
            #expect(try first.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
            #expect(try server.connect().call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }
}

/// In a process of its own, whose limit on descriptors nobody else minds.
@Suite struct `A server without a descriptor left` {
    @Test func `S102 serves who it has, and takes the next client when there is one again`() async {
        await #expect(processExitsWith: .success) {
            try withServer(of: edus(2)) { server in
                let first = try server.connect()
                let socket = try UNIXSocket.newUnconnected()
                var limit = rlimit()
                unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                var none = limit
                // Descriptors are given out from the lowest number on; this one is the last that there can be.
                none.rlim_cur = rlim_t(socket.descriptor.rawValue) + 1
                unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &none)
                try socket.connect(to: server.path)
                server.waitForUnservedClients(1)
                try first.succeed(Number.getDeviceInfo, Payload.deviceInfo())
                unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                try RawPeer(socket).negotiate()
            }
        }
    }
}

/// In a process of its own, where nothing else opens a descriptor or starts a thread.
@Suite struct `The end of a server` {
    @Test func `S100 leaves no thread and no descriptor of any client, whatever they are doing`() async {
        await #expect(processExitsWith: .success) {
            let descriptorCount = try Open.all().count
            let threadCount = try Threads.count()
            let rounds = 10
            for _ in 0..<rounds {
                var peers: [RawPeer] = []
                let supply = DeviceSupply.forEachClient(maximum: 4) { () throws(Errno) in try Edu.makeFunction() }
                try withServer(of: supply) { server in
                    for _ in 0..<4 { peers.append(try server.connect()) }
                    let request = message(Number.readRegion, Payload.read(0, at: 0, count: 0x20000))
                    for _ in 0..<4 { try peers[0].send(request) }
                    try peers[1].send([1, 2, 3])
                    try peers[2].succeed(Number.mapDMA, Payload.map(at: 0, size: 0x1000))
                    try peers[2].enableBusMaster()
                    try peers[2].startEduRead(from: 0, count: 64)
                    // One that is being refused.
                    peers.append(try server.connect(negotiated: false))
                }
                // Each finds its connection closed.
                #expect(try peers[3].isClosed())
            }
            // The threads have been joined, but the kernel may still list one that is about to be gone.
            try eventually { try Threads.count() == threadCount }
            // Not one for each time; the test library opens a few of its own when it sees fit.
            #expect(try Open.all().count < descriptorCount + rounds)
        }
    }
}

extension UNIXSocket {
    fileprivate static func newUnconnected() throws -> UNIXSocket {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Errno(rawValue: errno) }
        return UNIXSocket(adopting: OwnedDescriptor(adopting: descriptor))
    }

    fileprivate func connect(to path: String) throws {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let status = unsafe withUnsafePointer(to: &address) { address in
            unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                unsafe Glibc.connect(descriptor.rawValue, address, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard status == 0 else { throw Errno(rawValue: errno) }
    }
}

/// This process's threads.
private enum Threads {
    static func count() throws -> Int {
        guard let directory = unsafe opendir("/proc/self/task") else { throw Errno(rawValue: errno) }
        defer { unsafe closedir(directory) }
        var count = 0
        while unsafe readdir(directory) != nil { count += 1 }
        return count
    }
}

/// A device without anything that takes its time to give memory back, once.
private final class SlowToLeave: Device {
    let regions = [DeviceModel.Region](repeating: .absent, count: 9)
    let interrupts = InterruptSet(counts: [:])
    private let state = Monitor((isLeaving: false, mayLeave: false))

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {}
    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {}
    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}

    func detach() {
        state.update { $0.isLeaving = true }
        // For ever only if the test has failed.
        _ = state.wait(until: .after(.seconds(120))) { $0.mayLeave ? () : nil }
    }

    func waitUntilLeaving() { state.wait { $0.isLeaving ? () : nil } }
    func mayLeave() { state.update { $0.mayLeave = true } }
}
