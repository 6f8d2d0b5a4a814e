/// A request to make a range of the I/O address space lead to client memory.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of this request (`argsz`) |
/// | 4 | 4 | flags: bit 0 read, bit 1 write, bit 2 access by mmap, bit 3 access by file I/O |
/// | 8 | 8 | offset in the file |
/// | 16 | 8 | address |
/// | 24 | 8 | size |
///
/// The memory is that of the descriptor that comes along; without one it is reached by messages. The reply has no
/// payload. `VFIO_USER_DMA_MAP`
public struct MapDMA: Hashable, Sendable {
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        public static let read = Flags(rawValue: 1 << 0)
        public static let write = Flags(rawValue: 1 << 1)
        public static let accessByMapping = Flags(rawValue: 1 << 2)
        public static let accessByFileIO = Flags(rawValue: 1 << 3)
        static let all: Flags = [.read, .write, .accessByMapping, .accessByFileIO]
    }

    public static let byteCount = 32

    public var flags: Flags
    public var fileOffset: UInt64
    public var address: UInt64
    public var size: UInt64

    public init(flags: Flags, fileOffset: UInt64, address: UInt64, size: UInt64) {
        self.flags = flags
        self.fileOffset = fileOffset
        self.address = address
        self.size = size
    }

    /// The addresses the mapping covers; may end at the very top of the space.
    ///
    /// Precondition: the range is neither empty nor past 2⁶⁴, as `init(parsing:)` ensures.
    public var addresses: ClosedRange<UInt64> { address...(address + (size - 1)) }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: MapDMA.byteCount)
        _ = try payload.argumentSize(atLeast: MapDMA.byteCount)
        flags = Flags(rawValue: payload.integer(at: 4))
        try flags.rawValue.requireOnly(Flags.all.rawValue)
        fileOffset = payload.integer(at: 8)
        address = payload.integer(at: 16)
        size = payload.integer(at: 24)
        _ = try checkedRange(address: address, byteCount: size)
        _ = try checkedRange(address: fileOffset, byteCount: size)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: MapDMA.byteCount)
        writer.append(flags.rawValue)
        writer.append(fileOffset)
        writer.append(address)
        writer.append(size)
    }
}
