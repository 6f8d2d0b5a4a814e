/// Reads a recording, one entry after another.
///
/// The file may be anybody's. One that ends inside a record, because whoever wrote it was killed, is read up to there.
public struct RecordingReader: Sendable {
    private let bytes: [UInt8]
    /// Where the next record begins.
    public private(set) var offset: Int
    /// Whether the file was found to end inside a record, at `offset`.
    public private(set) var isCut = false

    /// - Throws: `notARecording` and `unknownVersion`.
    public init(_ bytes: [UInt8]) throws(RecordingError) {
        guard bytes.count >= RecordingFormat.fileHeaderByteCount, bytes.starts(with: RecordingFormat.magic) else {
            throw .notARecording
        }
        self.bytes = bytes
        let version = RecordingReader.integer(bytes[...], at: 8, UInt16.self)
        guard version == RecordingFormat.version else { throw .unknownVersion(version) }
        // A later edition may say more in the file's header.
        let headerByteCount = Int(RecordingReader.integer(bytes[...], at: 10, UInt16.self))
        guard (RecordingFormat.fileHeaderByteCount...bytes.count).contains(headerByteCount) else {
            throw .notARecording
        }
        offset = headerByteCount
    }

    /// The next entry; `nil` at the end, and where the file was cut.
    ///
    /// - Throws: for a record that makes no sense; nothing after it can be read.
    public mutating func next() throws(RecordingError) -> RecordingEntry? {
        guard offset < bytes.count, !isCut else { return nil }
        guard bytes.count - offset >= RecordingFormat.recordHeaderByteCount else { return cut() }
        let header = bytes[offset..<offset + RecordingFormat.recordHeaderByteCount]
        let byteCount = Int(Self.integer(header, at: 0, UInt32.self))
        guard let kind = RecordingFormat.Kind(rawValue: header[offset + 4]) else {
            throw .unknownRecord(header[offset + 4], offset: offset)
        }
        let start = offset + RecordingFormat.recordHeaderByteCount
        guard byteCount <= bytes.count - start else { return cut() }
        let entry = RecordingEntry(
            time: Self.integer(header, at: 8, UInt64.self), conversation: Self.integer(header, at: 6, UInt16.self),
            event: try event(kind, flags: header[offset + 5], bytes[start..<start + byteCount]))
        offset = start + byteCount
        return entry
    }

    /// All entries up to the end, or to where the file was cut.
    public mutating func all() throws(RecordingError) -> [RecordingEntry] {
        var entries: [RecordingEntry] = []
        while let entry = try next() { entries.append(entry) }
        return entries
    }

    private mutating func cut() -> RecordingEntry? {
        isCut = true
        return nil
    }

    private func event(
        _ kind: RecordingFormat.Kind, flags: UInt8, _ body: ArraySlice<UInt8>
    ) throws(RecordingError) -> RecordedEvent {
        guard flags & ~RecordingFormat.Flags.known == 0 else { throw .malformedRecord(offset: offset) }
        switch kind {
        case .served:
            try require(body.count >= 8)
            guard let text = String(validating: body.dropFirst(8), as: UTF8.self) else {
                throw .malformedRecord(offset: offset)
            }
            return .served(text, wallClock: Self.integer(body, at: 0, UInt64.self))
        case .connected:
            try require(body.isEmpty)
            return .connected
        case .message: return .message(try message(flags, body))
        case .fragment: return .fragment(try message(flags, body))
        case .memory:
            try require(body.count >= RecordingFormat.memoryHeaderByteCount)
            return .memory(
                RecordedMemory(
                    number: Self.integer(body, at: 0, UInt32.self), offset: Self.integer(body, at: 4, UInt64.self),
                    bytes: Array(body.dropFirst(RecordingFormat.memoryHeaderByteCount))))
        case .disconnected:
            try require(body.count == RecordingFormat.endingByteCount)
            switch Self.integer(body, at: 0, UInt32.self) {
            case 0: return .disconnected(.clientLeft)
            case 1: return .disconnected(.serverClosed)
            case 2: return .disconnected(.failed(Int32(bitPattern: Self.integer(body, at: 4, UInt32.self))))
            default: throw .malformedRecord(offset: offset)
            }
        case .finished:
            try require(body.isEmpty)
            return .finished
        }
    }

    private func message(_ flags: UInt8, _ body: ArraySlice<UInt8>) throws(RecordingError) -> RecordedMessage {
        try require(body.count >= RecordingFormat.messageHeaderByteCount)
        let count = Int(Self.integer(body, at: 0, UInt32.self))
        var rest = body.dropFirst(RecordingFormat.messageHeaderByteCount)
        try require(count <= rest.count / RecordingFormat.descriptorByteCount)
        var descriptors: [RecordedDescriptor] = []
        for _ in 0..<count {
            guard let kind = RecordedDescriptor.Kind(rawValue: rest[rest.startIndex]) else {
                throw .malformedRecord(offset: offset)
            }
            descriptors.append(
                RecordedDescriptor(
                    kind: kind, isWritable: rest[rest.startIndex + 1] != 0,
                    number: Self.integer(rest, at: 4, UInt32.self), byteCount: Self.integer(rest, at: 8, UInt64.self)))
            rest = rest.dropFirst(RecordingFormat.descriptorByteCount)
        }
        return RecordedMessage(
            direction: flags & RecordingFormat.Flags.toClient != 0 ? .toClient : .toServer,
            socket: flags & RecordingFormat.Flags.twin != 0 ? .twin : .main, descriptors: descriptors,
            lostDescriptors: flags & RecordingFormat.Flags.lostDescriptors != 0, bytes: Array(rest))
    }

    private func require(_ isTrue: Bool) throws(RecordingError) {
        if !isTrue { throw .malformedRecord(offset: offset) }
    }

    /// Precondition: the integer lies within.
    private static func integer<Value: FixedWidthInteger & UnsignedInteger>(
        _ bytes: ArraySlice<UInt8>, at offset: Int, _ type: Value.Type
    ) -> Value {
        var value: Value = 0
        for index in 0..<Value.bitWidth / 8 {
            value |= Value(truncatingIfNeeded: bytes[bytes.startIndex + offset + index]) << (8 * index)
        }
        return value
    }
}

/// Why bytes are not a recording.
public enum RecordingError: Error, Hashable, Sendable {
    case notARecording
    case unknownVersion(UInt16)
    case unknownRecord(UInt8, offset: Int)
    /// A record whose size or fields contradict each other.
    case malformedRecord(offset: Int)
}

extension RecordingError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .notARecording: "not a recording"
        case .unknownVersion(let version): "a recording of version \(version), which this program does not know"
        case .unknownRecord(let kind, let offset): "a record of the unknown kind \(kind) at byte \(offset)"
        case .malformedRecord(let offset): "a record that makes no sense at byte \(offset)"
        }
    }
}
