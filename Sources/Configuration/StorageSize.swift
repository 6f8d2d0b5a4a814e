/// A size of storage as people write it: bytes, or a number and a binary unit such as `1GiB` or, as
/// QEMU has it, `1G`.
public struct StorageSize: Hashable, Sendable {
    /// More than any file system holds, and every sum with it stays in 64 bits.
    public static let maximum: UInt64 = 1 << 60
    /// Sizes are whole sectors.
    public static let granule: UInt64 = 512

    public let byteCount: UInt64

    /// Nil unless the bytes are whole sectors, at least one and at most `maximum`.
    public init?(byteCount: UInt64) {
        guard (1...StorageSize.maximum).contains(byteCount), byteCount % StorageSize.granule == 0 else { return nil }
        self.byteCount = byteCount
    }

    /// Reads a decimal number of up to six digits and a unit, or a number of bytes. No sign, space or leading zero.
    public init?(_ text: String) {
        let digits = text.prefix { ("0"..."9").contains($0) }
        guard let number = UInt64(digits), digits.first != "0" else { return nil }
        let unit = text.dropFirst(digits.count)
        if unit.isEmpty {
            self.init(byteCount: number)
        } else if digits.count <= 6, let shift = StorageSize.shifts[String(unit)] {
            self.init(byteCount: number << shift)
        } else {
            return nil
        }
    }

    private static let shifts: [String: UInt64] = ["M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40]
}
