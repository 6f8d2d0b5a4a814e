/// A piece of a message; numbers go least significant byte first.
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
    _ command: UInt16, id: UInt16, flags: UInt32 = 0, error: UInt32 = 0, size: UInt32? = nil, _ payload: [UInt8] = []
) -> [UInt8] {
    bytes(.u16(id), .u16(command), .u32(size ?? UInt32(16 + payload.count)), .u32(flags), .u32(error), .raw(payload))
}

/// Numbers within bytes that a server sent; zero where the bytes end, for how many there are is judged by itself.
extension [UInt8] {
    func u16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func u32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func u64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    func number(at offset: Int, byteCount: Int) -> UInt64 {
        guard offset >= 0, offset <= count, byteCount <= count - offset else { return 0 }
        return (0..<byteCount).reduce(0) { $0 | UInt64(self[offset + $1]) << UInt64($1 * 8) }
    }
}

extension UInt64 {
    var hexadecimal: String { "0x" + String(self, radix: 16) }
}

extension Sequence<UInt8> {
    /// The first bytes as text, for a report.
    func hexadecimal(atMost limit: Int = 24) -> String {
        let bytes = Array(self)
        let shown = bytes.prefix(limit).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
        return bytes.count > limit ? shown + " …" : shown
    }
}

/// The commands, as the standard numbers them.
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

    static func name(_ command: UInt16) -> String {
        let names = [
            "VERSION", "DMA_MAP", "DMA_UNMAP", "DEVICE_GET_INFO", "DEVICE_GET_REGION_INFO",
            "DEVICE_GET_REGION_IO_FDS", "DEVICE_GET_IRQ_INFO", "DEVICE_SET_IRQS", "REGION_READ", "REGION_WRITE",
            "DMA_READ", "DMA_WRITE", "DEVICE_RESET", "DIRTY_PAGES", "REGION_WRITE_MULTI", "DEVICE_FEATURE",
            "MIG_DATA_READ", "MIG_DATA_WRITE",
        ]
        return (1...names.count).contains(Int(command)) ? names[Int(command) - 1] : "command \(command)"
    }
}

enum HeaderFlags {
    static let typeMask: UInt32 = 0xf
    static let reply: UInt32 = 1
    static let noReply: UInt32 = 1 << 4
    static let error: UInt32 = 1 << 5
}

/// Bits of the flags of `DEVICE_SET_IRQS`.
enum SetFlags {
    static let none: UInt32 = 1 << 0
    static let booleans: UInt32 = 1 << 1
    static let descriptors: UInt32 = 1 << 2
    static let mask: UInt32 = 1 << 3
    static let unmask: UInt32 = 1 << 4
    static let trigger: UInt32 = 1 << 5
}

/// VFIO's indexes.
enum Region {
    static let rom: UInt32 = 6
    static let configuration: UInt32 = 7
}

enum Interrupt {
    static let intx: UInt32 = 0
    static let msi: UInt32 = 1
    static let msix: UInt32 = 2
    static let error: UInt32 = 3
    static let request: UInt32 = 4
}

enum ErrorNumber {
    static let exists: UInt32 = 17
}
