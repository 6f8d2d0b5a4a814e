/// The numbers of the file format; its layout is in the article "The format of recordings".
enum RecordingFormat {
    static let magic: [UInt8] = Array("vfiourec".utf8)
    static let version: UInt16 = 1
    static let fileHeaderByteCount = 16
    static let recordHeaderByteCount = 16
    static let messageHeaderByteCount = 4
    static let descriptorByteCount = 16
    static let memoryHeaderByteCount = 12
    static let endingByteCount = 8

    enum Kind: UInt8 {
        case served = 1
        case connected = 2
        case message = 3
        case fragment = 4
        case memory = 5
        case disconnected = 6
        case finished = 7
    }

    /// Bits of a record's second byte.
    enum Flags {
        static let toClient: UInt8 = 1 << 0
        static let twin: UInt8 = 1 << 1
        static let lostDescriptors: UInt8 = 1 << 2
        static let known: UInt8 = 0b111
    }
}

/// Bytes of a recording in the making.
struct RecordingWriter {
    private(set) var bytes: [UInt8] = []

    mutating func appendFileHeader() {
        bytes += RecordingFormat.magic
        append(RecordingFormat.version)
        append(UInt16(RecordingFormat.fileHeaderByteCount))
        append(UInt32(0))
    }

    mutating func append(_ entry: RecordingEntry) {
        switch entry.event {
        case .served(let what, let wallClock):
            let text = Array(what.utf8)
            begin(.served, 0, entry, byteCount: 8 + text.count)
            append(wallClock)
            bytes += text
        case .connected: begin(.connected, 0, entry, byteCount: 0)
        case .message(let message): append(message, as: .message, entry)
        case .fragment(let message): append(message, as: .fragment, entry)
        case .memory(let memory):
            begin(.memory, 0, entry, byteCount: RecordingFormat.memoryHeaderByteCount + memory.bytes.count)
            append(memory.number)
            append(memory.offset)
            bytes += memory.bytes
        case .disconnected(let ending):
            begin(.disconnected, 0, entry, byteCount: RecordingFormat.endingByteCount)
            switch ending {
            case .clientLeft: append(UInt64(0))
            case .serverClosed: append(UInt64(1))
            case .failed(let number): append(UInt64(2) | UInt64(UInt32(bitPattern: number)) << 32)
            }
        case .finished: begin(.finished, 0, entry, byteCount: 0)
        }
    }

    /// Takes what there is.
    mutating func removeAll() -> [UInt8] {
        let taken = bytes
        bytes = []
        return taken
    }

    private mutating func append(_ message: RecordedMessage, as kind: RecordingFormat.Kind, _ entry: RecordingEntry) {
        var flags: UInt8 = 0
        if message.direction == .toClient { flags |= RecordingFormat.Flags.toClient }
        if message.socket == .twin { flags |= RecordingFormat.Flags.twin }
        if message.lostDescriptors { flags |= RecordingFormat.Flags.lostDescriptors }
        begin(
            kind, flags, entry,
            byteCount: RecordingFormat.messageHeaderByteCount
                + message.descriptors.count * RecordingFormat.descriptorByteCount + message.bytes.count)
        append(UInt32(message.descriptors.count))
        for descriptor in message.descriptors {
            bytes.append(descriptor.kind.rawValue)
            bytes.append(descriptor.isWritable ? 1 : 0)
            append(UInt16(0))
            append(descriptor.number)
            append(descriptor.byteCount)
        }
        bytes += message.bytes
    }

    private mutating func begin(
        _ kind: RecordingFormat.Kind, _ flags: UInt8, _ entry: RecordingEntry, byteCount: Int
    ) {
        append(UInt32(byteCount))
        bytes.append(kind.rawValue)
        bytes.append(flags)
        append(entry.conversation)
        append(entry.time)
    }

    private mutating func append<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value) {
        for index in 0..<Value.bitWidth / 8 { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * index))) }
    }
}
