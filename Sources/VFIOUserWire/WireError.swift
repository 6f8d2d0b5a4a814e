/// Why bytes from the peer are not a message.
///
/// One vocabulary for every decoder of this module. Unless `losesFraming` says otherwise the damage is one message: a
/// request is answered with `errno` and the connection goes on.
public enum WireError: Error, Hashable, Sendable {
    /// A header states a size that does not even hold the header.
    case messageTooShort(Int)
    /// A header states a size beyond what this side accepts.
    case messageTooLong(maximum: Int, actual: Int)
    /// The type bits say neither command nor reply.
    case unknownMessageType(UInt8)
    /// No request has this number.
    case unknownCommand(UInt16)
    /// A request that only the other side may send.
    case wrongDirection(Command)
    /// The payload ends before the fixed part of its layout.
    case payloadTooShort(minimum: Int, actual: Int)
    /// Bytes follow a payload that has no room for any.
    case trailingBytes(expected: Int, actual: Int)
    /// The count in a payload and the data that follows disagree.
    case sizeMismatch(stated: UInt64, actual: Int)
    /// Bits without a meaning are set.
    case reservedBits(UInt32)
    /// A field holds a value without a meaning.
    case unknownValue(UInt64)
    /// Bits that each have a meaning have none together.
    case conflictingFlags(UInt32)
    /// `argsz` is smaller than the least answer, or than the request it describes.
    case argumentSizeTooSmall(minimum: Int, actual: Int)
    /// `argsz` asks for more than any answer may take.
    case argumentSizeTooLarge(maximum: Int, actual: Int)
    /// A range of no bytes.
    case emptyRange
    /// A range that passes the end of its space.
    case rangeOverflow(start: UInt64, byteCount: UInt64)
    /// A count beyond what its message can carry.
    case countTooLarge(maximum: Int, actual: UInt64)
    /// More or fewer descriptors came along than the message speaks of.
    case wrongDescriptorCount(expected: Int, actual: Int)
    /// A chain of capabilities that leaves its message, or turns back on itself.
    case brokenCapabilityChain(offset: Int)
}
