/// Requests as a driver lays them out, by the standard's tables.
public enum RequestBytes {
    public static func attach(
        _ endpoint: UInt32, to domain: UInt32, flags: UInt32 = 0, reserved: UInt32 = 0
    ) -> [UInt8] {
        [1, 0, 0, 0] + bytes(domain) + bytes(endpoint) + bytes(flags) + bytes(reserved)
    }

    public static func detach(_ endpoint: UInt32, from domain: UInt32, reserved: UInt64 = 0) -> [UInt8] {
        [2, 0, 0, 0] + bytes(domain) + bytes(endpoint) + bytes(reserved)
    }

    public static func map(
        _ domain: UInt32, _ first: UInt64, _ last: UInt64, to physical: UInt64, flags: UInt32 = 3
    ) -> [UInt8] {
        [3, 0, 0, 0] + bytes(domain) + bytes(first) + bytes(last) + bytes(physical) + bytes(flags)
    }

    public static func unmap(_ domain: UInt32, _ first: UInt64, _ last: UInt64, reserved: UInt32 = 0) -> [UInt8] {
        [4, 0, 0, 0] + bytes(domain) + bytes(first) + bytes(last) + bytes(reserved)
    }

    public static func probe(_ endpoint: UInt32) -> [UInt8] {
        [5, 0, 0, 0] + bytes(endpoint) + [UInt8](repeating: 0, count: 64)
    }

    private static func bytes<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        (0..<Value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }
}

/// A request as its driver gives it to the device: how its bytes are split over descriptors, and how much the device may
/// write.
public struct RequestChain {
    public var readable: [[UInt8]]
    public var writable: [Int]
    /// Whether the descriptors are in a table of their own.
    public var isIndirect = false

    public init(_ bytes: [UInt8], room: Int = 4) {
        readable = bytes.isEmpty ? [] : [bytes]
        writable = room == 0 ? [] : [room]
    }

    public init(readable: [[UInt8]], writable: [Int], isIndirect: Bool = false) {
        self.readable = readable
        self.writable = writable
        self.isIndirect = isIndirect
    }
}
