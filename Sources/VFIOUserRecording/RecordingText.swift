public import JSONText
public import VFIOUserWire

extension Command {
    /// The standard's name for it, without `VFIO_USER_`.
    public var standardName: String {
        switch self {
        case .version: "VERSION"
        case .mapDMA: "DMA_MAP"
        case .unmapDMA: "DMA_UNMAP"
        case .getDeviceInfo: "DEVICE_GET_INFO"
        case .getRegionInfo: "DEVICE_GET_REGION_INFO"
        case .getRegionIODescriptors: "DEVICE_GET_REGION_IO_FDS"
        case .getInterruptInfo: "DEVICE_GET_IRQ_INFO"
        case .setInterrupts: "DEVICE_SET_IRQS"
        case .readRegion: "REGION_READ"
        case .writeRegion: "REGION_WRITE"
        case .readClientMemory: "DMA_READ"
        case .writeClientMemory: "DMA_WRITE"
        case .resetDevice: "DEVICE_RESET"
        case .writeRegions: "REGION_WRITE_MULTI"
        case .deviceFeature: "DEVICE_FEATURE"
        case .readMigrationData: "MIG_DATA_READ"
        case .writeMigrationData: "MIG_DATA_WRITE"
        case .other(let number): "command-\(number)"
        }
    }
}

extension RecordingEntry {
    /// One line that says what happened.
    public var line: String {
        let seconds = String(time / 1_000_000_000)
        let micros = String(time / 1000 % 1_000_000)
        let padded = String(repeating: "0", count: 6 - micros.count) + micros
        let start = String(repeating: " ", count: max(0, 4 - seconds.count)) + "\(seconds).\(padded) \(conversation) "
        switch event {
        case .served(let what, _): return start + "serving \(what.harmless)"
        case .connected: return start + "connected"
        case .message(let message): return start + message.line
        case .fragment(let message): return start + message.arrow + " fragment \(hexadecimal(message.bytes[...]))"
        case .memory(let memory):
            return start
                + "memory #\(memory.number) at 0x\(String(memory.offset, radix: 16)): \(memory.bytes.count) bytes"
        case .disconnected(.clientLeft): return start + "the client left"
        case .disconnected(.serverClosed): return start + "the server closed"
        case .disconnected(.failed(let number)): return start + "the socket failed with error \(number)"
        case .finished: return start + "end of recording"
        }
    }

    /// The same as one JSON object; `schemas/recording-entry.schema.json` describes it.
    public var json: JSONValue {
        var members: [JSONValue.Member] = [
            .init("time", .integer(Int128(time))), .init("conversation", .integer(Int128(conversation))),
        ]
        switch event {
        case .served(let what, let wallClock):
            members.append(.init("event", .string("served")))
            members.append(.init("what", .string(what)))
            members.append(.init("wallClock", .integer(Int128(wallClock))))
        case .connected: members.append(.init("event", .string("connected")))
        case .message(let message):
            members.append(.init("event", .string("message")))
            members += message.jsonMembers
        case .fragment(let message):
            members.append(.init("event", .string("fragment")))
            members += message.jsonMembers
        case .memory(let memory):
            members.append(.init("event", .string("memory")))
            members.append(.init("number", .integer(Int128(memory.number))))
            members.append(.init("offset", .integer(Int128(memory.offset))))
            members.append(.init("byteCount", .integer(Int128(memory.bytes.count))))
        case .disconnected(let ending):
            members.append(.init("event", .string("disconnected")))
            switch ending {
            case .clientLeft: members.append(.init("by", .string("client")))
            case .serverClosed: members.append(.init("by", .string("server")))
            case .failed(let number):
                members.append(.init("by", .string("failure")))
                members.append(.init("errno", .integer(Int128(number))))
            }
        case .finished: members.append(.init("event", .string("finished")))
        }
        return .object(members)
    }
}

extension RecordedMessage {
    fileprivate var arrow: String {
        (direction == .toServer ? "C>S" : "C<S") + (socket == .twin ? " twin" : "")
    }

