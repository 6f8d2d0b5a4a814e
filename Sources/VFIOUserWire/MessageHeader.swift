/// The number by which a sender recognises the reply to its command.
///
/// Opaque to the receiver, who only repeats it. Each direction counts for itself and may reuse a number at any time.
public struct MessageID: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt16

    public init(rawValue: UInt16) {
        self.rawValue = rawValue
    }
}

/// The sixteen bytes that open every message.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 2 | message ID |
/// | 2 | 2 | command |
/// | 4 | 4 | size of the whole message |
/// | 8 | 4 | flags: bits 0–3 type (0 command, 1 reply), bit 4 no reply wanted, bit 5 error |
/// | 12 | 4 | error number, of a reply with the error bit |
///
/// `struct vfio_user_header`
public struct MessageHeader: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        case command
        case reply
    }

    public static let byteCount = 16

    public var id: MessageID
    public var command: Command
    /// Bytes of the whole message, this header included.
    public var byteCount: Int
    public var kind: Kind
    public var expectsNoReply: Bool
    public var isError: Bool
    /// Bits of the flags that no version of the standard gives a meaning, in place; see `validate()`.
    public var reservedFlags: UInt32
    /// The Linux error number of an error reply; a peer may leave it 0 even then.
    public var errorNumber: Int32

    public init(
        id: MessageID, command: Command, byteCount: Int = MessageHeader.byteCount, kind: Kind,
        expectsNoReply: Bool = false, isError: Bool = false, errorNumber: Int32 = 0
    ) {
        self.id = id
        self.command = command
        self.byteCount = byteCount
        self.kind = kind
        self.expectsNoReply = expectsNoReply
        self.isError = isError
        self.reservedFlags = 0
        self.errorNumber = errorNumber
    }

    public var payloadByteCount: Int { byteCount - MessageHeader.byteCount }
}

extension MessageHeader {
    /// Reads the header that `bytes` begin with; what follows it is not looked at.
    ///
    /// Throws only what makes the rest of the stream unreadable. Reserved bits do not: the message still has its end and
    /// can be answered, so they are `validate()`'s to refuse.
    public init(parsing bytes: Span<UInt8>) throws(WireError) {
        try bytes.requireCount(atLeast: MessageHeader.byteCount)
        let flags: UInt32 = bytes.integer(at: 8)
        id = MessageHeader.id(of: bytes)
        command = MessageHeader.command(of: bytes)
        byteCount = bytes.count32(at: 4)
        if byteCount < MessageHeader.byteCount { throw .messageTooShort(byteCount) }
        switch flags & Flags.typeMask {
        case 0: kind = .command
        case Flags.reply: kind = .reply
        case let type: throw .unknownMessageType(UInt8(type))
        }
        expectsNoReply = flags & Flags.noReply != 0
        isError = flags & Flags.error != 0
        reservedFlags = flags & ~Flags.known
        errorNumber = Int32(bitPattern: bytes.integer(at: 12))
    }

    /// Refuses reserved flag bits, and the error bit on a command.
    public func validate() throws(WireError) {
        if reservedFlags != 0 { throw .reservedBits(reservedFlags) }
        if kind == .command && isError { throw .conflictingFlags(Flags.error) }
    }

    public func write(to writer: inout MessageWriter) {
        var flags = reservedFlags
        if kind == .reply { flags |= Flags.reply }
        if expectsNoReply { flags |= Flags.noReply }
        if isError { flags |= Flags.error }
        writer.append(id.rawValue)
        writer.append(command.rawValue)
        writer.append(count32: byteCount)
        writer.append(flags)
        writer.append(UInt32(bitPattern: errorNumber))
    }

    static let sizeOffset = 4

    /// The two fields that an error reply repeats even when the rest of the header makes no sense.
    ///
    /// Precondition: `bytes` hold a header.
    static func id(of bytes: Span<UInt8>) -> MessageID { MessageID(rawValue: bytes.integer(at: 0)) }
    static func command(of bytes: Span<UInt8>) -> Command { Command(rawValue: bytes.integer(at: 2)) }

    private enum Flags {
        static let typeMask: UInt32 = 0xf
        static let reply: UInt32 = 1
        static let noReply: UInt32 = 1 << 4
        static let error: UInt32 = 1 << 5
        static let known = typeMask | noReply | error
    }
}
