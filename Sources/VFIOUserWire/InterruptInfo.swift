/// A request for the properties of one interrupt index. `VFIO_USER_DEVICE_GET_IRQ_INFO`
///
/// Laid out as `InterruptInfo`, of which `argsz` and the index count.
public struct InterruptInfoRequest: Hashable, Sendable {
    public var maximumReplySize: Int
    public var index: UInt32

    public init(index: UInt32, maximumReplySize: Int = InterruptInfo.byteCount) {
        self.index = index
        self.maximumReplySize = maximumReplySize
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: InterruptInfo.byteCount)
        maximumReplySize = try payload.argumentSize(atLeast: InterruptInfo.byteCount)
        index = payload.integer(at: 8)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: maximumReplySize)
        writer.append(UInt32(0))
        writer.append(index)
        writer.append(UInt32(0))
    }
}

/// The properties of one interrupt index.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of the full answer (`argsz`) |
/// | 4 | 4 | flags: bit 0 event descriptors, bit 1 maskable, bit 2 masks itself, bit 3 cannot grow |
/// | 8 | 4 | index |
/// | 12 | 4 | number of vectors |
///
/// `struct vfio_user_irq_info`
public struct InterruptInfo: Hashable, Sendable {
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        public static let eventDescriptors = Flags(rawValue: 1 << 0)
        public static let maskable = Flags(rawValue: 1 << 1)
        public static let masksItself = Flags(rawValue: 1 << 2)
        public static let cannotGrow = Flags(rawValue: 1 << 3)
    }

    public static let byteCount = 16

    public var flags: Flags
    public var index: UInt32
    public var vectorCount: Int

    public init(index: UInt32, flags: Flags, vectorCount: Int) {
        self.flags = flags
        self.index = index
        self.vectorCount = vectorCount
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: InterruptInfo.byteCount)
        _ = try payload.argumentSize(atLeast: InterruptInfo.byteCount)
        flags = Flags(rawValue: payload.integer(at: 4))
        index = payload.integer(at: 8)
        vectorCount = payload.count32(at: 12)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: InterruptInfo.byteCount)
        writer.append(flags.rawValue)
        writer.append(index)
        writer.append(count32: vectorCount)
    }
}
