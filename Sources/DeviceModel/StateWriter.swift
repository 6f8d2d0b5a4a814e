/// The bytes of a state in the making.
///
/// Integers are little-endian, flags are a byte, texts and lists begin with their count.
public struct StateWriter: Sendable {
    public private(set) var bytes: [UInt8] = []

    public init() {}

    public mutating func append<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value) {
        for byte in 0..<Value.bitWidth / 8 { bytes.append(UInt8(truncatingIfNeeded: value >> Value(byte * 8))) }
    }

    public mutating func append(_ flag: Bool) {
        bytes.append(flag ? 1 : 0)
    }

    /// - Precondition: the count is neither negative nor beyond 32 bits.
    public mutating func append(count: Int) {
        append(UInt32(count))
    }

    public mutating func append(bytes new: some Collection<UInt8>) {
        bytes.append(contentsOf: new)
    }

    /// Appends at most 255 characters of a text, which should be printable ASCII.
    public mutating func append(text: String) {
        let plain = Self.plain(text)
        append(UInt8(plain.utf8.count))
        bytes.append(contentsOf: plain.utf8)
    }

    /// Appends what `body` appends under a name and with its size, so that what follows is found whatever it was.
    public mutating func section(_ name: String, _ body: (inout StateWriter) -> Void) {
        var part = StateWriter()
        body(&part)
        append(text: name)
        append(UInt64(part.bytes.count))
        bytes.append(contentsOf: part.bytes)
    }

    /// As much of a text as fits, with question marks for what is not printable ASCII.
    static func plain(_ text: String) -> String {
        let bytes = text.utf8.prefix(StateIdentity.maximumTextByteCount)
        return String(decoding: bytes.map { (0x20...0x7e).contains($0) ? $0 : UInt8(ascii: "?") }, as: UTF8.self)
    }
}

/// The bytes of a state being read. They may come from anybody, and every number in them is doubted.
public struct StateReader: Sendable {
    private var rest: ArraySlice<UInt8>

    public init(_ bytes: some Sequence<UInt8>) {
        rest = Array(bytes)[...]
    }

    private init(_ slice: ArraySlice<UInt8>) {
        rest = slice
    }

    public mutating func integer<Value: FixedWidthInteger & UnsignedInteger>(
        _ type: Value.Type = Value.self
    ) throws(StateError) -> Value {
        var value: Value = 0
        for (number, byte) in try take(Value.bitWidth / 8).enumerated() { value |= Value(byte) << Value(number * 8) }
        return value
    }

    /// - Parameter name: for the error when it is neither zero nor one.
    public mutating func flag(_ name: String) throws(StateError) -> Bool {
        let value = try integer(UInt8.self)
        try require(value <= 1, name)
        return value == 1
    }

    /// A number of things, no greater than what the device can have.
    public mutating func count(atMost maximum: Int, _ name: String) throws(StateError) -> Int {
        let value = try integer(UInt32.self)
        guard let count = Int(exactly: value), count <= maximum else { throw .impossible(name) }
        return count
    }

    /// Precondition: the count is not negative.
    public mutating func bytes(_ count: Int) throws(StateError) -> [UInt8] {
        Array(try take(count))
    }

    public mutating func text() throws(StateError) -> String {
        let bytes = try take(Int(try integer(UInt8.self)))
        // Printable ASCII is all that anybody writes, and all that a log should get.
        guard bytes.allSatisfy({ (0x20...0x7e).contains($0) }) else { throw .impossible("text") }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The part that was written under a name, which has to be the next.
    public mutating func section(_ name: String) throws(StateError) -> StateReader {
        try require(try text() == name, name)
        guard let count = Int(exactly: try integer(UInt64.self)) else { throw .tooShort }
        return StateReader(try take(count))
    }

    public func require(_ isTrue: Bool, _ name: String) throws(StateError) {
        if !isTrue { throw .impossible(name) }
    }

    /// - Throws: when bytes are left.
    public func finish() throws(StateError) {
        if !rest.isEmpty { throw .trailingBytes }
    }

    private mutating func take(_ count: Int) throws(StateError) -> ArraySlice<UInt8> {
        guard count <= rest.count else { throw .tooShort }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }
}
