/// Numbers that are the same for the same seed, whatever the library does, so that what fails can be repeated.
///
/// Steele, Lea and Flood's generator: small, and the same everywhere. SplitMix64
public struct SeededNumbers: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    /// A generator for one of many runs: what the runs draw has nothing to do with each other.
    public init(seed: UInt64, run: UInt64) {
        var first = SeededNumbers(seed: seed)
        var second = SeededNumbers(seed: run &* 0x9e37_79b9_7f4a_7c15 ^ first.next())
        state = second.next()
    }

    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    /// A number below a limit, which is not zero.
    public mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }

    public mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count {
            let value = next()
            for place in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * place))) }
        }
        bytes.removeLast(bytes.count - count)
        return bytes
    }
}
