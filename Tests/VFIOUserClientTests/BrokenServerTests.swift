import Glibc
import LinuxHost
import Testing
import VFIOUserClient
import VFIOUserWire

/// Servers that answer each command with the bytes that the test has put down for it. A client's IDs count from one.
@Suite struct BrokenServers {
    /// What a server sends when it has received a command: any bytes, with a descriptor if it has one.
    private struct Step {
        let bytes: [UInt8]
        var descriptor: Int32?
    }

    /// Runs `body` with a client whose server answers the version and then, command by command, with `steps`.
    ///
    /// - Parameter closing: whether the server closes after the last of them.
    /// - Returns: all messages that the client sent.
    @discardableResult
    private func withScript(
        _ steps: [Step], closing: Bool = false, _ body: (Client) throws -> Void
    ) throws -> [[UInt8]] {
        let (ours, theirs) = try UNIXSocket.pair()
        let log = Monitor<[[UInt8]]>([])
        let all = [Step(bytes: version)] + steps
        let thread = try OSThread(name: "script") {
            var rest = all[...]
            while let received = try? readMessage(from: theirs) {
                log.withLock { $0.append(received) }
                guard received[8] & 1 == 0, let step = rest.popFirst() else { continue }
                try? write(step.bytes, to: theirs, step.descriptor)
                if closing, rest.isEmpty { theirs.shutdown() }
            }
        }
        do {
            // The end of the connection is the end of the thread.
            defer {
                ours.shutdown()
                thread.join()
            }
            try body(try Client(ours))
        }
        return log.withLock { $0 }
    }

    private func withReplies(_ replies: [[UInt8]], closing: Bool = false, _ body: (Client) throws -> Void) throws {
        try withScript(replies.map { Step(bytes: $0) }, closing: closing, body)
    }

