import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserServer
import VFIOUserSession
import VFIOUserWire
import VFIOUserCheck

private let base: UInt64 = 0x10_0000
private let capabilities = """
    {"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1048576, "twin_socket": {"supported": true}, \
    "pgsizes": 4096}}
    """

/// A client that was given a second socket, with memory at `base` that only messages reach.
private struct TwinClient {
    let main: RawPeer
    let twin: RawPeer
    let memory = PeerMemory(byteCount: 0x4000, at: base)

    init(_ peer: RawPeer) throws {
        main = peer
        let reply = try peer.negotiate(capabilities)
        #expect(reply.capabilities.contains(#""twin_socket":{"supported":true,"fd_index":0}"#))
        let descriptor = try #require(reply.descriptors.first)
        #expect(reply.descriptors.count == 1 && reply.strays.isEmpty)
        let copy = OwnedDescriptor(adopting: fcntl(descriptor.number, F_DUPFD_CLOEXEC, 0))
        twin = RawPeer(UNIXSocket(adopting: copy))
        try main.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
        try main.enableBusMaster()
    }
}

private func withTwin(_ body: (TwinClient) throws -> Void) throws {
    try withPeer(of: Edu.makeFunction(), negotiated: false) { try body(try TwinClient($0)) }
}

@Suite struct TwinSocket {
    @Test func `S34 S57 what the server asks and what it is answered goes over the second socket only`() throws {
        try withTwin { client in
            for place in stride(from: 0, to: 0x1000, by: 0x400) {
                // `call` takes nothing but the reply on the first socket.
                try client.main.startEduRead(from: base + UInt64(place), count: 1000)
                #expect(try client.memory.serve(client.twin, until: .reads(1)).map(\.count) == [1000])
                try client.main.waitForEdu()
                try client.main.startEduWrite(to: base + 0x2000, count: 1000)
                _ = try client.memory.serve(client.twin, until: .writes(1))
                #expect(client.memory.bytes[0x2000..<0x2000 + 1000] == client.memory.bytes[place..<place + 1000])
                try client.main.waitForEdu()
            }
        }
    }

    @Test func `S34 S60 over the second socket the client may leave the first unread and the other way round`() throws {
        try withTwin { client in
            try client.main.startEduRead(from: base, count: 64)
            let request = try client.memory.nextRequest(client.twin)
            for _ in 0..<100 { try client.main.succeed(Number.getDeviceInfo, Payload.deviceInfo()) }
            // Replies that nobody reads yet fill the first socket; the second goes on.
            let reads = message(Number.readRegion, Payload.read(7, at: 0, count: 256))
            var sent = 0
            while sent < 1 << 20 {
                guard let count = try? client.main.sendOnce(reads, waiting: false), count == reads.count else { break }
                sent += count
            }
            try client.memory.answer(request, client.twin)
            _ = try client.memory.serve(client.twin, until: .reads(1))
        }
    }

