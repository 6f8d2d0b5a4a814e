/// A number of bytes as people write it: a whole number, alone or with a unit of a power of 1024.
///
/// Units are `K`, `M`, `G`, `T`, `P` and `E`, in either case, with or without `iB`: `64K`, `10MiB`, `1g`. Decimal units
/// (`MB`) are refused rather than guessed at.
public struct ByteSize: Hashable, Sendable {
    public let byteCount: UInt64

    public init(byteCount: UInt64) {
        self.byteCount = byteCount
    }

    /// Parses `text`; `nil` unless all of it is a size that fits 64 bits.
    public init?(_ text: String) {
        let digits = text.utf8.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        // Without a digit in front, the integer's own parser would take a sign.
        guard !digits.isEmpty, let number = UInt64(Substring(digits)) else { return nil }
        var unit = text.utf8.dropFirst(digits.count)
        guard let letter = unit.popFirst() else {
            byteCount = number
            return
        }
        // Setting bit 5 turns an ASCII capital into the small letter.
        guard let power = ByteSize.units.utf8.firstPosition(of: letter | 0x20) else { return nil }
        guard unit.isEmpty || unit.elementsEqual("iB".utf8) else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: 1 << UInt64(10 * (power + 1)))
        guard !overflow else { return nil }
        byteCount = bytes
    }

    private static let units = "kmgtpe"
}

extension ByteSize: CustomStringConvertible {
    /// The size with the largest unit that divides it.
    public var description: String {
        let power = byteCount == 0 ? 0 : min(byteCount.trailingZeroBitCount / 10, 6)
        let unit = power == 0 ? "" : "\(Array("KMGTPE")[power - 1])iB"
        return "\(byteCount >> UInt64(10 * power))\(unit)"
    }
}

extension String.UTF8View {
    fileprivate func firstPosition(of byte: UInt8) -> Int? {
        firstIndex(of: byte).map { distance(from: startIndex, to: $0) }
    }
}