    @Test func `a reply to nothing closes the connection`() throws {
        try withReplies([message(4, id: 77, deviceInfo), message(4, id: 2, deviceInfo)]) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .malformed(.wrongDirection(.getDeviceInfo)))
            let next = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(next == .closed)
        }
    }

    @Test func `a reply that names another command closes the connection`() throws {
        try withReplies([message(7, id: 2, deviceInfo)]) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .malformed(.wrongDirection(.getInterruptInfo)))
        }
    }

    @Test(arguments: [0, 4, 15])
    func `a reply that is too short closes the connection`(byteCount: Int) throws {
        try withReplies([message(4, id: 2, Array(deviceInfo.prefix(byteCount)))]) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .malformed(.payloadTooShort(minimum: 16, actual: byteCount)))
        }
    }

    @Test func `a reply that claims more than any reply may have closes the connection`() throws {
        try withReplies([Array(message(4, id: 2, deviceInfo).prefix(4)) + little(0xffff_ffff, 4) + little(1, 8)]) {
            client in
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .malformed(.messageTooLong(maximum: (1 << 20) + 64, actual: 0xffff_ffff)))
        }
    }

    @Test(arguments: [0, 1, 15, 16, 20, 31])
    func `a server that closes in the middle of a reply is gone`(byteCount: Int) throws {
        try withReplies([Array(message(4, id: 2, deviceInfo).prefix(byteCount))], closing: true) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .closed)
        }
    }

    @Test func `a server that does not answer is given up after the time that was set`() throws {
        try withReplies([]) { client in
            client.replyTimeout = .milliseconds(20)
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .timedOut)
            let next = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(next == .closed)
        }
    }

    @Test func `data of another place than was asked for are not taken`() throws {
        let reply = little(8, 8) + little(0, 4) + little(4, 4) + little(0xdead_beef, 4)
        try withReplies([message(9, id: 2, reply)]) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.readRegion(0, at: 4, byteCount: 4) }
            #expect(error == .unexpectedReply(.readRegion))
        }
    }

    @Test(arguments: [81, 1 << 21])
    func `a region that needs ever more room is given up`(room: UInt64) throws {
        func info(_ room: UInt64) -> [UInt8] {
            little(room, 4) + little(7, 4) + little(0, 4) + little(0, 4) + little(4096, 8) + little(0, 8)
        }
        try withReplies([message(5, id: 2, info(80)), message(5, id: 3, info(room))]) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.regionInfo(0) }
            #expect(error == .unexpectedReply(.getRegionInfo))
        }
    }

    @Test(arguments: [(0x1000, 0x1001), (0, .max), (.max, 1), (0x2000, 0x1000)] as [(UInt64, UInt64)])
    func `an area beyond its region or its file is not mapped`(offset: UInt64, size: UInt64) throws {
        let file = try OwnedDescriptor.anonymousMemory(name: "region", byteCount: 0x1000)
        let info =
            little(64, 4) + little(15, 4) + little(0, 4) + little(32, 4) + little(0x2000, 8) + little(0, 8)
            + little(1, 2) + little(1, 2) + little(0, 4) + little(1, 4) + little(0, 4) + little(offset, 8)
            + little(size, 8)
        let steps = [
            Step(bytes: message(5, id: 2, Array(info.prefix(32)))),
            Step(bytes: message(5, id: 3, info), descriptor: file.rawValue),
        ]
        try withScript(steps) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.mapRegion(0) }
            #expect(error == .system(.invalidArgument))
        }
    }

    @Test func `doorbells that need ever more room are given up`() throws {
        func answer(_ room: UInt64) -> [UInt8] { little(room, 4) + little(0, 4) + little(0, 4) + little(1, 4) }
        try withReplies([message(6, id: 2, answer(56)), message(6, id: 3, answer(57))]) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.doorbells(0) }
            #expect(error == .unexpectedReply(.getRegionIODescriptors))
        }
    }

    /// A descriptor that is not there, or is no event counter; a write of nine bytes.
    @Test(arguments: [(1, 4, true), (0, 4, false), (0, 9, true)] as [(UInt64, UInt64, Bool)])
    func `a doorbell that makes no sense is not taken`(
        descriptorIndex: UInt64, size: UInt64, isCounter: Bool
    ) throws {
        let counter = try EventCounter()
        let file = try OwnedDescriptor.anonymousMemory(name: "no counter", byteCount: 8)
        let start = little(56, 4) + little(0, 4) + little(0, 4) + little(1, 4)
        let entry =
            little(0x98, 8) + little(size, 8) + little(descriptorIndex, 4) + little(0, 4) + little(1, 4)
            + little(0, 4) + little(1, 8)
        let descriptor = isCounter ? counter.rawDescriptor : file.rawValue
        let steps = [
            Step(bytes: message(6, id: 2, start)),
            Step(bytes: message(6, id: 3, start + entry), descriptor: descriptor),
        ]
        try withScript(steps) { client in
            let error = errorOf { () throws(ClientError) in _ = try client.doorbells(0) }
            #expect(error == .unexpectedReply(.getRegionIODescriptors))
        }
        #expect(counter.drain() == 0)
    }

    /// The reference server's shadow ioeventfds: entries of 48 bytes, of kind 2.
    @Test func `doorbells of a kind that is not known are passed over`() throws {
        let counter = try EventCounter()
        func entry(at offset: UInt64, kind: UInt64) -> [UInt8] {
            little(offset, 8) + little(4, 8) + little(0, 4) + little(kind, 4) + little(1, 4) + little(7, 4)
                + little(1, 8) + little(0, 8)
        }
        let start = little(112, 4) + little(0, 4) + little(0, 4) + little(2, 4)
        let entries = entry(at: 0x90, kind: 2) + entry(at: 0x98, kind: 0)
        let steps = [
            Step(bytes: message(6, id: 2, start)),
            Step(bytes: message(6, id: 3, start + entries), descriptor: counter.rawDescriptor),
            Step(bytes: message(4, id: 4, deviceInfo)),
        ]
        try withScript(steps) { client in
            let doorbells = try client.doorbells(0)
            #expect(doorbells.map(\.offset) == [0x98])
            // The connection is of use still.
            #expect(try client.deviceInfo().regionCount == 9)
        }
    }

    /// A request of the server, and the error number that the client answers to it.
    @Test(
        arguments: [
            // Not mapped, in part not mapped, past the top; no right to write; too many bytes; nothing at all.
            (message(11, id: 9, flags: 0, little(0x5000, 8) + little(16, 8)), 19),
            (message(11, id: 9, flags: 0, little(0x1ff8, 8) + little(16, 8)), 19),
            (message(11, id: 9, flags: 0, little(.max, 8) + little(16, 8)), 19),
            (message(12, id: 9, flags: 0, little(0x1000, 8) + little(4, 8) + little(1, 4)), 1),
            (message(11, id: 9, flags: 0, little(0x1000, 8) + little((1 << 20) + 1, 8)), 7),
            (message(11, id: 9, flags: 0, little(0x1000, 8) + little(.max, 8)), 22),
            (message(11, id: 9, flags: 0, little(0x1000, 8)), 22), (message(12, id: 9, flags: 0), 22),
            (message(12, id: 9, flags: 0, little(0x1000, 8) + little(8, 8) + little(1, 4)), 22),
            // Requests that no server may make.
            (message(2, id: 9, flags: 0, little(0, 8)), 38), (message(99, id: 9, flags: 0), 38),
        ] as [([UInt8], UInt64)])
    func `a request that cannot be carried out is refused with its error, and the client goes on`(
        request: [UInt8], number: UInt64
    ) throws {
        let steps = [Step(bytes: message(2, id: 2)), Step(bytes: request + message(4, id: 3, deviceInfo))]
        let sent = try withScript(steps) { client in
            let memory = try SharedMemory(byteCount: 0x1000)
            try client.map(memory, byteCount: 0x1000, at: 0x1000, rights: .read, sharing: .messages)
            let info = try client.deviceInfo()
            #expect(info.regionCount == 9)
            #expect(memory.read(0..<16) == [UInt8](repeating: 0, count: 16))
        }
        let refusal = little(9, 2) + request[2..<4] + little(16, 4) + little(0x21, 4) + little(number, 4)
        #expect(sent.contains(refusal))
    }

    @Test func `memory can be asked for in the same breath in which it is agreed to`() throws {
        let request = message(11, id: 9, flags: 0, little(0x1000, 8) + little(4, 8))
        let steps = [Step(bytes: message(2, id: 2) + request), Step(bytes: message(4, id: 3, deviceInfo))]
        let sent = try withScript(steps) { client in
            let memory = try SharedMemory(byteCount: 0x1000)
            memory.write([1, 2, 3, 4], at: 0)
            try client.map(memory, byteCount: 0x1000, at: 0x1000, sharing: .messages)
            _ = try client.deviceInfo()
        }
        #expect(sent.contains(message(11, id: 9, little(0x1000, 8) + little(4, 8) + [1, 2, 3, 4])))
    }

    @Test func `memory that the server refuses is not there`() throws {
        let refusal = little(2, 2) + little(2, 2) + little(16, 4) + little(0x21, 4) + little(22, 4)
        let request = message(11, id: 9, flags: 0, little(0x1000, 8) + little(4, 8))
        let sent = try withScript([
            Step(bytes: refusal), Step(bytes: request + message(4, id: 3, deviceInfo)),
        ]) { client in
            let memory = try SharedMemory(byteCount: 0x1000)
            let error = errorOf { () throws(ClientError) in
                try client.map(memory, byteCount: 0x1000, at: 0x1000, sharing: .messages)
            }
            #expect(error == .refused(.mapDMA, errorNumber: 22))
            _ = try client.deviceInfo()
        }
        #expect(sent.contains(little(9, 2) + little(11, 2) + little(16, 4) + little(0x21, 4) + little(19, 4)))
    }

    @Test func `a request that wants no reply gets none`() throws {
        let request = message(12, id: 9, flags: 0x10, little(0x1000, 8) + little(4, 8) + little(0x0403_0201, 4))
        let steps = [Step(bytes: message(2, id: 2)), Step(bytes: request + message(4, id: 3, deviceInfo))]
        let sent = try withScript(steps) { client in
            let memory = try SharedMemory(byteCount: 0x1000)
            try client.map(memory, byteCount: 0x1000, at: 0x1000, sharing: .messages)
            _ = try client.deviceInfo()
            #expect(memory.read(0..<4) == [1, 2, 3, 4])
        }
        let start = little(9, 2) + little(12, 2)
        #expect(sent.allSatisfy { !$0.starts(with: start) })
    }
}

