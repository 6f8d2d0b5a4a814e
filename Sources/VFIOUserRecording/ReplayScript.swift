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
        /// What it answers.
        var command: [UInt8] = []
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

    init(_ entries: [RecordingEntry], conversation: UInt16) {
        var open: [(step: Int, header: MessageHeader)] = []
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

    private mutating func add(
        _ message: RecordedMessage, _ time: UInt64, _ open: inout [(step: Int, header: MessageHeader)]
    ) {
        guard let header = try? MessageHeader(parsing: message.bytes.span) else { return }
        switch (message.direction, header.kind) {
        case (.toServer, .command):
            if !header.expectsNoReply { open.append((steps.count, header)) }
            steps.append(.send(Command(message: message, time: time, expectsNoReply: header.expectsNoReply)))
        case (.toClient, .reply):
            var reply = Reply(message: message, time: time)
            if let place = open.firstIndex(where: { $0.header.id == header.id && $0.header.command == header.command }),
                case .send(var command) = steps[open[place].step]
            {
                reply.command = command.message.bytes
                command.reply = replies.count
                steps[open[place].step] = .send(command)
                open.remove(at: place)
            }
            steps.append(.awaitReply(replies.count))
            replies.append(reply)
        case (.toClient, .command):
            steps.append(.awaitRequest(requests.count))
            requests.append(Request(message: message, time: time))
        case (.toServer, .reply):
            // A number comes again, so it is the first open request that has it.
            let place = requests.firstIndex { request in
                guard request.answer == nil, let of = try? MessageHeader(parsing: request.message.bytes.span) else {
                    return false
                }
                return of.id == header.id && of.command == header.command
            }
            if let place { requests[place].answer = message }
        }
    }

    /// Whether a later read of the same register found `data`, with nothing written to it in between.
    func isLaterValue(_ data: ArraySlice<UInt8>, of access: RegionAccess, after reply: Int) -> Bool {
        var isAfter = false
        for step in steps {
            switch step {
            case .awaitReply(reply): isAfter = true
            case .send(let command) where isAfter:
                if command.message.writes(to: access) { return false }
            case .awaitReply(let number) where isAfter:
                let bytes = replies[number].message.bytes
                guard RegionAccess(readIn: bytes) == access else { continue }
                if bytes[(MessageHeader.byteCount + RegionAccess.dataOffset)...] == data { return true }
            case .send, .sendFragment, .awaitReply, .awaitRequest, .store: break
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
    /// Whether this is a command that writes to what `access` reads.
    fileprivate func writes(to access: RegionAccess) -> Bool {
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
    fileprivate func overlaps(_ other: RegionAccess) -> Bool {
        guard region == other.region else { return false }
        let (low, high) = offset <= other.offset ? (self, other) : (other, self)
        return high.offset - low.offset < UInt64(low.count)
    }
}
