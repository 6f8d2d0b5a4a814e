/// The number in a device's access that says in whose address space its address is.
///
/// Zero is no PASID: it stands for accesses that carry none, which are the function's own. PCI Express, "Process Address
/// Space ID"; `ioasid_t`
public struct PASID: RawRepresentable, Hashable, Comparable, Sendable {
    /// PASIDs are below; the prefix of a transaction has 20 bits for one.
    public static let limit: UInt32 = 1 << 20

    public let rawValue: UInt32

    /// `nil` for zero and for what does not fit 20 bits: drivers put any number into a descriptor.
    public init?(rawValue: UInt32) {
        guard rawValue > 0, rawValue < PASID.limit else { return nil }
        self.rawValue = rawValue
    }

    public static func < (left: PASID, right: PASID) -> Bool { left.rawValue < right.rawValue }
}

extension PASID: CustomStringConvertible {
    public var description: String { "PASID \(rawValue)" }
}

/// A set of PASIDs that hands out the lowest one it does not hold.
struct PASIDSet {
    private var words: [UInt64] = []
    private(set) var count = 0

    func contains(_ pasid: PASID) -> Bool {
        let (index, bit) = PASIDSet.place(of: pasid.rawValue)
        return index < words.count && words[index] & bit != 0
    }

    /// Inserts the lowest number above zero and below `limit` that is free; `nil` when there is none.
    mutating func insertLowest(below limit: UInt32) -> PASID? {
        var index = 0
        while index < words.count, PASIDSet.taken(words[index], at: index) == .max { index += 1 }
        let word = index < words.count ? PASIDSet.taken(words[index], at: index) : PASIDSet.taken(0, at: index)
        let number = UInt32(clamping: index * UInt64.bitWidth + (~word).trailingZeroBitCount)
        guard number < limit, let pasid = PASID(rawValue: number) else { return nil }
        insert(pasid)
        return pasid
    }

    /// Whether it was not there before.
    @discardableResult
    mutating func insert(_ pasid: PASID) -> Bool {
        guard !contains(pasid) else { return false }
        let (index, bit) = PASIDSet.place(of: pasid.rawValue)
        while words.count <= index { words.append(0) }
        words[index] |= bit
        count += 1
        return true
    }

    mutating func remove(_ pasid: PASID) {
        guard contains(pasid) else { return }
        let (index, bit) = PASIDSet.place(of: pasid.rawValue)
        words[index] &= ~bit
        count -= 1
    }

    /// A word with the numbers that are not to be had: zero is in the first one.
    private static func taken(_ word: UInt64, at index: Int) -> UInt64 { index == 0 ? word | 1 : word }

    private static func place(of number: UInt32) -> (index: Int, bit: UInt64) {
        let (index, bit) = Int(number).quotientAndRemainder(dividingBy: UInt64.bitWidth)
        return (index, 1 << UInt64(bit))
    }
}
