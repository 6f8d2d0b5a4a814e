/// An address in an I/O address space: what a device says when it means a byte of memory.
///
/// It deliberately has no `+` with plain integers; `advanced(by:)` reports what runs past the top of the space.
public struct IOVA: RawRepresentable, Hashable, Comparable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    public init(_ rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// The address `byteCount` bytes further up.
    ///
    /// - Throws: `EOVERFLOW` when that is past 2^64 − 1.
    public func advanced(by byteCount: UInt64) throws(DMAError) -> IOVA {
        let (sum, overflow) = rawValue.addingReportingOverflow(byteCount)
        if overflow { throw .overflow }
        return IOVA(sum)
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    public func isAligned(to alignment: UInt64) -> Bool {
        rawValue & (alignment - 1) == 0
    }

    public static func < (left: IOVA, right: IOVA) -> Bool {
        left.rawValue < right.rawValue
    }

    /// The address after this one, `nil` at the top of the space.
    var successor: IOVA? { rawValue == .max ? nil : IOVA(rawValue + 1) }
    /// The address before this one, `nil` at the bottom of the space.
    var predecessor: IOVA? { rawValue == 0 ? nil : IOVA(rawValue - 1) }
}

extension IOVA: CustomStringConvertible {
    public var description: String { "0x" + String(rawValue, radix: 16) }
}

/// The addresses from `first` to `last`, both included.
///
/// Inclusive, so that the last byte of the space is an ordinary one; there is no empty range.
public struct IOVARange: Hashable, Sendable {
    public let first, last: IOVA

    /// - Precondition: `first` is not above `last`.
    public init(first: IOVA, last: IOVA) {
        precondition(first <= last, "a range ends before it begins")
        self.first = first
        self.last = last
    }

    /// The `byteCount` bytes from `first` on.
    ///
    /// - Throws: `EINVAL` for no bytes, `EOVERFLOW` when they run past 2^64.
    public init(first: IOVA, byteCount: UInt64) throws(DMAError) {
        guard byteCount > 0 else { throw .invalid }
        self.first = first
        last = try first.advanced(by: byteCount - 1)
    }

    /// All 2^64 addresses.
    public static let everything = IOVARange(first: IOVA(0), last: IOVA(.max))

    /// The number of bytes. `everything` is one byte larger than 64 bits can say and answers `UInt64.max`.
    public var byteCount: UInt64 {
        let distance = last.rawValue - first.rawValue
        return distance == .max ? .max : distance + 1
    }

    public func contains(_ iova: IOVA) -> Bool {
        first <= iova && iova <= last
    }

    public func contains(_ other: IOVARange) -> Bool {
        first <= other.first && other.last <= last
    }

    public func overlaps(_ other: IOVARange) -> Bool {
        first <= other.last && other.first <= last
    }

    /// The addresses in both ranges, `nil` when there are none.
    public func intersection(_ other: IOVARange) -> IOVARange? {
        guard overlaps(other) else { return nil }
        return IOVARange(first: max(first, other.first), last: min(last, other.last))
    }
}

extension IOVARange: CustomStringConvertible {
    public var description: String { "\(first)...\(last)" }
}