    fileprivate var line: String {
        let decoded = DecodedMessage(bytes, direction: direction)
        guard let header = decoded.header else {
            return "\(arrow) unreadable: \(decoded.error.map { "\($0)" } ?? "") \(hexadecimal(bytes[...]))"
        }
        var words = [arrow, header.command.standardName, header.kind == .reply ? "reply" : "command"]
        words.append("id=\(header.id.rawValue) size=\(header.byteCount)")
        if header.expectsNoReply { words.append("no-reply") }
        if header.isError { words.append("ERROR=\(header.errorNumber)") }
        words += decoded.fields[decoded.payloadFields...].map { "\($0.name)=\($0.value.text)" }
        if !descriptors.isEmpty { words.append("fds=[\(descriptors.map(\.text).joined(separator: " "))]") }
        if lostDescriptors { words.append("lost-fds") }
        if let error = decoded.error {
            words.append("MALFORMED: \(error) \(hexadecimal(bytes.dropFirst(MessageHeader.byteCount)))")
        }
        return words.joined(separator: " ")
    }

    fileprivate var jsonMembers: [JSONValue.Member] {
        let decoded = DecodedMessage(bytes, direction: direction)
        var members: [JSONValue.Member] = [
            .init("direction", .string(direction == .toServer ? "to-server" : "to-client")),
            .init("socket", .string(socket == .main ? "main" : "twin")),
            .init("descriptors", .array(descriptors.map(\.json))),
            .init("lostDescriptors", .boolean(lostDescriptors)),
            .init("bytes", .string(hexadecimal(bytes[...], atMost: .max))),
        ]
        if let header = decoded.header { members.append(.init("command", .string(header.command.standardName))) }
        // A name may come several times, such as those of the writes in one message.
        var values: [(name: String, values: [JSONValue])] = []
        for field in decoded.fields {
            if let place = values.firstIndex(where: { $0.name == field.name }) {
                values[place].values.append(field.value.json)
            } else {
                values.append((field.name, [field.value.json]))
            }
        }
        members.append(
            .init(
                "fields",
                .object(values.map { .init($0.name, $0.values.count == 1 ? $0.values[0] : .array($0.values)) })))
        if let error = decoded.error { members.append(.init("error", .string("\(error)"))) }
        return members
    }
}

extension RecordedDescriptor {
    fileprivate var text: String {
        switch kind {
        case .memory: "memory#\(number):\(byteCount)\(isWritable ? "" : ":read-only")"
        case .eventCounter: "event#\(number)"
        case .socket: "socket#\(number)"
        case .other: "other#\(number)"
        }
    }

    fileprivate var json: JSONValue {
        let name =
            switch kind {
            case .memory: "memory"
            case .eventCounter: "event-counter"
            case .socket: "socket"
            case .other: "other"
            }
        return .object([
            .init("kind", .string(name)), .init("number", .integer(Int128(number))),
            .init("byteCount", .integer(Int128(byteCount))), .init("isWritable", .boolean(isWritable)),
        ])
    }
}

extension DecodedMessage.Value {
    fileprivate var text: String {
        switch self {
        case .number(let number): "\(number)"
        case .bits(let number): "0x" + String(number, radix: 16)
        case .text(let text): text.harmless
        case .bytes(let bytes): hexadecimal(bytes[...])
        }
    }

    fileprivate var json: JSONValue {
        switch self {
        case .number(let number), .bits(let number): .integer(Int128(number))
        case .text(let text): .string(text)
        case .bytes(let bytes): .string(hexadecimal(bytes[...], atMost: .max))
        }
    }
}

extension String {
    /// The text on one line, with nothing in it that a terminal obeys.
    fileprivate var harmless: String {
        var text = ""
        for scalar in unicodeScalars {
            if scalar.properties.generalCategory == .control || scalar.properties.generalCategory == .lineSeparator
                || scalar.properties.generalCategory == .paragraphSeparator
            {
                text += scalar.escaped(asASCII: true)
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
        return text
    }
}

/// Two digits for each byte, and how many there are if not all are shown.
func hexadecimal(_ bytes: ArraySlice<UInt8>, atMost limit: Int = 32) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes.prefix(limit) {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    let shown = String(decoding: text, as: UTF8.self)
    return bytes.count > limit ? "\(shown)...(\(bytes.count) bytes)" : shown
}