/// Servers that ask and ask, or take nothing.
@Suite struct GreedyServers {
    /// Runs `body` with a client whose server answers the version and then does `serve`, until the client is done.
    private func withServer(
        _ serve: @escaping @Sendable (UNIXSocket, _ isDone: Monitor<Bool>) throws -> Void,
        _ body: (Client) throws -> Void
    ) throws {
        let (ours, theirs) = try UNIXSocket.pair()
        let isDone = Monitor(false)
        let thread = try OSThread(name: "greedy") {
            guard (try? readMessage(from: theirs)) != nil else { return }
            try? write(version, to: theirs)
            try? serve(theirs, isDone)
            theirs.shutdown()
        }
        defer {
            isDone.update { $0 = true }
            ours.shutdown()
            thread.join()
        }
        try body(try Client(ours))
    }

    /// So that a client that is held for ever fails its test, and does not hold that as well.
    private static let patience = Duration.seconds(20)

    /// Asks for what wants no reply until the client has gone.
    private static func flood(_ socket: UNIXSocket, _: Monitor<Bool>) throws {
        let request = message(12, id: 9, flags: 0x10, little(0x1000, 8) + little(4, 8) + little(1, 4))
        let requests = Array(repeatElement(request, count: 500).joined())
        let end = MonotonicInstant.after(patience)
        while MonotonicInstant.now < end { try write(requests, to: socket) }
    }

    @Test func `a server that never stops asking does not keep the client from giving up`() throws {
        try withServer(Self.flood) { client in
            client.replyTimeout = .milliseconds(50)
            let error = errorOf { () throws(ClientError) in _ = try client.deviceInfo() }
            #expect(error == .timedOut)
        }
    }

