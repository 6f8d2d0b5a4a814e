/// A piece of a message as the test spells it; numbers go least significant byte first.
enum Field {
    case u8(UInt8)
    case u16(UInt16)
    case u32(UInt32)
    case u64(UInt64)
    case raw([UInt8])
    case text(String)
    case zeros(Int)

    var bytes: [UInt8] {
        switch self {
        case .u8(let value): [value]
        case .u16(let value): littleEndian(UInt64(value), byteCount: 2)
        case .u32(let value): littleEndian(UInt64(value), byteCount: 4)
        case .u64(let value): littleEndian(value, byteCount: 8)
        case .raw(let bytes): bytes
        case .text(let text): Array(text.utf8)
        case .zeros(let count): [UInt8](repeating: 0, count: count)
        }
    }
}

func littleEndian(_ value: UInt64, byteCount: Int) -> [UInt8] {
    (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

func bytes(_ fields: Field...) -> [UInt8] { fields.flatMap(\.bytes) }

/// A whole message. `size` is what the header states, by default the truth.
func message(
    _ command: UInt16, id: UInt16 = 1, flags: UInt32 = 0, error: UInt32 = 0, size: UInt32? = nil,
    _ payload: [UInt8] = []
) -> [UInt8] {
    bytes(
        .u16(id), .u16(command), .u32(size ?? UInt32(16 + payload.count)), .u32(flags), .u32(error), .raw(payload))
}

extension Collection<UInt8> where Index == Int {
    func u16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func u32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func u64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    /// All the bytes as one number.
    var number: UInt64 { number(at: 0, byteCount: count) }

    private func number(at offset: Int, byteCount: Int) -> UInt64 {
        (0..<byteCount).reduce(0) { $0 | UInt64(self[startIndex + offset + $1]) << UInt64($1 * 8) }
    }
}

/// The numbers of the commands, as the standard has them.
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
    static let reply: UInt32 = 1
    static let noReply: UInt32 = 1 << 4
    static let error: UInt32 = 1 << 5
}

/// Bits of the flags of `VFIO_USER_DEVICE_SET_IRQS`.
enum SetFlags {
    static let none: UInt32 = 1 << 0
    static let booleans: UInt32 = 1 << 1
    static let descriptors: UInt32 = 1 << 2
    static let mask: UInt32 = 1 << 3
    static let unmask: UInt32 = 1 << 4
    static let trigger: UInt32 = 1 << 5
}

/// Payloads, field by field.
enum Payload {
    static func version(_ json: String?, major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
        guard let json else { return bytes(.u16(major), .u16(minor)) }
        return bytes(.u16(major), .u16(minor), .text(json), .u8(0))
    }

    /// What QEMU 10.2 to 11.1 sends: 193 characters, in a message of 214 bytes.
    static let qemuCapabilities = """
        {"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, \
        "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}
        """

    /// What cloud-hypervisor sends.
    static let cloudHypervisorCapabilities =
        #"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#

    static func map(
        at address: UInt64, size: UInt64, offset: UInt64 = 0, flags: UInt32 = 3, argsz: UInt32 = 32
    ) -> [UInt8] {
        bytes(.u32(argsz), .u32(flags), .u64(offset), .u64(address), .u64(size))
    }

    static func unmap(at address: UInt64, size: UInt64, flags: UInt32 = 0, argsz: UInt32 = 24) -> [UInt8] {
        bytes(.u32(argsz), .u32(flags), .u64(address), .u64(size))
    }

    static func deviceInfo(argsz: UInt32 = 16) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(0), .u32(0))
    }

    static func regionInfo(_ index: UInt32, argsz: UInt32 = 32) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(index), .u32(0), .u64(0), .u64(0))
    }

    static func interruptInfo(_ index: UInt32, argsz: UInt32 = 16) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(index), .u32(0))
    }

    static func setInterrupts(
        _ flags: UInt32, index: UInt32, start: UInt32 = 0, count: UInt32, argsz: UInt32? = nil, _ data: [UInt8] = []
    ) -> [UInt8] {
        bytes(
            .u32(argsz ?? UInt32(20 + data.count)), .u32(flags), .u32(index), .u32(start), .u32(count), .raw(data))
    }

    static func read(_ region: UInt32, at offset: UInt64, count: UInt32) -> [UInt8] {
        bytes(.u64(offset), .u32(region), .u32(count))
    }

    static func write(_ region: UInt32, at offset: UInt64, _ data: [UInt8], count: UInt32? = nil) -> [UInt8] {
        bytes(.u64(offset), .u32(region), .u32(count ?? UInt32(data.count)), .raw(data))
    }

    static func feature(_ number: UInt32, _ operations: UInt32, argsz: UInt32 = 8, _ data: [UInt8] = []) -> [UInt8] {
        bytes(.u32(argsz), .u32(number | operations), .raw(data))
    }

    enum FeatureOperation {
        static let get: UInt32 = 1 << 16
        static let set: UInt32 = 1 << 17
        static let probe: UInt32 = 1 << 18
    }
}

/// VFIO's indexes of what the tests touch.
enum Region {
    static let configuration: UInt32 = 7
    static let rom: UInt32 = 6
}

enum Interrupt {
    static let intx: UInt32 = 0
    static let msi: UInt32 = 1
    static let msix: UInt32 = 2
    static let error: UInt32 = 3
    static let request: UInt32 = 4
}

let invalid: UInt32 = 22
let exists: UInt32 = 17
let notPermitted: UInt32 = 1
