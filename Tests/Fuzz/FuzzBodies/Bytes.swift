/// The protocol's numbers and layouts as the standard has them, spelled out here so that our own definitions are checked
/// against another reading of it.
enum Number {
    static let version: UInt16 = 1
    static let mapDMA: UInt16 = 2
    static let unmapDMA: UInt16 = 3
    static let getDeviceInfo: UInt16 = 4
    static let getRegionInfo: UInt16 = 5
    static let getRegionIODescriptors: UInt16 = 6
    static let getInterruptInfo: UInt16 = 7
    static let setInterrupts: UInt16 = 8
    static let readRegion: UInt16 = 9
    static let writeRegion: UInt16 = 10
    static let readClientMemory: UInt16 = 11
    static let writeClientMemory: UInt16 = 12
    static let resetDevice: UInt16 = 13
    static let dirtyPages: UInt16 = 14
    static let writeRegions: UInt16 = 15
    static let deviceFeature: UInt16 = 16
    static let readMigrationData: UInt16 = 17
    static let writeMigrationData: UInt16 = 18
}

enum HeaderFlags {
    static let typeMask: UInt32 = 0xf
    static let reply: UInt32 = 1
    static let noReply: UInt32 = 1 << 4
    static let error: UInt32 = 1 << 5
}

/// Bytes of a header.
let headerSize = 16
/// No message is longer: a region access of 1 MiB, its payload's fixed part and the header.
let maximumMessageSize = (1 << 20) + 32

/// A piece of a message; numbers go least significant byte first.
enum Field {
    case u8(UInt8)
    case u16(UInt16)
    case u32(UInt32)
    case u64(UInt64)
    case raw([UInt8])
    case text(String)
    case zeros(Int)
}

func bytes(_ fields: Field...) -> [UInt8] {
    var bytes: [UInt8] = []
    for field in fields {
        switch field {
        case .u8(let value): bytes.append(value)
        case .u16(let value): bytes.append(UInt64(value), byteCount: 2)
        case .u32(let value): bytes.append(UInt64(value), byteCount: 4)
        case .u64(let value): bytes.append(value, byteCount: 8)
        case .raw(let raw): bytes += raw
        case .text(let text): bytes += Array(text.utf8)
        case .zeros(let count): bytes += [UInt8](repeating: 0, count: count)
        }
    }
    return bytes
}

extension [UInt8] {
    mutating func append(_ value: UInt64, byteCount: Int) {
        for place in 0..<byteCount { append(UInt8(truncatingIfNeeded: value >> UInt64(8 * place))) }
    }

    mutating func put(_ value: UInt64, at offset: Int, byteCount: Int) {
        for place in 0..<byteCount { self[offset + place] = UInt8(truncatingIfNeeded: value >> UInt64(8 * place)) }
    }

    func u16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func u32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func u64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    private func number(at offset: Int, byteCount: Int) -> UInt64 {
        var value: UInt64 = 0
        for place in 0..<byteCount { value |= UInt64(self[offset + place]) << UInt64(8 * place) }
        return value
    }
}

/// A whole message.
func message(
    _ command: UInt16, id: UInt16, flags: UInt32 = 0, error: UInt32 = 0, _ payload: [UInt8] = []
) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(headerSize + payload.count)
    bytes.append(UInt64(id), byteCount: 2)
    bytes.append(UInt64(command), byteCount: 2)
    bytes.append(UInt64(headerSize + payload.count), byteCount: 4)
    bytes.append(UInt64(flags), byteCount: 4)
    bytes.append(UInt64(error), byteCount: 4)
    return bytes + payload
}

/// What QEMU 10.2 to 11.1 sends in its first message.
let qemuCapabilities = """
    {"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, \
    "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}
    """

/// What cloud-hypervisor sends.
let cloudHypervisorCapabilities =
    #"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#

func versionPayload(_ json: String?, major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
    guard let json else { return bytes(.u16(major), .u16(minor)) }
    return bytes(.u16(major), .u16(minor), .text(json), .u8(0))
}
