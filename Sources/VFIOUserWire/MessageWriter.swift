/// A reusable buffer in which messages are laid out, one after the other.
///
/// A message is begun, given its payload and finished; finishing writes its size. The buffer keeps its capacity, so that
/// a connection in its stride allocates nothing. Calls out of order are a fault of the caller and trap; what the peer
/// sent cannot bring them about.
public struct MessageWriter: Sendable {
    /// Every finished message, and what there is of one in the making.
    public private(set) var bytes: [UInt8]
    private var messageStart: Int?

    public init(capacity: Int = 4096) {
        bytes = []
        bytes.reserveCapacity(capacity)
    }

    /// Forgets all messages and keeps the memory.
    public mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        messageStart = nil
    }
}

extension MessageWriter {
    public mutating func beginCommand(_ command: Command, id: MessageID, expectsNoReply: Bool = false) {
        begin(MessageHeader(id: id, command: command, kind: .command, expectsNoReply: expectsNoReply))
    }

    /// Begins a reply that repeats the ID and the command of `request`.
    public mutating func beginReply(to request: MessageHeader) {
        begin(MessageHeader(id: request.id, command: request.command, kind: .reply))
    }

    public mutating func begin(_ header: MessageHeader) {
        precondition(messageStart == nil, "a message begun inside another")
        messageStart = bytes.count
        header.write(to: &self)
    }

    /// Completes the message: its header states what was appended, and `count` more bytes when the caller sends data
    /// of its own right after this buffer.
    public mutating func finish(followedByBytes count: Int = 0) {
        guard let start = messageStart else { preconditionFailure("a message finished that was not begun") }
        let size = UInt32(bytes.count - start + count)
        for index in 0..<4 {
            bytes[start + MessageHeader.sizeOffset + index] = UInt8(truncatingIfNeeded: size >> (8 * UInt32(index)))
        }
        messageStart = nil
    }

    /// Takes back what was written since the last finished message, for a reply that became an error half-way.
    public mutating func abandon() {
        guard let start = messageStart else { preconditionFailure("a message abandoned that was not begun") }
        bytes.removeLast(bytes.count - start)
        messageStart = nil
    }

    /// Appends a whole reply that has no payload.
    public mutating func appendReply(to request: MessageHeader) {
        beginReply(to: request)
        finish()
    }

    /// Appends a whole error reply: a header and nothing else.
    public mutating func appendErrorReply(to request: MessageHeader, errorNumber: Int32) {
        appendErrorReply(id: request.id, command: request.command, errorNumber: errorNumber)
    }

    /// Appends an error reply to a command whose header could not be read in full.
    ///
    /// Precondition: `errorNumber` is positive.
    public mutating func appendErrorReply(id: MessageID, command: Command, errorNumber: Int32) {
        precondition(errorNumber > 0, "an error reply without an error")
        begin(MessageHeader(id: id, command: command, kind: .reply, isError: true, errorNumber: errorNumber))
        finish()
    }
}

extension MessageWriter {
    /// Appends an integer, least significant byte first.
    @inline(__always)
    public mutating func append<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value) {
        for index in 0..<(Value.bitWidth / 8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> (8 * index)))
        }
    }

    /// Appends a number of bytes or things as a 32-bit field.
    ///
    /// Precondition: it fits; counts that were read from a message do.
    public mutating func append(count32 count: Int) {
        append(UInt32(count))
    }

    public mutating func append(contentsOf data: some Sequence<UInt8>) {
        bytes.append(contentsOf: data)
    }

    public mutating func append(_ data: Span<UInt8>) {
        let range = appendZeros(data.count)
        var target = bytes.mutableSpan
        for index in 0..<data.count {
            target[range.lowerBound + index] = data[index]
        }
    }

    /// Appends `count` zero bytes and says where in `bytes` they lie, for `withBytes(in:)` to fill.
    @discardableResult
    public mutating func appendZeros(_ count: Int) -> Range<Int> {
        let start = bytes.count
        if count <= 8 {
            // As many as a register has. In a build that is not optimised the other way calls the heap for each.
            for _ in 0..<count { bytes.append(0) }
        } else {
            bytes.append(contentsOf: repeatElement(0, count: count))
        }
        return start..<bytes.count
    }

    /// Lends a part of the buffer to be filled in place.
    public mutating func withBytes<Result, Failure: Error>(
        in range: Range<Int>, _ body: (inout MutableSpan<UInt8>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var all = bytes.mutableSpan
        // The one spelling for a part of a mutable span that this toolchain does not deprecate.
        var part = all._mutatingExtracting(range)
        return try body(&part)
    }
}