    @Test func `a server that never stops asking is served no longer than was said`() throws {
        try withServer(Self.flood) { client in
            try client.serveRequests(for: .milliseconds(50))
            let counter = try EventCounter()
            #expect(try client.wait(for: counter, atMost: .milliseconds(50)) == 0)
        }
    }

    @Test func `a server that takes nothing is given up after the time that was set`() throws {
        try withServer { _, isDone in
            _ = isDone.wait(until: .after(Self.patience)) { $0 ? true : nil }
        } _: { client in
            client.replyTimeout = .milliseconds(50)
            let error = errorOf { () throws(ClientError) in
                try client.writeRegion(0, at: 0, [UInt8](repeating: 1, count: 8 << 20), posted: true)
            }
            #expect(error == .timedOut)
        }
    }

    @Test func `what a server asks for and does not take is not piled up`() throws {
        let count = Monitor(0)
        try withServer { socket, isDone in
            let request = message(11, id: 9, flags: 0, little(0x1000, 8) + little(4096, 8))
            while !isDone.withLock({ $0 }), count.withLock({ $0 }) < 50_000 {
                let sent = unsafe request.withUnsafeBytes { bytes in
                    unsafe try? socket.send(bytes, descriptors: DescriptorBundle(), waiting: false)
                }
                if sent == request.count { count.withLock { $0 += 1 } }
            }
            _ = isDone.wait(until: .after(Self.patience)) { $0 ? true : nil }
        } _: { client in
            // Nothing is mapped there, and each request costs the client a refusal.
            try client.serveRequests(for: .seconds(1))
        }
        // What the two sockets and the client's buffer hold is far less.
        #expect(count.withLock { $0 } < 20_000)
    }

    @Test func `a server that takes its answers late gets them all`() throws {
        try withServer { socket, isDone in
            _ = try readMessage(from: socket)
            try write(message(2, id: 2), to: socket)
            _ = try readMessage(from: socket)
            let request = message(11, id: 9, flags: 0, little(0x1000, 8) + little(0x1000, 8))
            try write(Array(repeatElement(request, count: 1000).joined()), to: socket)
            // The client has filled the socket and holds back the others meanwhile.
            _ = isDone.wait(until: .after(.milliseconds(20))) { $0 ? true : nil }
            for _ in 0..<1000 { _ = try readMessage(from: socket) }
            try write(message(4, id: 3, deviceInfo), to: socket)
        } _: { client in
            client.replyTimeout = Self.patience
            let memory = try SharedMemory(byteCount: 0x1000)
            try client.map(memory, byteCount: 0x1000, at: 0x1000, sharing: .messages)
            #expect(try client.deviceInfo().regionCount == 9)
        }
    }
}

private let version = message(1, id: 1, little(0, 4) + Array(#"{"capabilities":{"max_msg_fds":16}}"#.utf8) + [0])

/// A whole message as it comes.
private func readMessage(from socket: UNIXSocket) throws(Errno) -> [UInt8] {
    var bytes: [UInt8] = []
    func read(upTo count: Int) throws(Errno) {
        while bytes.count < count {
            var part = [UInt8](repeating: 0, count: count - bytes.count)
            let received = unsafe recv(socket.descriptor.rawValue, &part, part.count, 0)
            guard received > 0 else { throw .brokenPipe }
            bytes += part.prefix(received)
        }
    }
    try read(upTo: 16)
    try read(upTo: Int(bytes[4]) | Int(bytes[5]) << 8 | Int(bytes[6]) << 16)
    return bytes
}

private func write(_ bytes: [UInt8], to socket: UNIXSocket, _ descriptor: Int32? = nil) throws {
    var bundle = DescriptorBundle(adopting: descriptor.map { [$0] } ?? [])
    defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
    var failure: Errno?
    unsafe bytes.withUnsafeBytes { buffer in
        do throws(Errno) {
            _ = unsafe try socket.send(buffer, descriptors: bundle, waiting: true)
        } catch {
            failure = error
        }
    }
    if let failure { throw failure }
}

private func little(_ value: UInt64, _ byteCount: Int) -> [UInt8] {
    (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

/// A whole message, a reply unless `flags` say otherwise.
private func message(_ command: UInt64, id: UInt64, flags: UInt64 = 1, _ payload: [UInt8] = []) -> [UInt8] {
    let size = UInt64(16 + payload.count)
    return [little(id, 2), little(command, 2), little(size, 4), little(flags, 4), little(0, 4), payload].flatMap { $0 }
}

private let deviceInfo = little(16, 4) + little(3, 4) + little(9, 4) + little(5, 4)
