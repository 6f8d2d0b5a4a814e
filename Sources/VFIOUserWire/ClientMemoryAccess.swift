/// A read or write of client memory that the server asks the client for: the request, and the reply that repeats it.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | address |
/// | 8 | 8 | number of bytes |
/// | 16 | … | the bytes: in the request of a write, in the reply of a read |
///
/// QEMU up to 11.0 lays the same messages out as `LegacyClientMemoryAccess`. `VFIO_USER_DMA_READ`, `VFIO_USER_DMA_WRITE`
public struct ClientMemoryAccess: Hashable, Sendable {
    /// Where in the payload the bytes lie, `count` of them.
    public static let dataOffset = 16

    public var address: UInt64
    public var count: Int

    public init(address: UInt64, count: Int) {
        self.address = address
        self.count = count
    }

    /// Reads a message without data: the request of a read, the reply of a write.
    ///
    /// The reply of a write without any payload is a legacy client's, see `isLegacyWriteReply(_:)`.
    public init(parsingWithoutData payload: Span<UInt8>) throws(WireError) {
        try self.init(parsingFixedPart: payload)
        try payload.requireCount(exactly: ClientMemoryAccess.dataOffset)
    }

    /// Reads a message with data: the request of a write, the reply of a read.
    ///
    /// Exactly `count` bytes follow at `dataOffset`.
    public init(parsingWithData payload: Span<UInt8>) throws(WireError) {
        try self.init(parsingFixedPart: payload)
        try payload.requireData(from: ClientMemoryAccess.dataOffset, statedCount: count)
    }

    /// Writes the fixed part; data follow where the message has them.
    public func write(to writer: inout MessageWriter) {
        writer.append(address)
        writer.append(UInt64(count))
    }

    /// Whether the payload of a reply to a write shows a client that lays out `LegacyClientMemoryAccess`.
    public static func isLegacyWriteReply(_ payload: Span<UInt8>) -> Bool {
        payload.isEmpty
    }

    /// Whether a reply answers this request, in full or with fewer bytes.
    public func isAnswered(by reply: ClientMemoryAccess) -> Bool {
        reply.address == address && reply.count <= count
    }

    private init(parsingFixedPart payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: ClientMemoryAccess.dataOffset)
        address = payload.integer(at: 0)
        let stated: UInt64 = payload.integer(at: 8)
        guard let count = Int(exactly: stated) else { throw .countTooLarge(maximum: Int.max, actual: stated) }
        self.count = count
    }
}

/// `ClientMemoryAccess` as QEMU 10.1 to 11.0 lays it out, four bytes short of the standard.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | address |
/// | 8 | 4 | number of bytes |
/// | 12 | … | the bytes: in the request of a write, in the reply of a read |
///
/// Its messages are as long as the standard's all the same: after the data come four bytes that mean nothing. The reply
/// of a write is a header alone.
public struct LegacyClientMemoryAccess: Hashable, Sendable {
    public static let dataOffset = 12
    static let paddingByteCount = 4
    private static let byteCountWithoutData = dataOffset + paddingByteCount

    public var address: UInt64
    public var count: Int

    public init(address: UInt64, count: Int) {
        self.address = address
        self.count = count
    }

    /// Reads a message with data: the request of a write, the reply of a read.
    ///
    /// `count` bytes follow at `dataOffset`, and the padding.
    public init(parsingWithData payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: LegacyClientMemoryAccess.byteCountWithoutData)
        address = payload.integer(at: 0)
        count = payload.count32(at: 8)
        try payload.requireData(from: LegacyClientMemoryAccess.byteCountWithoutData, statedCount: count)
    }

    /// Reads the request of a read, which the standard's form with a count below 2³² is too.
    public init(parsingWithoutData payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(exactly: LegacyClientMemoryAccess.byteCountWithoutData)
        address = payload.integer(at: 0)
        count = payload.count32(at: 8)
    }

    /// Writes the fixed part of a message with data; the data and then `writePadding(to:)` follow.
    public func write(to writer: inout MessageWriter) {
        writer.append(address)
        writer.append(count32: count)
    }

    public static func writePadding(to writer: inout MessageWriter) {
        writer.appendZeros(paddingByteCount)
    }
}