    @Test(
        arguments: [
            Payload.qemuCapabilities, #"{"capabilities":{"max_msg_fds":16,"twin_socket":{"supported":false}}}"#,
            #"{"capabilities":{"max_msg_fds":0,"max_dma_maps":65535,"twin_socket":{"supported":true},"pgsizes":4096}}"#,
        ])
    func `S34 a client that offers none, or takes no descriptor, gets none and is asked over the first`(json: String)
        throws
    {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.negotiate(json)
            #expect(reply.descriptors.isEmpty && !reply.capabilities.contains("fd_index"))
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
            try peer.enableBusMaster()
            try peer.startEduRead(from: base, count: 64)
            _ = try PeerMemory(byteCount: 0x4000, at: base).serve(peer, until: .reads(1))
            try peer.waitForEdu()
        }
    }

    @Test func `S34 an answer over the first socket is nobody's`() throws {
        try withTwin { client in
            try client.main.startEduRead(from: base, count: 64)
            let request = try client.memory.nextRequest(client.twin)
            try client.memory.answer(request, client.main)
            for _ in 0..<10 { #expect(try client.main.isEduTransferring()) }
            try client.memory.answer(request, client.twin)
            _ = try client.memory.serve(client.twin, until: .reads(1))
            try client.main.waitForEdu()
        }
    }

    @Test func `S34 a client that closes the second socket ends the transfers and nothing else`() throws {
        try withTwin { client in
            try client.main.startEduRead(from: base, count: 64)
            _ = try client.memory.nextRequest(client.twin)
            client.twin.close()
            try client.main.waitForEdu()
            // Nor is it asked over the first socket from now on: `call` would stumble over that.
            for _ in 0..<10 {
                try client.main.eduRead(from: base, count: 64)
                try client.main.eduWrite(to: base, count: 64)
            }
            // Memory that came with a descriptor is as good as ever.
            let shared = try ClientMemoryFile(byteCount: 0x1000)
            try client.main.succeed(Number.mapDMA, Payload.map(at: 0x20_0000, size: 0x1000), [shared.number])
            shared[0..<64] = pattern(64)
            try client.main.eduRead(from: 0x20_0000, count: 64)
            try client.main.eduWrite(to: 0x20_0800, count: 64)
            #expect(shared[0x800..<0x840] == pattern(64))
        }
    }

    @Test func `a client that closes the second socket and stays is told of, one that leaves is not`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            let leaver = try TwinClient(try server.connect(negotiated: false))
            leaver.main.close()
            leaver.twin.close()
            server.waitForGoneClients(1)
            #expect(server.lostTwinCount == 0)
            let client = try TwinClient(try server.connect(negotiated: false))
            client.twin.close()
            server.waitForLostTwins(1)
            try client.main.succeed(Number.getDeviceInfo, Payload.deviceInfo())
            #expect(server.lostTwinCount == 1)
        }
    }

    @Test func `S34 a command over the second socket is refused there and ends the connection`() throws {
        try withTwin { client in
            try client.twin.send(message(Number.getDeviceInfo, id: 5, Payload.deviceInfo()))
            let reply = try client.twin.receive()
            #expect(reply.id == 5 && reply.error == invalid)
            #expect(try client.main.isClosed())
            #expect(try client.twin.isClosed())
        }
    }

    @Test func `S34 bytes on the second socket that are no message end the connection`() throws {
        try withTwin { client in
            try client.twin.send([UInt8](repeating: 0, count: 16))
            #expect(try client.main.isClosed())
        }
    }

    @Test func `S34 a version message that wants no reply gets no second socket`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let posted = HeaderFlags.noReply
            try peer.send(message(Number.version, flags: posted, Payload.version(capabilities)))
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
            try peer.enableBusMaster()
            try peer.startEduRead(from: base, count: 64)
            _ = try PeerMemory(byteCount: 0x4000, at: base).serve(peer, until: .reads(1))
            try peer.waitForEdu()
        }
    }

    @Test func `S34 S16 clients with second sockets leave no descriptor behind, and those sent over them are closed`()
        async
    {
        await #expect(processExitsWith: .success) {
            try withServer(of: Edu.makeFunction()) { server in
                var count = 0
                for number in 1...300 {
                    let client = try TwinClient(try server.connect(negotiated: false))
                    // The transfer of the client before has been given up, but perhaps not noted yet.
                    try client.main.waitForEdu()
                    try client.main.startEduRead(from: base, count: 64)
                    let request = try client.memory.nextRequest(client.twin)
                    let counter = try EventCounter()
                    switch number % 4 {
                    case 0: break
                    case 1: client.twin.close()
                    case 2:
                        try client.memory.answer(request, client.twin)
                        let stray = message(Number.readClientMemory, id: 77, flags: HeaderFlags.reply)
                        try client.twin.send(stray, [counter.rawDescriptor])
                        _ = try client.memory.serve(client.twin, until: .reads(1))
                        try eventually { try Open.count(like: counter.rawDescriptor) == 1 }
                    default: try client.twin.send(message(Number.resetDevice))
                    }
                    client.main.close()
                    server.waitForGoneClients(number)
                    if number == 8 { count = try Open.all().count }
                }
                try eventually { try Open.all().count <= count }
            }
        }
    }
}
