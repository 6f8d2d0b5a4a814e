import VFIOUserCheck

/// What a server owes for the bytes that a client has sent: an account of its own, kept without our decoder.
///
/// It follows the framing alone, and the two rules by which a connection ends: a header that makes the rest of the
/// stream unreadable, and any refusal before the version is agreed on.
struct StreamModel {
    struct Message {
        let id, command: UInt16
        let payload: [UInt8]
        let wantsReply: Bool
        /// The stream ends with it; the server answers with an error, whatever the header says.
        var breaksStream = false
    }

    enum Phase {
        case awaitingVersion, serving
        /// A version message that wanted no reply may have been accepted or not.
        case unknown
    }

    /// Messages that have been sent whole and not been answered yet.
    private var pending: [Message] = []
    private var firstPending = 0
    private(set) var phase = Phase.awaitingVersion
    /// Whether the server has to close, or may have closed.
    private(set) var mustClose = false
    private(set) var mayClose = false
    private(set) var messageCount = 0
    /// How much of the server's socket has been taken up, at most, by what has come since the stream broke.
    private var roomTakenSinceBreak = 0

    private var header: [UInt8] = []
    private var payload: [UInt8] = []
    private var remaining = 0
    private var isUnreadable = false
    private var mappings: [[UInt8]] = []
    /// Payloads are kept as far as somebody may ask for them.
    private static let keptPayload = 256

    /// Whether the next byte begins a message.
    var isAtBoundary: Bool { header.isEmpty && !isUnreadable }

    /// How many answers are still to come, if the server goes on.
    var owesAnswers: Bool {
        guard !mustClose else { return false }
        var index = firstPending
        while index < pending.count {
            if pending[index].wantsReply { return true }
            // What comes after a silent refusal is not answered.
            if phase == .awaitingVersion { return false }
            index += 1
        }
        return false
    }

    /// The messages without an answer, in words.
    var unanswered: String {
        let first = pending.dropFirst(firstPending).first.map { "\($0)" } ?? "nothing"
        return "\(pending.count - firstPending) messages, the first of them \(first)"
    }

    mutating func send(_ bytes: ArraySlice<UInt8>) {
        var rest = bytes
        while let byte = rest.first, !isUnreadable {
            if header.count < headerSize {
                header.append(byte)
                rest.removeFirst()
                if header.count == headerSize { beginPayload() }
            } else {
                let part = rest.prefix(remaining)
                payload += part.prefix(Self.keptPayload - min(Self.keptPayload, payload.count))
                remaining -= part.count
                rest.removeFirst(part.count)
                if remaining == 0 { endMessage() }
            }
        }
    }

    /// The payloads of the requests for mappings since the last call.
    mutating func takeMappings() -> [[UInt8]] {
        defer { if !mappings.isEmpty { mappings = [] } }
        return mappings
    }

    private mutating func beginPayload() {
        let size = Int(header.u32(at: 4))
        let type = header.u32(at: 8) & HeaderFlags.typeMask
        if size < headerSize || size > maximumMessageSize || type > 1 {
            isUnreadable = true
            append(breaksStream: true)
            return
        }
        remaining = size - headerSize
        if remaining == 0 { endMessage() }
    }

    private mutating func endMessage() {
        // A reply asks for nothing.
        if header.u32(at: 8) & HeaderFlags.typeMask == 0 { append(breaksStream: false) }
        messageCount += 1
        header = []
        payload = []
    }

    private mutating func append(breaksStream: Bool) {
        let wantsReply = breaksStream || header.u32(at: 8) & HeaderFlags.noReply == 0
        if !breaksStream, header.u16(at: 2) == Number.mapDMA { mappings.append(payload) }
        pending.append(
            Message(
                id: header.u16(at: 0), command: header.u16(at: 2), payload: payload, wantsReply: wantsReply,
                breaksStream: breaksStream))
    }

    /// The message that a reply must answer; nil when none is due.
    mutating func nextAnswered() -> Message? {
        while let message = takeFirst() {
            if message.wantsReply { return message }
            passSilently(message)
            if mustClose { return nil }
        }
        return nil
    }

    /// Takes note of the answer to what `nextAnswered` gave.
    mutating func answered(_ message: Message, isError: Bool) {
        if message.breaksStream {
            mustClose = true
        } else if isError {
            switch phase {
            case .awaitingVersion: mustClose = true
            case .unknown: mayClose = true
            case .serving: break
            }
        } else if phase != .serving {
            phase = .serving
            mayClose = false
        }
    }

    private mutating func passSilently(_ message: Message) {
        switch phase {
        case .serving: break
        case .unknown: mayClose = true
        case .awaitingVersion where message.command == Number.version:
            phase = .unknown
            mayClose = true
        case .awaitingVersion: mustClose = true
        }
    }

    /// Takes note of a message of the server.
    mutating func received(byteCount: Int) {
        // What the kernel counts for it is no more than this.
        if isUnreadable { roomTakenSinceBreak += 2 * byteCount + 1024 }
    }

    /// Whether a server that has closed owed nothing more.
    ///
    /// It closes a stream that it cannot read without waiting for room for its last words, which are lost when the client
    /// has left so much unread that the socket is full; all of that has come since.
    ///
    /// - Parameter socketRoom: how much the server's socket holds.
    mutating func mayEnd(socketRoom: Int) -> Bool {
        while firstPending < pending.count, !pending[firstPending].wantsReply {
            let message = pending[firstPending]
            firstPending += 1
            passSilently(message)
        }
        if mustClose || mayClose || firstPending == pending.count { return true }
        return pending[firstPending].breaksStream && roomTakenSinceBreak >= socketRoom
    }

    private mutating func takeFirst() -> Message? {
        guard firstPending < pending.count else { return nil }
        defer {
            firstPending += 1
            if firstPending == pending.count {
                pending.removeAll(keepingCapacity: true)
                firstPending = 0
            }
        }
        return pending[firstPending]
    }
}
