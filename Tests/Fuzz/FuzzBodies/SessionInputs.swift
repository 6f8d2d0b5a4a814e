import Randomness
import VFIOUserCheck

/// Inputs by seed.
public enum SessionInputs {
    /// A session's script: bytes at random, of a length that is short more often than long.
    public static func input(seed: UInt64, number: UInt64) -> [UInt8] {
        var random = SeededNumbers(seed: seed, run: number)
        let length = 8 + random.below(1 << (4 + random.below(6)))
        var input = random.bytes(length)
        // In turn, so that no device depends on luck; most sessions open and end as they should.
        input[0] = UInt8(number % 3)
        if random.below(4) > 0 { input[1] = 0 }
        if random.below(4) > 0 { input[2] = UInt8(8 * random.below(2)) }
        return input
    }
}
