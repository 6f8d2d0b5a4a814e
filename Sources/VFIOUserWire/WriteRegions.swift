/// Several small writes to regions in one message, to be done in order.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | number of writes |
/// | 8 | 24 each | writes |
///
/// The reply has the number of writes done and nothing else. `VFIO_USER_REGION_WRITE_MULTI`
public struct WriteRegions: Hashable, Sendable {
    /// One of the writes.
    ///
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 8 | offset in the region |
    /// | 8 | 4 | region index |
    /// | 12 | 4 | number of bytes, 0 to 8 |
    /// | 16 | 8 | the bytes, and padding |
    public struct Write: Hashable, Sendable {
        public static let byteCount = 24
        public static let maximumDataByteCount = 8
        /// Where in a write the bytes lie, `count` of them.
        public static let dataOffset = 16

        public var offset: UInt64
        public var region: UInt32
        public var count: Int
        /// The bytes as a little-endian number: the first is the least significant one.
        public var data: UInt64

        /// Precondition: at most eight bytes.
        public init(offset: UInt64, region: UInt32, count: Int, data: UInt64) {
            precondition((0...Write.maximumDataByteCount).contains(count), "a write of more than eight bytes")
            self.offset = offset
            self.region = region
            self.count = count
            self.data = data
        }

        init(parsing payload: Span<UInt8>, at start: Int) throws(WireError) {
            offset = payload.integer(at: start)
            region = payload.integer(at: start + 8)
            count = payload.count32(at: start + 12)
            if count > Write.maximumDataByteCount {
                throw .countTooLarge(maximum: Write.maximumDataByteCount, actual: UInt64(count))
            }
            data = payload.integer(at: start + 16)
        }

        public func write(to writer: inout MessageWriter) {
            writer.append(offset)
            writer.append(region)
            writer.append(count32: count)
            writer.append(data)
        }
    }

    /// Where in the payload the first write lies.
    public static let writesOffset = 8

    public var count: Int

    public init(count: Int) {
        self.count = count
    }

    /// Checks the lengths of all writes; `write(at:in:)` then reads them one by one.
    public init(parsing payload: Span<UInt8>) throws(WireError) {
        let stated = try WriteRegions.statedCount(in: payload)
        let (room, rest) = (payload.count - WriteRegions.writesOffset).quotientAndRemainder(dividingBy: Write.byteCount)
        if rest != 0 || stated != UInt64(room) {
            throw .sizeMismatch(stated: stated, actual: payload.count - WriteRegions.writesOffset)
        }
        count = room
        for index in 0..<room {
            _ = try Write(parsing: payload, at: WriteRegions.offset(of: index))
        }
    }

    /// Where in the payload the write at `index` lies, and its data 16 bytes further.
    public static func offset(of index: Int) -> Int {
        writesOffset + index * Write.byteCount
    }

    /// The write at `index` of the payload that this value was read from.
    ///
    /// Throws nothing for that payload.
    public func write(at index: Int, in payload: Span<UInt8>) throws(WireError) -> Write {
        precondition((0..<count).contains(index), "a write outside the message")
        try payload.requireCount(atLeast: WriteRegions.offset(of: index + 1))
        return try Write(parsing: payload, at: WriteRegions.offset(of: index))
    }

    /// Reads a reply: the number of writes done.
    public init(parsingReply payload: Span<UInt8>) throws(WireError) {
        let stated = try WriteRegions.statedCount(in: payload)
        try payload.requireCount(exactly: WriteRegions.writesOffset)
        guard let count = Int(exactly: stated) else { throw .countTooLarge(maximum: Int.max, actual: stated) }
        self.count = count
    }

    /// Writes the count: the whole of a reply, or the start of a request whose writes follow.
    public func write(to writer: inout MessageWriter) {
        writer.append(UInt64(count))
    }

    private static func statedCount(in payload: Span<UInt8>) throws(WireError) -> UInt64 {
        try payload.requireCount(atLeast: writesOffset)
        return payload.integer(at: 0)
    }
}
