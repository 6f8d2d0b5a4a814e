/// Why a text is not JSON, or not JSON this package takes. Offsets are bytes from the start of the text.
public enum JSONError: Error, Hashable, Sendable {
    case tooLong(maximumByteCount: Int)
    case notUTF8
    case unexpectedByte(offset: Int)
    case unexpectedEnd
    case malformedNumber(offset: Int)
    /// An integer that 64 bits cannot hold, or a number beyond all doubles.
    case numberOutOfRange(offset: Int)
    case controlCharacterInString(offset: Int)
    /// `\u0000`, which C strings cannot carry.
    case escapedNUL(offset: Int)
    case nestedTooDeep(maximumDepth: Int)
    /// An object names a member twice. Nothing remembers where.
    case duplicateName
    /// Whatever else JSON-C refuses.
    case malformed(offset: Int)
    case outOfMemory
}

extension JSONError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .tooLong(let maximum): "longer than \(maximum) bytes"
        case .notUTF8: "not UTF-8"
        case .unexpectedByte: "unexpected character"
        case .unexpectedEnd: "ends too early"
        case .malformedNumber: "not a number"
        case .numberOutOfRange: "number out of range"
        case .controlCharacterInString: "control character in a string"
        case .escapedNUL: "NUL in a string"
        case .nestedTooDeep(let maximum): "nested deeper than \(maximum)"
        case .duplicateName: "a name is given twice in one object"
        case .malformed: "malformed"
        case .outOfMemory: "out of memory"
        }
    }

    /// Where the text goes wrong, if that is one place.
    public var offset: Int? {
        switch self {
        case .unexpectedByte(let offset), .malformedNumber(let offset), .numberOutOfRange(let offset),
            .controlCharacterInString(let offset), .escapedNUL(let offset), .malformed(let offset):
            offset
        case .tooLong, .notUTF8, .unexpectedEnd, .nestedTooDeep, .duplicateName, .outOfMemory: nil
        }
    }
}
