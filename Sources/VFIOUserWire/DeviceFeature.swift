/// A request to get, set or ask for an optional feature of the device; its reply has the same layout.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | largest reply payload the client takes, in a reply the size of the full answer (`argsz`) |
/// | 4 | 4 | flags: bits 0–15 feature, bit 16 get, bit 17 set, bit 18 probe |
/// | 8 | … | data of the feature |
///
/// `VFIO_USER_DEVICE_FEATURE`
public struct DeviceFeature: Hashable, Sendable {
    public struct Operations: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        public static let get = Operations(rawValue: 1 << 16)
        public static let set = Operations(rawValue: 1 << 17)
        /// Only asks whether the other operations exist.
        public static let probe = Operations(rawValue: 1 << 18)
        static let all: Operations = [.get, .set, .probe]
    }

    /// Which feature; the numbers are the kernel's. `VFIO_DEVICE_FEATURE_*`
    public struct Feature: RawRepresentable, Hashable, Sendable {
        public let rawValue: UInt16

        public init(rawValue: UInt16) {
            self.rawValue = rawValue
        }

        public static let migration = Feature(rawValue: 1)
        public static let migrationDeviceState = Feature(rawValue: 2)
        public static let startDMALogging = Feature(rawValue: 6)
        public static let stopDMALogging = Feature(rawValue: 7)
        public static let reportDMALogging = Feature(rawValue: 8)
        public static let sharedBuffer = Feature(rawValue: 11)
    }

    public static let byteCount = 8
    /// Where in the payload the feature's data lie, up to its end.
    public static let dataOffset = 8

    /// In a request the largest reply, in a reply the size of the full answer.
    public var argumentSize: Int
    public var feature: Feature
    public var operations: Operations

    public init(feature: Feature, operations: Operations, argumentSize: Int) {
        self.feature = feature
        self.operations = operations
        self.argumentSize = argumentSize
    }

    public var maximumReplySize: Int { argumentSize }
    public var requiredReplySize: Int { argumentSize }

    /// Reads a request, and refuses operations that contradict each other.
    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try self.init(parsingFixedPart: payload)
        if operations.isEmpty || operations == [.get, .set] { throw .conflictingFlags(operations.rawValue) }
        // The reply to these repeats the request, so the client has to take at least that much.
        let repeatsRequest = operations.contains(.set) || operations.contains(.probe)
        if repeatsRequest && argumentSize < payload.count {
            throw .argumentSizeTooSmall(minimum: payload.count, actual: argumentSize)
        }
    }

    /// Reads a reply. One that was cut short has fewer bytes than `requiredReplySize`.
    public init(parsingReply payload: Span<UInt8>) throws(WireError) {
        try self.init(parsingFixedPart: payload)
    }

    /// Writes the fixed part; the feature's data follow.
    public func write(to writer: inout MessageWriter) {
        writer.append(count32: argumentSize)
        writer.append(UInt32(feature.rawValue) | operations.rawValue)
    }

    private init(parsingFixedPart payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: DeviceFeature.byteCount)
        argumentSize = try payload.argumentSize(atLeast: DeviceFeature.byteCount)
        let flags: UInt32 = payload.integer(at: 4)
        try flags.requireOnly(Operations.all.rawValue | UInt32(UInt16.max))
        feature = Feature(rawValue: UInt16(truncatingIfNeeded: flags))
        operations = Operations(rawValue: flags).intersection(.all)
    }
}
