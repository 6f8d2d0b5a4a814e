/// The protocol's numbers and layouts a second time, apart from `VFIOUserWire`: what checks a server, ours included, must
/// not share our reading of the standard. For this target and the tests.

/// A piece of a message; numbers go least significant byte first.
package enum Field {
    case u8(UInt8)
    case u16(UInt16)
    case u32(UInt32)
    case u64(UInt64)
    case raw([UInt8])
    case text(String)
    case zeros(Int)
}

extension [UInt8] {
    /// Appends the low bytes of a number, least significant first.
    package mutating func append(_ value: UInt64, byteCount: Int) {
        for place in 0..<byteCount { append(UInt8(truncatingIfNeeded: value >> UInt64(8 * place))) }
    }
}

/// The low bytes of a number, least significant first.
package func littleEndian(_ value: UInt64, byteCount: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(value, byteCount: byteCount)
    return bytes
}

package func bytes(_ fields: Field...) -> [UInt8] {
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

/// A whole message. `size` is what the header states, by default the truth.
package func message(
    _ command: UInt16, id: UInt16 = 1, flags: UInt32 = 0, error: UInt32 = 0, size: UInt32? = nil,
    _ payload: [UInt8] = []
) -> [UInt8] {
    bytes(.u16(id), .u16(command), .u32(size ?? UInt32(16 + payload.count)), .u32(flags), .u32(error), .raw(payload))
}

/// The commands, as the standard numbers them.
package enum Number {
    package static let version: UInt16 = 1
    package static let mapDMA: UInt16 = 2
    package static let unmapDMA: UInt16 = 3
    package static let getDeviceInfo: UInt16 = 4
    package static let getRegionInfo: UInt16 = 5
    package static let getRegionIODescriptors: UInt16 = 6
    package static let getInterruptInfo: UInt16 = 7
    package static let setInterrupts: UInt16 = 8
    package static let readRegion: UInt16 = 9
    package static let writeRegion: UInt16 = 10
    package static let readClientMemory: UInt16 = 11
    package static let writeClientMemory: UInt16 = 12
    package static let resetDevice: UInt16 = 13
    package static let dirtyPages: UInt16 = 14
    package static let writeRegions: UInt16 = 15
    package static let deviceFeature: UInt16 = 16
    package static let readMigrationData: UInt16 = 17
    package static let writeMigrationData: UInt16 = 18

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

package enum HeaderFlags {
    package static let typeMask: UInt32 = 0xf
    package static let reply: UInt32 = 1
    package static let noReply: UInt32 = 1 << 4
    package static let error: UInt32 = 1 << 5
}

/// Bits of the flags of `DEVICE_SET_IRQS`.
package enum SetFlags {
    package static let none: UInt32 = 1 << 0
    package static let booleans: UInt32 = 1 << 1
    package static let descriptors: UInt32 = 1 << 2
    package static let mask: UInt32 = 1 << 3
    package static let unmask: UInt32 = 1 << 4
    package static let trigger: UInt32 = 1 << 5
}
