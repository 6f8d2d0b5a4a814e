import DeviceModel
import Edu
import LinuxHost
import PCI
import Testing
import VFIOUserClient
import VFIOUserRecording
import VFIOUserTransport
import VFIOUserWire

@Suite struct `Recording` {
    /// What is recorded while `body` is a client of edu.
    private func recording(
        memory: Bool = false, _ body: (Client) throws -> Void
    ) throws -> [RecordingEntry] {
        let directory = try TemporaryDirectory()
        let recorder = try Recorder(
            StorageFile(creatingPath: directory.path + "/file"), served: "edu", wallClock: 7, recordsMemory: memory
        ) { Issue.record("\($0)") }
        do {
            defer { recorder.finish() }
            try serving(try Edu.makeFunction(), decorate: { recorder.transport(over: $0, as: $1) }) { socket in
                let client = try Client(socket)
                client.replyTimeout = .seconds(60)
                try body(client)
            }
        }
        var reader = try RecordingReader(try directory.read("file"))
        let entries = try reader.all()
        #expect(!reader.isCut)
        return entries
    }

    @Test func `every message is there, in order, with its bytes and what its descriptors stand for`() throws {
        let memory = try SharedMemory(byteCount: 8192)
        let entries = try recording { client in
            try client.map(memory, byteCount: 8192, at: 0x10000)
            try client.map(memory, byteCount: 4096, at: 0x20000)
            try client.connectInterrupts(0, to: [EventCounter()])
            #expect(try client.readRegister(UInt32.self, region: 0, at: 0) == 0x0100_00ed)
            try client.writeRegister(UInt32(5), region: 0, at: 4, posted: true)
            #expect(throws: ClientError.self) { try client.readRegister(UInt32.self, region: 3, at: 0) }
        }
        let messages = entries.compactMap(\.message)
        let commands = messages.filter { $0.direction == .toServer }.map {
            DecodedMessage($0.bytes, direction: .toServer).header?.command
        }
        #expect(commands == [.version, .mapDMA, .mapDMA, .setInterrupts, .readRegion, .writeRegion, .readRegion])
        let replies = messages.filter { $0.direction == .toClient }
        #expect(replies.count == 6)
        let read = try #require(replies.dropLast().last)
        #expect(Array(read.bytes.suffix(4)) == [0xed, 0, 0, 1])
        #expect(replies.last.map { DecodedMessage($0.bytes, direction: .toClient).header?.errorNumber } == 22)
        let descriptors = messages.flatMap(\.descriptors)
        #expect(descriptors.map(\.kind) == [.memory, .memory, .eventCounter])
        #expect(descriptors.map(\.byteCount) == [8192, 8192, 0])
        #expect(descriptors[0].number == descriptors[1].number)
        #expect(descriptors[2].number != descriptors[0].number)
        #expect(descriptors.allSatisfy { $0.isWritable })
        #expect(entries.first?.event == .served("edu", wallClock: 7))
        #expect(entries.suffix(2).map(\.event) == [.disconnected(.clientLeft), .finished])
    }

    @Test func `clients one after another are conversations of one file`() throws {
        let directory = try TemporaryDirectory()
        let recorder = try Recorder(
            StorageFile(creatingPath: directory.path + "/file"), served: "edu", wallClock: 0
        ) { Issue.record("\($0)") }
        for _ in 0..<3 {
            try serving(try Edu.makeFunction(), decorate: { recorder.transport(over: $0, as: $1) }) {
                _ = try Client($0)
            }
        }
        recorder.finish()
        var reader = try RecordingReader(try directory.read("file"))
        let entries = try reader.all()
        for conversation in 1...3 as ClosedRange<UInt16> {
            let events = entries.filter { $0.conversation == conversation }.map(\.event)
            #expect(events.count == 4)
            #expect(events.first == .connected)
            #expect(events.last == .disconnected(.clientLeft))
        }
    }

