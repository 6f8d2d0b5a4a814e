import LinuxHost
import Testing
import VFIOUserRecording
import VFIOUserTransport
import VFIOUserWire

@Suite struct `A second socket for the server's requests` {
    private static let version = MessageWriter.message(.version) { VersionMessage(major: 0, minor: 0).write(to: &$0) }
    private static let versionReply = MessageWriter.message(.version, .reply) {
        VersionMessage(major: 0, minor: 0).write(to: &$0)
    }
    private static let read = MessageWriter.message(.readClientMemory, id: 7) {
        ClientMemoryAccess(address: 0x1000, count: 4).write(to: &$0)
    }
    private static let readReply = MessageWriter.message(.readClientMemory, id: 7, .reply) {
        ClientMemoryAccess(address: 0x1000, count: 4).write(to: &$0)
        $0.append(contentsOf: [1, 2, 3, 4])
    }

    private func send(
        _ bytes: [UInt8], _ descriptors: borrowing DescriptorBundle = DescriptorBundle(), over transport: any Transport
    ) throws {
        let count = try unsafe bytes.withUnsafeBytes {
            unsafe try transport.send($0, descriptors: descriptors, waiting: true)
        }
        #expect(count == bytes.count)
    }

    private func receive(over transport: any Transport) throws -> [UInt8] {
        var room = [UInt8](repeating: 0, count: 256)
        let count = try unsafe room.withUnsafeMutableBytes {
            unsafe try transport.receive(into: $0, waiting: true).count
        }
        return Array(room.prefix(count))
    }

    /// The socket that comes with the reply to the version message.
    private func receiveSocket(over client: UNIXSocket) throws -> UNIXSocket {
        var room = [UInt8](repeating: 0, count: 256)
        var number: Int32 = -1
        try unsafe room.withUnsafeMutableBytes {
            var received = unsafe try client.receive(into: $0, waiting: true)
            number = received.descriptors.takeFirst()?.take() ?? -1
        }
        try #require(number >= 0)
        return UNIXSocket(adopting: OwnedDescriptor(adopting: number))
    }

    /// What a server does that asks over the second socket, with message IDs of its own from `id` on.
    private func serve(over main: any Transport, id: UInt8, twin: (UNIXSocket) -> any Transport) throws {
        #expect(try receive(over: main) == Self.version)
        let (ours, theirs) = try UNIXSocket.pair()
        var descriptors = DescriptorBundle()
        descriptors.append(try theirs.descriptor.duplicate())
        try send(Self.versionReply, descriptors, over: main)
        let transport = twin(ours)
        try send([id, 0] + Self.read.dropFirst(2), over: transport)
        #expect(try receive(over: transport) == [id, 0] + Self.readReply.dropFirst(2))
    }

    /// More than the socket holds: the rest must go when there is room, without another word of the server.
    @Test func `a long answer goes over it to its end`() throws {
        let count = 1 << 20
        let read = MessageWriter.message(.readClientMemory, id: 7) {
            ClientMemoryAccess(address: 0x1000, count: count).write(to: &$0)
        }
        let reply = MessageWriter.message(.readClientMemory, id: 7, .reply) {
            ClientMemoryAccess(address: 0x1000, count: count).write(to: &$0)
            $0.appendZeros(count)
        }
        let info = MessageWriter.message(.getDeviceInfo, id: 1) { DeviceInfoRequest().write(to: &$0) }
        let refusal = MessageWriter.message(.getDeviceInfo, id: 1, .reply)
        let messages: [RecordedMessage] = [
            .init(direction: .toServer, bytes: Self.version), .init(direction: .toClient, bytes: Self.versionReply),
            .init(direction: .toServer, bytes: info),
            .init(direction: .toClient, socket: .twin, bytes: read),
            .init(direction: .toServer, socket: .twin, bytes: reply),
            .init(direction: .toClient, bytes: refusal),
        ]
        let entries = messages.map { RecordingEntry(time: 0, conversation: 1, event: .message($0)) }
        let (player, played) = try UNIXSocket.pair()
        let server = try OSThread(name: "server") {
            do {
                _ = try receive(over: played)
                let (ours, theirs) = try UNIXSocket.pair()
                var descriptors = DescriptorBundle()
                descriptors.append(try theirs.descriptor.duplicate())
                try send(Self.versionReply, descriptors, over: played)
                _ = try receive(over: played)
                try send(read, over: ours)
                var received = 0
                while received < reply.count {
                    let part = try receive(over: ours)
                    if part.isEmpty { break }
                    received += part.count
                }
                #expect(received == reply.count)
                try send(refusal, over: played)
            } catch {
                Issue.record(error)
            }
            played.shutdown()
        }
        var replay = Replay()
        var options = Replay.Options()
        options.patience = .seconds(20)
        try replay.play(entries, conversation: 1, over: player, options: options)
        server.join()
        #expect(replay.matchedCount == 3)
    }

    @Test func `is recorded as such and played again`() throws {
        let directory = try TemporaryDirectory()
        let recorder = try Recorder(
            StorageFile(creatingPath: directory.path + "/file"), served: "twin", wallClock: 0
        ) { Issue.record("\($0)") }
        let (client, server) = try UNIXSocket.pair()
        let thread = try OSThread(name: "client") {
            do {
                try send(Self.version, over: client)
                let twin = try receiveSocket(over: client)
                #expect(try receive(over: twin) == Self.read)
                try send(Self.readReply, over: twin)
            } catch {
                Issue.record(error)
            }
        }
        let main = recorder.transport(over: server)
        try serve(over: main, id: 7) { recorder.transport(over: $0, as: .twin(of: main)) }
        thread.join()
        main.shutdown()
        recorder.finish()

        var reader = try RecordingReader(try directory.read("file"))
        let entries = try reader.all()
        let messages = entries.compactMap(\.message)
        #expect(messages.map(\.socket) == [.main, .main, .twin, .twin])
        #expect(messages.map(\.bytes) == [Self.version, Self.versionReply, Self.read, Self.readReply])
        #expect(messages[1].descriptors.map(\.kind) == [.socket])
        #expect(Set(entries.map(\.conversation)) == [0, 1])

        let (player, played) = try UNIXSocket.pair()
        let again = try OSThread(name: "server") {
            do {
                try serve(over: played, id: 9) { $0 }
            } catch {
                Issue.record(error)
            }
        }
        var replay = Replay()
        try replay.play(entries, conversation: 1, over: player)
        again.join()
        #expect(replay.differences.isEmpty, "\(replay.differences)")
        #expect(replay.matchedCount == 2)
        #expect(replay.allowed == [.requestNumber: 1])
    }
}
