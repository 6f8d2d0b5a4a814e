/// A 64-bit digest that is the same in every process. FNV-1a, with a final mix so that every bit depends on every byte.
struct StableHash {
    let value: UInt64

    init(_ bytes: some Sequence<UInt8>) {
        var hash = bytes.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
        hash = (hash ^ hash >> 33) &* 0xff51_afd7_ed55_8ccd
        value = hash ^ hash >> 33
    }

    /// The digest's bytes, most significant first.
    var bytes: [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - $0 * 8)) } }
}