    @Test func `what breaks the protocol is recorded as it came`() throws {
        let directory = try TemporaryDirectory()
        let recorder = try Recorder(
            StorageFile(creatingPath: directory.path + "/file"), served: "edu", wallClock: 0
        ) { Issue.record("\($0)") }
        let nonsense: [UInt8] = [1, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab]
        try serving(try Edu.makeFunction(), decorate: { recorder.transport(over: $0, as: $1) }) { socket in
            let count = try unsafe nonsense.withUnsafeBytes {
                unsafe try socket.send($0, descriptors: DescriptorBundle(), waiting: true)
            }
            #expect(count == nonsense.count)
            // The error reply, and then the end.
            var room = [UInt8](repeating: 0, count: 64)
            while try unsafe room.withUnsafeMutableBytes({ unsafe try socket.receive(into: $0, waiting: true).count })
                > 0
            {}
        }
        recorder.finish()
        var reader = try RecordingReader(try directory.read("file"))
        let entries = try reader.all()
        let events = entries.map(\.event)
        guard case .fragment(let fragment) = events[3] else {
            Issue.record("\(events)")
            return
        }
        #expect(fragment.bytes == nonsense)
        #expect(events[4] == .disconnected(.serverClosed))
        var replay = Replay()
        try serving(try Edu.makeFunction()) {
            try replay.play(entries, conversation: 1, over: $0, options: .patient)
        }
        #expect(replay.differences.isEmpty, "\(replay.differences)")
        #expect(replay.matchedCount == 1)
    }

    @Test func `a full disk ends the recording and nothing else`() throws {
        let troubles = Monitor<[Recorder.Trouble]>([])
        let recorder = try Recorder(
            StorageFile(openingPath: "/dev/full", isWritable: true), served: "edu", wallClock: 0
        ) { trouble in troubles.update { $0.append(trouble) } }
        try serving(try Edu.makeFunction(), decorate: { recorder.transport(over: $0, as: $1) }) { socket in
            let client = try Client(socket)
            troubles.wait { $0.isEmpty ? nil : () }
            #expect(try client.readRegister(UInt32.self, region: 0, at: 0) == 0x0100_00ed)
        }
        recorder.finish()
        #expect(troubles.withLock { $0 } == [.file(.noSpace)])
    }

    /// The room that whole messages have left behind is used again, however rarely a read ends with one.
    @Test func `messages that always come in pieces are recorded whole`() throws {
        let directory = try TemporaryDirectory()
        let recorder = try Recorder(
            StorageFile(creatingPath: directory.path + "/file"), served: "edu", wallClock: 0
        ) { Issue.record("\($0)") }
        let (ours, theirs) = try UNIXSocket.pair()
        let transport = recorder.transport(over: theirs)
        let message = MessageWriter.message(.resetDevice) { $0.appendZeros(84) }
        let count = 4000
        var stream: [UInt8] = []
        for _ in 0..<count { stream += message }
        var room = [UInt8](repeating: 0, count: 150)
        while !stream.isEmpty {
            let part = Array(stream.prefix(150))
            stream.removeFirst(part.count)
            let sent = try unsafe part.withUnsafeBytes {
                unsafe try ours.send($0, descriptors: DescriptorBundle(), waiting: true)
            }
            let received = try unsafe room.withUnsafeMutableBytes {
                unsafe try transport.receive(into: $0, waiting: true).count
            }
            #expect(sent == part.count && received == part.count)
        }
        transport.shutdown()
        recorder.finish()
        var reader = try RecordingReader(try directory.read("file"))
        let entries = try reader.all()
        #expect(entries.compactMap(\.message).count == count)
        #expect(entries.compactMap(\.message).allSatisfy { $0.bytes == message })
        #expect(!entries.contains { if case .fragment = $0.event { true } else { false } })
    }

