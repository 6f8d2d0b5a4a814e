/// A data structure that the controller returns, filled in field by field at the offsets of the standard's figures.
///
/// Integers are little-endian, and fields that nobody sets are zero.
struct StructureBytes {
    private(set) var bytes: [UInt8]

    init(byteCount: Int) {
        bytes = [UInt8](repeating: 0, count: byteCount)
    }

    mutating func set<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value, at offset: Int) {
        for byte in 0..<Value.bitWidth / 8 {
            bytes[offset + byte] = UInt8(truncatingIfNeeded: value >> Value(byte * 8))
        }
    }

    mutating func set(_ field: [UInt8], at offset: Int) {
        bytes.replaceSubrange(offset..<offset + field.count, with: field)
    }

    /// ASCII text, left-aligned in a field of fixed size and padded with spaces.
    mutating func set(_ text: PaddedText, at offset: Int) {
        set(text.bytes, at: offset)
    }
}

/// Printable ASCII that fills a field of fixed size.
struct PaddedText: Sendable {
    let bytes: [UInt8]

    /// Text that is too long is cut, and whatever is not printable ASCII becomes a question mark.
    init(_ text: String, byteCount: Int) {
        let printable = text.utf8.prefix(byteCount).map { (0x20...0x7e).contains($0) ? $0 : UInt8(ascii: "?") }
        bytes = printable + [UInt8](repeating: UInt8(ascii: " "), count: byteCount - printable.count)
    }
}

extension [UInt8] {
    /// The little-endian integer at `offset`.
    func littleEndian<Value: FixedWidthInteger & UnsignedInteger>(at offset: Int, as: Value.Type = Value.self) -> Value
    {
        (0..<Value.bitWidth / 8).reduce(0) { $0 | Value(self[offset + $1]) << Value($1 * 8) }
    }
}
