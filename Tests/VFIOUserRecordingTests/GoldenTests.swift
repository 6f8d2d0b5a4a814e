import LinuxHost
import Testing
import VFIOUserRecording
import VFIOUserWire

@Suite struct `Sessions of QEMU` {
    @Test(arguments: Golden.allCases)
    func `every message is understood, to its last byte`(golden: Golden) throws {
        let messages = try golden.messages()
        #expect(messages.count > 500)
        for message in messages {
            let decoded = DecodedMessage(message.bytes, direction: message.direction)
            #expect(decoded.error == nil, "\(decoded)")
        }
    }

    @Test(arguments: Golden.allCases)
    func `every message is written again as the same bytes`(golden: Golden) throws {
        for message in try golden.messages() {
            let again = try written(message)
            #expect(again == message.bytes, "\(DecodedMessage(message.bytes, direction: message.direction))")
        }
    }

    @Test(arguments: Golden.allCases)
    func `a fresh server answers the same, but for what may differ`(golden: Golden) throws {
        var replay = Replay()
        let entries = try golden.entries()
        try serving(try golden.device()) { socket in
            try replay.play(entries, conversation: 1, over: socket, options: .patient)
        }
        #expect(replay.differenceCount == 0, "\(replay.differences)")
        let fromServer = entries.compactMap(\.message).count { $0.direction == .toClient }
        #expect(replay.matchedCount == fromServer)
        // Registers that change by themselves, and what the device does by itself, are all that may differ.
        #expect(Set(replay.allowed.keys).isSubset(of: [.settled, .ahead, .requestOrder]))
    }

    /// The same message, from the value that it was read as.
    private func written(_ message: RecordedMessage) throws -> [UInt8] {
        let header = try MessageHeader(parsing: message.bytes.span)
        let payload = message.bytes.span.extracting(MessageHeader.byteCount..<message.bytes.count)
        var writer = MessageWriter()
        writer.begin(header)
        switch (header.kind, message.direction) {
        case (.reply, _) where header.isError: break
        case (.command, .toServer): try Request(parsing: payload, command: header.command).write(to: &writer)
        case (.command, .toClient): try ServerRequest(parsing: payload, command: header.command).write(to: &writer)
        case (.reply, .toServer):
            if header.command == .readClientMemory {
                try ClientMemoryAccess(parsingWithData: payload).write(to: &writer)
            } else {
                try ClientMemoryAccess(parsingWithoutData: payload).write(to: &writer)
            }
        case (.reply, .toClient): try writeReply(header.command, payload, to: &writer)
        }
        // What a value does not hold, all of which the decoder has named.
        for field in DecodedMessage(message.bytes, direction: message.direction).fields {
            switch field.value {
            case .bytes(let data): writer.append(contentsOf: data)
            case .text(let text): writer.append(contentsOf: Array(text.utf8) + [0])
            case .number, .bits: break
            }
        }
        writer.finish()
        return writer.bytes
    }

    private func writeReply(_ command: Command, _ payload: Span<UInt8>, to writer: inout MessageWriter) throws {
        switch command {
        case .version: try VersionMessage(parsing: payload).write(to: &writer)
        case .unmapDMA: try UnmapDMA(parsing: payload).write(to: &writer)
        case .getDeviceInfo: try DeviceInfo(parsing: payload).write(to: &writer)
        case .getRegionInfo: try RegionInfo(parsing: payload).write(to: &writer, maximumReplySize: .max)
        case .getInterruptInfo: try InterruptInfo(parsing: payload).write(to: &writer)
        case .readRegion: try RegionAccess(parsingWithData: payload).write(to: &writer)
        case .writeRegion: try RegionAccess(parsingWithoutData: payload).write(to: &writer)
        case .mapDMA, .setInterrupts, .resetDevice: break
        default: Issue.record("QEMU sends no \(command)")
        }
    }
}
