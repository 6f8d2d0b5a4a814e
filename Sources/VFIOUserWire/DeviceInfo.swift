/// A request for the kind of the device. `VFIO_USER_DEVICE_GET_INFO`
///
/// Laid out as `DeviceInfo`, of which only the first field counts; clients leave anything in the others.
public struct DeviceInfoRequest: Hashable, Sendable {
    public var maximumReplySize: Int

    public init(maximumReplySize: Int = DeviceInfo.byteCount) {
        self.maximumReplySize = maximumReplySize
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: DeviceInfo.byteCount)
        maximumReplySize = try payload.argumentSize(atLeast: DeviceInfo.byteCount)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: maximumReplySize)
        writer.appendZeros(DeviceInfo.byteCount - 4)
    }
}

/// What kind of device the server has, and of how many parts.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of the full answer (`argsz`) |
/// | 4 | 4 | flags: bit 0 can be reset, bit 1 is a PCI device |
/// | 8 | 4 | number of regions |
/// | 12 | 4 | number of interrupt indexes |
///
/// `struct vfio_user_device_info`
public struct DeviceInfo: Hashable, Sendable {
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        public static let reset = Flags(rawValue: 1 << 0)
        public static let pci = Flags(rawValue: 1 << 1)
    }

    public static let byteCount = 16

    public var flags: Flags
    public var regionCount: Int
    public var interruptIndexCount: Int

    public init(flags: Flags, regionCount: Int, interruptIndexCount: Int) {
        self.flags = flags
        self.regionCount = regionCount
        self.interruptIndexCount = interruptIndexCount
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: DeviceInfo.byteCount)
        _ = try payload.argumentSize(atLeast: DeviceInfo.byteCount)
        flags = Flags(rawValue: payload.integer(at: 4))
        regionCount = payload.count32(at: 8)
        interruptIndexCount = payload.count32(at: 12)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: DeviceInfo.byteCount)
        writer.append(flags.rawValue)
        writer.append(count32: regionCount)
        writer.append(count32: interruptIndexCount)
    }
}
