/// A request for the properties of one region. `VFIO_USER_DEVICE_GET_REGION_INFO`
///
/// Laid out as `RegionInfo`, of which `argsz` and the index count.
public struct RegionInfoRequest: Hashable, Sendable {
    public var maximumReplySize: Int
    public var index: UInt32

    public init(index: UInt32, maximumReplySize: Int = RegionInfo.byteCount) {
        self.index = index
        self.maximumReplySize = maximumReplySize
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: RegionInfo.byteCount)
        maximumReplySize = try payload.argumentSize(atLeast: RegionInfo.byteCount)
        index = payload.integer(at: 8)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: maximumReplySize)
        writer.append(UInt32(0))
        writer.append(index)
        writer.appendZeros(RegionInfo.byteCount - 12)
    }
}

/// The properties of one region of a device.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of the full answer (`argsz`) |
/// | 4 | 4 | flags: bit 0 read, bit 1 write, bit 2 mmap, bit 3 capabilities follow |
/// | 8 | 4 | index |
/// | 12 | 4 | offset of the first capability in this payload, or 0 |
/// | 16 | 8 | size of the region, 0 when it is absent |
/// | 24 | 8 | offset of the region in the descriptor to map |
/// | 32 | … | capabilities |
///
/// An answer that does not fit the client's `argsz` is cut to its fixed part; the client learns the full size from it
/// and asks again. `struct vfio_user_region_info`
public struct RegionInfo: Hashable, Sendable {
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        public static let read = Flags(rawValue: 1 << 0)
        public static let write = Flags(rawValue: 1 << 1)
        public static let mappable = Flags(rawValue: 1 << 2)
        static let capabilities = Flags(rawValue: 1 << 3)
    }

    public static let byteCount = 32

    /// Rights and whether it can be mapped; the bit for capabilities follows from `capabilities`.
    public var flags: Flags
    public var index: UInt32
    public var size: UInt64
    public var mappingOffset: UInt64
    public let capabilities: [RegionCapability]
    /// Bytes of the full answer; in a parsed answer that was cut short, more than what arrived.
    public let requiredReplySize: Int

    public init(
        index: UInt32, flags: Flags, size: UInt64, mappingOffset: UInt64 = 0, capabilities: [RegionCapability] = []
    ) {
        self.flags = flags
        self.index = index
        self.size = size
        self.mappingOffset = mappingOffset
        self.capabilities = capabilities
        requiredReplySize = RegionInfo.size(with: capabilities)
    }

    /// Whether the answer in full fits a client that takes `maximumReplySize` bytes. Only then a descriptor goes with it.
    public func fits(_ maximumReplySize: Int) -> Bool {
        requiredReplySize <= maximumReplySize
    }

    /// Reads an answer; one that was cut short has no capabilities and `requiredReplySize` says what to ask for.
    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: RegionInfo.byteCount)
        let statedSize = try payload.argumentSize(atLeast: RegionInfo.byteCount)
        flags = Flags(rawValue: payload.integer(at: 4))
        index = payload.integer(at: 8)
        size = payload.integer(at: 16)
        mappingOffset = payload.integer(at: 24)
        let hasCapabilities = flags.remove(.capabilities) != nil
        if payload.count < statedSize {
            capabilities = []
            requiredReplySize = statedSize
        } else {
            capabilities =
                hasCapabilities ? try RegionCapability.parseChain(in: payload, from: payload.count32(at: 12)) : []
            requiredReplySize = RegionInfo.size(with: capabilities)
        }
    }

    /// Writes as much of the answer as the client takes: all of it, or the fixed part.
    public func write(to writer: inout MessageWriter, maximumReplySize: Int) {
        let hasCapabilities = !capabilities.isEmpty && fits(maximumReplySize)
        writer.append(count32: requiredReplySize)
        writer.append(hasCapabilities ? flags.union(.capabilities).rawValue : flags.rawValue)
        writer.append(index)
        writer.append(count32: hasCapabilities ? RegionInfo.byteCount : 0)
        writer.append(size)
        writer.append(mappingOffset)
        if hasCapabilities { RegionCapability.writeChain(capabilities, to: &writer) }
    }

    private static func size(with capabilities: [RegionCapability]) -> Int {
        capabilities.reduce(byteCount) { $0 + $1.byteCount }
    }
}