    @Test func `memory is recorded as far as it has changed when a register is written`() throws {
        let memory = try SharedMemory(byteCount: 1 << 20)
        let entries = try recording(memory: true) { client in
            try client.map(memory, byteCount: 1 << 20, at: 0)
            memory.write([1, 2, 3], at: 5 * 4096 + 10)
            memory.write([4], at: 6 * 4096)
            try client.writeRegister(UInt32(1), region: 0, at: 4)
            try client.writeRegister(UInt32(2), region: 0, at: 4)
            memory.write([9], at: 5 * 4096 + 11)
            #expect(try client.readRegister(UInt32.self, region: 0, at: 4) == ~2)
            try client.writeRegister(UInt32(3), region: 0, at: 4)
            memory.write([7], at: 200 * 4096)
            try client.unmap(at: 0, byteCount: 1 << 20)
            try client.writeRegister(UInt32(4), region: 0, at: 4)
        }
        let looks = entries.compactMap { entry -> RecordedMemory? in
            if case .memory(let memory) = entry.event { memory } else { nil }
        }
        #expect(looks.map(\.offset) == [5 * 4096, 5 * 4096])
        #expect(looks.map(\.bytes.count) == [2 * 4096, 4096])
        #expect(Array(looks[0].bytes[10...12]) == [1, 2, 3])
        #expect(looks[0].bytes[4096] == 4)
        #expect(Array(looks[1].bytes[10...12]) == [1, 9, 3])
        // It comes before the message that it was looked at for.
        let place = try #require(entries.firstIndex { if case .memory = $0.event { true } else { false } })
        #expect(
            entries[place + 1].message.map { DecodedMessage($0.bytes, direction: .toServer).header?.command }
                == .writeRegion)
    }

    @Test func `a session with recorded memory does the same work again`() throws {
        let memory = try SharedMemory(byteCount: 1 << 16)
        let pattern = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let entries = try recording(memory: true) { client in
            try client.writeRegister(UInt16(6), region: 7, at: 4)
            try client.map(memory, byteCount: 1 << 16, at: 0)
            memory.write(pattern, at: 0x2000)
            func transfer(_ source: UInt64, _ destination: UInt64, command: UInt64) throws {
                try client.writeRegister(source, region: 0, at: 0x80)
                try client.writeRegister(destination, region: 0, at: 0x88)
                try client.writeRegister(UInt64(pattern.count), region: 0, at: 0x90)
                try client.writeRegister(command, region: 0, at: 0x98)
                while try client.readRegister(UInt64.self, region: 0, at: 0x98) & 1 != 0 {}
            }
            try transfer(0x2000, 0x40000, command: 1)
            try transfer(0x40000, 0x8000, command: 3)
        }
        #expect(memory.read(0x8000..<0x8000 + 1000) == pattern)
        // Played to a server that is recorded itself: its device finds the bytes and puts them where they belong.
        let directory = try TemporaryDirectory()
        let recorder = try Recorder(
            StorageFile(creatingPath: directory.path + "/again"), served: "edu", wallClock: 0, recordsMemory: true
        ) { Issue.record("\($0)") }
        var replay = Replay()
        do {
            defer { recorder.finish() }
            try serving(try Edu.makeFunction(), decorate: { recorder.transport(over: $0, as: $1) }) { socket in
                var entries = entries
                // One more write to a register, so that memory is looked at once more.
                let last = try #require(
                    entries.lastIndex { $0.message?.direction == .toServer && $0.message?.bytes[2] == 10 })
                let end = try #require(entries.lastIndex { $0.event == .disconnected(.clientLeft) })
                entries.insert(entries[last], at: end)
                try replay.play(entries, conversation: 1, over: socket, options: .patient)
            }
        }
        #expect(replay.differences.isEmpty, "\(replay.differences)")
        var reader = try RecordingReader(try directory.read("again"))
        let found = try reader.all().contains { entry in
            guard case .memory(let memory) = entry.event, memory.offset == 0x8000 else { return false }
            return Array(memory.bytes.prefix(1000)) == pattern
        }
        #expect(found)
    }
}
