import Randomness
import VFIOUserWire
import VFIOUserCheck

/// The decoder under arbitrary bytes: framing, and every layout in both directions.
///
/// No input may trap. Beyond that, framing is the same in whatever pieces the bytes come; what a layout accepts lies
/// within its payload; and what was read can be written to bytes that read as the same value.
public enum WireProperties {
    /// Takes `input` as a stream of messages, and its payloads as those of every message there is.
    ///
    /// - Returns: how many messages were in it.
    @discardableResult
    public static func check(_ input: [UInt8]) throws(Finding) -> Int {
        guard let mode = input.first else { return 0 }
        let rest = Array(input.dropFirst())
        if mode & 3 == 3 {
            try checkNegotiation(rest, Variant(mode: mode))
            return 1
        }
        return try checkStream(rest, pieceSeed: UInt64(mode))
    }

    private static func checkStream(_ stream: [UInt8], pieceSeed: UInt64) throws(Finding) -> Int {
        let whole = try frame(stream)
        let inPieces = try frame(stream, pieceSeed: pieceSeed)
        try require(whole == inPieces, "framing depends on the pieces: \(whole) or \(inPieces)")
        for message in whole.messages {
            let payload = Array(stream[message.start + headerSize..<message.start + message.header.byteCount])
            try checkHeader(message.header, Array(stream[message.start..<message.start + headerSize]))
            try checkPayload(payload, of: message.header.command)
        }
        // A payload need not be framed to be looked at.
        if whole.messages.isEmpty { try checkPayload(stream, of: Command(rawValue: UInt16(pieceSeed % 20))) }
        return max(1, whole.messages.count)
    }

    private struct Framed: Equatable {
        struct Message: Equatable {
            let start: Int
            let header: MessageHeader
        }

        var messages: [Message] = []
        var isBroken = false
    }

    /// All messages of a stream that arrives in one piece, or in pieces of sizes drawn by seed.
    private static func frame(_ stream: [UInt8], pieceSeed: UInt64? = nil) throws(Finding) -> Framed {
        var random = SeededNumbers(seed: pieceSeed ?? 0)
        var framed = Framed()
        let framer = MessageFramer()
        var start = 0
        var end = pieceSeed == nil ? stream.count : 0
        while !framed.isBroken {
            switch framer.examine(stream.span.extracting(start..<end)) {
            case .message(let header):
                try require(
                    header.byteCount >= headerSize && header.byteCount <= end - start,
                    "a message of \(header.byteCount) bytes in \(end - start)")
                framed.messages.append(.init(start: start, header: header))
                start += header.byteCount
            case .needs(let count):
                try require(count > 0, "a message needs \(count) bytes")
                guard end < stream.count else { return framed }
                end = min(stream.count, end + 1 + random.below(40))
            case .broken(let id, let command, let error):
                try require(error.losesFraming, "\(error) breaks a stream")
                try require(
                    stream.u16(at: start) == id.rawValue && stream.u16(at: start + 2) == command.rawValue,
                    "a broken header's ID or command is wrong")
                framed.isBroken = true
            }
        }
        return framed
    }

    private static func checkHeader(_ header: MessageHeader, _ bytes: [UInt8]) throws(Finding) {
        try require(written { header.write(to: &$0) } == bytes, "header \(bytes) became \(header)")
        try require(header.payloadByteCount == header.byteCount - headerSize, "a payload's size")
    }

    /// A payload as that of its own command, and then of every other.
    private static func checkPayload(_ payload: [UInt8], of command: Command) throws(Finding) {
        try checkRequest(payload, command)
        for number in 0...20 as ClosedRange<UInt16> where number != command.rawValue {
            // The long ones once only: the others would find the same there.
            if payload.count <= 4096 { try checkRequest(payload, Command(rawValue: number)) }
        }
        try checkReplies(payload)
    }
}

/// What `body` appends to an empty writer.
func written(_ body: (inout MessageWriter) -> Void) -> [UInt8] {
    var writer = MessageWriter(capacity: 64)
    body(&writer)
    return writer.bytes
}

/// What a reader makes of bytes; nil when it refuses them.
func parsed<Value>(_ bytes: [UInt8], _ read: (Span<UInt8>) throws(WireError) -> Value) -> Value? {
    do throws(WireError) {
        return try read(bytes.span)
    } catch {
        // The number of an error reply, whatever the error.
        precondition(error.errno > 0, "\(error) has no error number")
        return nil
    }
}
