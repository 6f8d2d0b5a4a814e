/// An input's bytes as a row of choices.
///
/// Every byte is some choice, and where the bytes end every further one is the first: so all inputs mean something, and
/// a small change of the bytes is a small change of what they mean.
struct Choices {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }

    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }

    /// One byte for a limit of up to 256, two for more.
    mutating func below(_ limit: Int) -> Int {
        if limit <= 256 { return Int(byte()) % limit }
        return Int(number(byteCount: 2)) % limit
    }

    /// Whether a choice of 256 falls on the last `count`.
    mutating func chance(_ count: Int) -> Bool { Int(byte()) >= 256 - count }

    mutating func number(byteCount: Int) -> UInt64 {
        (0..<byteCount).reduce(0) { value, place in value | UInt64(byte()) << UInt64(8 * place) }
    }

    mutating func pick<Value>(_ values: [Value]) -> Value { values[below(values.count)] }

    /// The next bytes as they are, at most `limit` of them.
    mutating func raw(_ count: Int) -> [UInt8] { (0..<count).map { _ in byte() } }

    /// A number at which something might go wrong.
    mutating func edge() -> UInt64 {
        let edges: [UInt64] = [
            0, 1, 7, 8, 15, 16, 17, 24, 31, 32, 40, 255, 4095, 4096, 4097, 0x7fff_ffff, 0x8000_0000, 0xffff_f000,
            0xffff_ffff, 1 << 20, (1 << 20) + 1, 1 << 32, 1 << 63, ~0xfff, ~0,
        ]
        let choice = below(edges.count + 3)
        return choice < edges.count ? edges[choice] : number(byteCount: 8)
    }
}
