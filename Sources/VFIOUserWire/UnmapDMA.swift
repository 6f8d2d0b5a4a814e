/// A request to forget the mappings in a range, or all of them.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | largest reply payload the client takes (`argsz`) |
/// | 4 | 4 | flags: bit 0 report dirty pages, bit 1 everything |
/// | 8 | 8 | address |
/// | 16 | 8 | size |
/// | 24 | 8 | dirty bitmap: page size, only with bit 0 |
/// | 32 | 8 | dirty bitmap: its size in bytes, only with bit 0 |
///
/// The reply repeats the payload, and with bit 0 appends the bitmap. Bit 0 is of an older edition of the standard;
/// `VFIO_USER_DMA_UNMAP`
public struct UnmapDMA: Hashable, Sendable {
    /// What is to be forgotten.
    public enum Scope: Hashable, Sendable {
        case addresses(ClosedRange<UInt64>)
        case everything
    }

    /// The dirty pages a client of the older standard wants to know in the reply. `struct vfio_user_bitmap`
    public struct DirtyBitmap: Hashable, Sendable {
        /// Bytes per bit, a power of two.
        public var pageSize: UInt64
        /// Bytes of the bitmap.
        public var size: UInt64

        public init(pageSize: UInt64, size: UInt64) {
            self.pageSize = pageSize
            self.size = size
        }
    }

    public static let byteCount = 24
    /// With the request for a dirty bitmap.
    public static let byteCountWithBitmap = 40
    /// No reply is larger; the reference server's limit.
    public static let maximumReplySizeLimit = 1 << 20

    public var maximumReplySize: Int
    public var scope: Scope
    public var dirtyBitmap: DirtyBitmap?
    /// Whether `scope` was spelled as address 0 and size 0 without the flag; the reply repeats the spelling.
    private var isEverythingByZeroes = false

    public init(scope: Scope, dirtyBitmap: DirtyBitmap? = nil, maximumReplySize: Int = UnmapDMA.byteCount) {
        self.scope = scope
        self.dirtyBitmap = dirtyBitmap
        self.maximumReplySize = maximumReplySize
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: UnmapDMA.byteCount)
        maximumReplySize = try payload.argumentSize(
            atLeast: UnmapDMA.byteCount, atMost: UnmapDMA.maximumReplySizeLimit)
        let flags: UInt32 = payload.integer(at: 4)
        try flags.requireOnly(Flags.dirtyBitmap | Flags.everything)
        let address: UInt64 = payload.integer(at: 8)
        let size: UInt64 = payload.integer(at: 16)
        switch flags {
        case Flags.everything:
            if address != 0 || size != 0 { throw .conflictingFlags(flags) }
            scope = .everything
        case 0 where address == 0 && size == 0:
            // QEMU's spelling of 2⁶⁴ bytes when a virtual IOMMU drops a whole address space.
            scope = .everything
            isEverythingByZeroes = true
        case 0:
            scope = .addresses(try checkedRange(address: address, byteCount: size))
        case Flags.dirtyBitmap:
            scope = .addresses(try checkedRange(address: address, byteCount: size))
            dirtyBitmap = try UnmapDMA.parseBitmap(payload, maximumReplySize: maximumReplySize)
        default:
            throw .conflictingFlags(flags)
        }
    }

    /// Writes the request, or the fixed part of the reply, which is the same.
    public func write(to writer: inout MessageWriter) {
        writer.append(count32: maximumReplySize)
        switch scope {
        case .addresses(let range):
            writer.append(dirtyBitmap == nil ? 0 : Flags.dirtyBitmap)
            writer.append(range.lowerBound)
            writer.append(range.upperBound &- range.lowerBound &+ 1)
        case .everything:
            writer.append(isEverythingByZeroes ? 0 : Flags.everything)
            writer.append(UInt64(0))
            writer.append(UInt64(0))
        }
        if let dirtyBitmap {
            writer.append(dirtyBitmap.pageSize)
            writer.append(dirtyBitmap.size)
        }
    }

    private static func parseBitmap(
        _ payload: Span<UInt8>, maximumReplySize: Int
    ) throws(WireError) -> DirtyBitmap {
        try payload.requireCount(atLeast: byteCountWithBitmap)
        let bitmap = DirtyBitmap(pageSize: payload.integer(at: 24), size: payload.integer(at: 32))
        if bitmap.pageSize.nonzeroBitCount != 1 { throw .unknownValue(bitmap.pageSize) }
        let room = maximumReplySize - byteCountWithBitmap
        if room < 0 { throw .argumentSizeTooSmall(minimum: byteCountWithBitmap, actual: maximumReplySize) }
        if bitmap.size > UInt64(room) { throw .countTooLarge(maximum: room, actual: bitmap.size) }
        return bitmap
    }

    private enum Flags {
        static let dirtyBitmap: UInt32 = 1 << 0
        static let everything: UInt32 = 1 << 1
    }
}
