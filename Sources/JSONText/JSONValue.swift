/// A JSON document, or a part of one, as a value.
///
/// JSON-C reads and writes the text; a tree of these is what the rest of the package sees, so no C object outlives a
/// call. Reading is strict: RFC 8259 and nothing more, UTF-8, names unique in their object, no escaped NUL, integers that
/// 64 bits can hold, and limits on length and depth. It must not know what a document means.
public enum JSONValue: Hashable, Sendable {
    case null
    case boolean(Bool)
    /// A number written without fraction and exponent, from −2⁶³ to 2⁶⁴−1.
    case integer(Int128)
    /// A number written with a fraction or an exponent; finite.
    case decimal(Double)
    case string(String)
    case array([JSONValue])
    /// The members in the order of the text.
    case object([Member])

    public struct Member: Hashable, Sendable {
        public var name: String
        public var value: JSONValue

        public init(_ name: String, _ value: JSONValue) {
            self.name = name
            self.value = value
        }
    }
}

extension JSONValue {
    /// The number if it is a whole one, however it is written: JSON does not tell 4096 from 4096.0.
    public var wholeNumber: Int128? {
        switch self {
        case .integer(let number): number
        case .decimal(let number): Int128(exactly: number)
        case .null, .boolean, .string, .array, .object: nil
        }
    }

    public var boolean: Bool? {
        if case .boolean(let value) = self { value } else { nil }
    }

    public var string: String? {
        if case .string(let value) = self { value } else { nil }
    }

    public var elements: [JSONValue]? {
        if case .array(let elements) = self { elements } else { nil }
    }

    public var members: [Member]? {
        if case .object(let members) = self { members } else { nil }
    }
}

extension [JSONValue.Member] {
    public subscript(name: String) -> JSONValue? {
        first { $0.name == name }?.value
    }
}
