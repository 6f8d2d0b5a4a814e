/// A request for the next piece of the device's state.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | largest reply payload the client takes (`argsz`) |
/// | 4 | 4 | most bytes of state wanted |
///
/// The reply is `MigrationData`. `VFIO_USER_MIG_DATA_READ`
public struct MigrationDataRequest: Hashable, Sendable {
    public static let byteCount = 8

    public var maximumReplySize: Int
    public var count: Int

    public init(count: Int) {
        self.count = count
        maximumReplySize = MigrationData.dataOffset + count
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(exactly: MigrationDataRequest.byteCount)
        count = payload.count32(at: 4)
        maximumReplySize = try payload.argumentSize(atLeast: MigrationData.dataOffset + count)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: maximumReplySize)
        writer.append(count32: count)
    }
}

/// A piece of the device's state: the reply to `MigrationDataRequest`, or a request to take it in.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of this payload (`argsz`) |
/// | 4 | 4 | number of bytes of state |
/// | 8 | … | the bytes |
///
/// `VFIO_USER_MIG_DATA_WRITE`
public struct MigrationData: Hashable, Sendable {
    /// Where in the payload the bytes lie, `count` of them.
    public static let dataOffset = 8

    public var count: Int

    public init(count: Int) {
        self.count = count
    }

    /// Reads a request; exactly `count` bytes follow at `dataOffset`.
    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: MigrationData.dataOffset)
        count = payload.count32(at: 4)
        _ = try payload.argumentSize(atLeast: MigrationData.dataOffset)
        try payload.requireData(from: MigrationData.dataOffset, statedCount: count)
    }

    /// Reads a reply; bytes may follow the state, because some servers send all of a buffer that they filled in part.
    public init(parsingReply payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: MigrationData.dataOffset)
        count = payload.count32(at: 4)
        let room = payload.count - MigrationData.dataOffset
        if count > room { throw .sizeMismatch(stated: UInt64(count), actual: room) }
    }

    /// Writes the fixed part; the bytes follow.
    public func write(to writer: inout MessageWriter) {
        writer.append(count32: MigrationData.dataOffset + count)
        writer.append(count32: count)
    }
}
