/// A read or write of consecutive bytes of one region: the request, and the reply that repeats it.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | offset in the region |
/// | 8 | 4 | region index |
/// | 12 | 4 | number of bytes |
/// | 16 | … | the bytes: in the request of a write, in the reply of a read |
///
/// `VFIO_USER_REGION_READ`, `VFIO_USER_REGION_WRITE`
public struct RegionAccess: Hashable, Sendable {
    /// Where in the payload the bytes lie, `count` of them.
    public static let dataOffset = 16

    public var offset: UInt64
    public var region: UInt32
    public var count: Int

    public init(offset: UInt64, region: UInt32, count: Int) {
        self.offset = offset
        self.region = region
        self.count = count
    }

    /// Reads a message without data: the request of a read, the reply of a write.
    public init(parsingWithoutData payload: Span<UInt8>) throws(WireError) {
        try self.init(parsingFixedPart: payload)
        try payload.requireCount(exactly: RegionAccess.dataOffset)
    }

    /// Reads a message with data: the request of a write, the reply of a read.
    ///
    /// Exactly `count` bytes follow at `dataOffset`.
    public init(parsingWithData payload: Span<UInt8>) throws(WireError) {
        try self.init(parsingFixedPart: payload)
        try payload.requireData(from: RegionAccess.dataOffset, statedCount: count)
    }

    /// Writes the fixed part; data follow where the message has them.
    public func write(to writer: inout MessageWriter) {
        writer.append(offset)
        writer.append(region)
        writer.append(count32: count)
    }

    private init(parsingFixedPart payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: RegionAccess.dataOffset)
        offset = payload.integer(at: 0)
        region = payload.integer(at: 8)
        count = payload.count32(at: 12)
    }
}
