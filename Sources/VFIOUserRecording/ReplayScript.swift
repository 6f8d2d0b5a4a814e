import VFIOUserWire

/// A recorded conversation, laid out for playing the client's half.
struct ReplayScript {
    enum Step {
        case send(Command)
        case sendFragment(RecordedMessage, time: UInt64)
        case awaitReply(Int)
        case awaitRequest(Int)
        case store(RecordedMemory)
    }

    /// A command of the client.
    struct Command {
        let message: RecordedMessage
        let time: UInt64
        let expectsNoReply: Bool
        /// Its reply among `replies`; `nil` if it has none, or the recording was cut off before it.
        var reply: Int?
    }

    struct Reply {
        let message: RecordedMessage
        let time: UInt64
    }

    /// A command of the server.
    struct Request {
        let message: RecordedMessage
        let time: UInt64
        /// `nil` if the client never answered.
        var answer: RecordedMessage?
    }

    private(set) var steps: [Step] = []
    private(set) var replies: [Reply] = []
    private(set) var requests: [Request] = []
    /// Replies to no command: what a server says to bytes that make no message. They may come at any time.
    private(set) var unasked: [Reply] = []
    /// Where in `steps` the replies are.
    private var replySteps: [Int] = []

    /// What is under way while the recording is read.
    private struct Open {
        /// Commands of the client, oldest first.
        var commands: [(step: Int, header: MessageHeader)] = []
        /// Requests of the server by ID and command, oldest first: an ID comes again.
        var requests: [UInt32: [Int]] = [:]

        static func key(_ header: MessageHeader) -> UInt32 {
            UInt32(header.id.rawValue) << 16 | UInt32(header.command.rawValue)
        }
    }

    init(_ entries: [RecordingEntry], conversation: UInt16) {
        var open = Open()
        for entry in entries where entry.conversation == conversation {
            switch entry.event {
            case .memory(let memory): steps.append(.store(memory))
            case .fragment(let fragment) where fragment.direction == .toServer:
                steps.append(.sendFragment(fragment, time: entry.time))
            case .message(let message): add(message, entry.time, &open)
            case .served, .connected, .fragment, .disconnected, .finished: break
            }
        }
    }

    private mutating func add(_ message: RecordedMessage, _ time: UInt64, _ open: inout Open) {
        guard let header = try? MessageHeader(parsing: message.bytes.span) else { return }
        switch (message.direction, header.kind) {
        case (.toServer, .command):
            if !header.expectsNoReply { open.commands.append((steps.count, header)) }
            steps.append(.send(Command(message: message, time: time, expectsNoReply: header.expectsNoReply)))
        case (.toClient, .reply):
            let place = open.commands.firstIndex { $0.header.id == header.id && $0.header.command == header.command }
            guard let place, case .send(var command) = steps[open.commands[place].step] else {
                return unasked.append(Reply(message: message, time: time))
            }
            command.reply = replies.count
            steps[open.commands[place].step] = .send(command)
            open.commands.remove(at: place)
            replySteps.append(steps.count)
            steps.append(.awaitReply(replies.count))
            replies.append(Reply(message: message, time: time))
        case (.toClient, .command):
            steps.append(.awaitRequest(requests.count))
            open.requests[Open.key(header), default: []].append(requests.count)
            requests.append(Request(message: message, time: time))
        case (.toServer, .reply):
            guard var waiting = open.requests.removeValue(forKey: Open.key(header)) else { return }
            requests[waiting.removeFirst()].answer = message
            if !waiting.isEmpty { open.requests[Open.key(header)] = waiting }
        }
    }

    /// Whether a later read of the same register found `data`.
    ///
    /// - Parameter untouched: with nothing written to the device in between; otherwise nothing to the register.
    func isLaterValue(
        _ data: ArraySlice<UInt8>, of access: RegionAccess, after reply: Int, untouched: Bool
    ) -> Bool {
        for step in steps[(replySteps[reply] + 1)...] {
            switch step {
            case .send(let command):
                if command.message.writes(to: untouched ? nil : access) { return false }
            case .awaitReply(let number):
                let bytes = replies[number].message.bytes
                guard RegionAccess(readIn: bytes) == access else { continue }
                if bytes[(MessageHeader.byteCount + RegionAccess.dataOffset)...] == data { return true }
            case .sendFragment, .awaitRequest, .store: break
            }
        }
        return false
    }
}

extension RegionAccess {
    /// What a reply read, if it is the reply of a read that went well.
    init?(readIn bytes: [UInt8]) {
        guard let header = try? MessageHeader(parsing: bytes.span), header.command == .readRegion, !header.isError,
            header.kind == .reply, header.byteCount == bytes.count,
            let access = try? RegionAccess(
                parsingWithData: bytes.span.extracting(MessageHeader.byteCount..<bytes.count))
        else { return nil }
        self = access
    }
}

extension RecordedMessage {
    /// Whether this is a command that writes to what `access` reads, or anywhere if that is `nil`.
    fileprivate func writes(to access: RegionAccess?) -> Bool {
        guard let header = try? MessageHeader(parsing: bytes.span), header.byteCount == bytes.count else {
            return false
        }
        let payload = bytes.span.extracting(MessageHeader.byteCount..<bytes.count)
        guard let request = try? Request(parsing: payload, command: header.command) else { return false }
        switch request {
        case .writeRegion(let write): return write.overlaps(access)
        case .writeRegions(let writes):
            return (0..<writes.count).contains { index in
                guard let write = try? writes.write(at: index, in: payload) else { return false }
                return RegionAccess(offset: write.offset, region: write.region, count: write.count).overlaps(access)
            }
        case .resetDevice: return true
        case .version, .mapDMA, .unmapDMA, .getDeviceInfo, .getRegionInfo, .getRegionIODescriptors, .getInterruptInfo,
            .setInterrupts, .readRegion, .deviceFeature, .readMigrationData, .writeMigrationData:
            return false
        }
    }
}

extension RegionAccess {
    fileprivate func overlaps(_ other: RegionAccess?) -> Bool {
        guard let other else { return true }
        guard region == other.region else { return false }
        let (low, high) = offset <= other.offset ? (self, other) : (other, self)
        return high.offset - low.offset < UInt64(low.count)
    }
}
