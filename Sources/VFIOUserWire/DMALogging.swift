/// Which addresses to watch for writes of the device: the data of the feature that starts it.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | page size, a power of two; in a reply the one that the device will use |
/// | 8 | 4 | number of ranges; 0 for all addresses |
/// | 12 | 4 | reserved |
/// | 16 | 16 each | ranges: first address, size |
///
/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`
public struct StartDMALogging: Hashable, Sendable {
    /// Where the ranges begin.
    public static let byteCount = 16
    static let rangeByteCount = 16
    /// More ranges than this are refused: the kernel's limit, a page full of them.
    public static let maximumRangeCount = 256

    public var pageSize: UInt64
    /// Empty for all addresses.
    public var ranges: [ClosedRange<UInt64>]

    public init(pageSize: UInt64, ranges: [ClosedRange<UInt64>] = []) {
        self.pageSize = pageSize
        self.ranges = ranges
    }

    /// Reads the feature's data; all ranges must be there, none of them empty, none overlapping another.
    public init(parsing data: Span<UInt8>) throws(WireError) {
        try data.requireCount(atLeast: StartDMALogging.byteCount)
        pageSize = try DMALoggingReport.pageSize(data.integer(at: 0))
        let count = data.count32(at: 8)
        guard count <= StartDMALogging.maximumRangeCount else {
            throw .countTooLarge(maximum: StartDMALogging.maximumRangeCount, actual: UInt64(count))
        }
        try data.integer(at: 12, as: UInt32.self).requireOnly(0)
        try data.requireCount(atLeast: StartDMALogging.byteCount + count * StartDMALogging.rangeByteCount)
        ranges = []
        for number in 0..<count {
            let offset = StartDMALogging.byteCount + number * StartDMALogging.rangeByteCount
            let range = try checkedRange(address: data.integer(at: offset), byteCount: data.integer(at: offset + 8))
            if let other = ranges.first(where: { $0.overlaps(range) }) { throw .unknownValue(other.lowerBound) }
            ranges.append(range)
        }
    }

    /// - Precondition: no range has 2⁶⁴ bytes, whose number a size cannot hold; no ranges at all mean that.
    public func write(to writer: inout MessageWriter) {
        writer.append(pageSize)
        writer.append(count32: ranges.count)
        writer.append(UInt32(0))
        for range in ranges {
            precondition(range != 0...UInt64.max, "a range of all addresses has no size")
            writer.append(range.lowerBound)
            writer.append(range.upperBound - range.lowerBound + 1)
        }
    }
}

/// Which pages of a range the device has written to: the data of the feature that tells, and the head of its answer.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | first address |
/// | 8 | 8 | size of the range |
/// | 16 | 8 | page size, a power of two |
/// | 24 | … | in the reply: 64-bit words with a bit for each page, the lowest first |
///
/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`
public struct DMALoggingReport: Hashable, Sendable {
    /// Where the bitmap begins in the reply.
    public static let byteCount = 24
    /// The kernel's limit, too.
    public static let minimumPageSize: UInt64 = 4096

    public let addresses: ClosedRange<UInt64>
    public let pageSize: UInt64

    /// - Throws: `unknownValue` for a page size that is not a power of two from 4096 on, or for an address that is not a
    ///   multiple of it; `emptyRange` and `rangeOverflow`.
    public init(address: UInt64, byteCount: UInt64, pageSize: UInt64) throws(WireError) {
        let pageSize = try Self.pageSize(pageSize)
        guard pageSize >= Self.minimumPageSize else { throw .unknownValue(pageSize) }
        guard address % pageSize == 0 else { throw .unknownValue(address) }
        addresses = try checkedRange(address: address, byteCount: byteCount)
        self.pageSize = pageSize
    }

    /// Reads the feature's data, of a request or of a reply.
    public init(parsing data: Span<UInt8>) throws(WireError) {
        try data.requireCount(atLeast: DMALoggingReport.byteCount)
        try self.init(
            address: data.integer(at: 0), byteCount: data.integer(at: 8), pageSize: data.integer(at: 16))
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(addresses.lowerBound)
        writer.append(addresses.upperBound - addresses.lowerBound + 1)
        writer.append(pageSize)
    }

    /// How many bytes the bitmap has: whole words. At most 2⁴⁹, so it fits in whatever counts it.
    public var bitmapByteCount: UInt64 {
        let lastPage = (addresses.upperBound - addresses.lowerBound) / pageSize
        return (lastPage / 64 + 1) * 8
    }

    fileprivate static func pageSize(_ value: UInt64) throws(WireError) -> UInt64 {
        guard value.nonzeroBitCount == 1 else { throw .unknownValue(value) }
        return value
    }
}
