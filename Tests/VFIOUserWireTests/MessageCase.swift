import Testing
import VFIOUserWire

/// One payload, the decoder it belongs to and what that decoder must refuse.
struct MessageCase: CustomTestStringConvertible, Sendable {
    /// What a decoder does with bytes after the layout.
    enum Trailing {
        case refused
        /// The payload opens with `argsz`, or is followed by data of its own.
        case accepted
    }

    let name: String
    let payload: [UInt8]
    /// Payloads shorter than this are refused; longer ones hold data in part, or an answer that was cut short.
    let minimum: Int
    let trailing: Trailing
    /// Bits, by the offset of their byte in the payload, that nothing may set.
    let reservedBits: [Int: UInt8]
    /// Reads a payload and writes what was read.
    let rewrite: @Sendable (Span<UInt8>) throws(WireError) -> [UInt8]

    var testDescription: String { name }

    init(
        _ name: String, _ payload: [UInt8], minimum: Int? = nil, trailing: Trailing, reservedBits: [Int: UInt8] = [:],
        rewrite: @escaping @Sendable (Span<UInt8>) throws(WireError) -> [UInt8]
    ) {
        self.name = name
        self.payload = payload
        self.minimum = minimum ?? payload.count
        self.trailing = trailing
        self.reservedBits = reservedBits
        self.rewrite = rewrite
    }

    /// A command of the client.
    init(
        command: Command, _ name: String, _ payload: [UInt8], minimum: Int? = nil, trailing: Trailing,
        reservedBits: [Int: UInt8] = [:]
    ) {
        self.init(name, payload, minimum: minimum, trailing: trailing, reservedBits: reservedBits) {
            (span: Span<UInt8>) throws(WireError) in
            let request = try Request(parsing: span, command: command)
            var writer = MessageWriter()
            request.write(to: &writer)
            return writer.bytes
        }
    }
}

/// Little-endian fields, one after the other.
func fields(_ parts: [UInt8]...) -> [UInt8] { parts.flatMap { $0 } }
func u16(_ value: UInt16) -> [UInt8] { (0..<2).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
func u32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
func u64(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

extension MessageCase {
    static let all = requests + replies + serverRequests

    static let requests: [MessageCase] = [
        .init(command: .version, "version", fields(u16(0), u16(1)), trailing: .accepted),
        .init(
            command: .mapDMA, "map DMA",
            fields(u32(32), u32(0b1111), u64(0x1000), u64(0xffff_ffff_ffff_f000), u64(0x1000)), trailing: .accepted,
            reservedBits: [4: 0xf0, 5: 0xff, 6: 0xff, 7: 0xff]),
        .init(
            command: .unmapDMA, "unmap DMA", fields(u32(24), u32(0), u64(0xfee0_0000), u64(0xffff_ffff_0120_0000)),
            trailing: .accepted, reservedBits: [4: 0xfc, 5: 0xff, 6: 0xff, 7: 0xff]),
        .init(
            command: .unmapDMA, "unmap all DMA", fields(u32(24), u32(2), u64(0), u64(0)), trailing: .accepted,
            reservedBits: [4: 0xfc, 5: 0xff, 6: 0xff, 7: 0xff]),
        .init(
            command: .unmapDMA, "unmap all DMA by zeroes", fields(u32(24), u32(0), u64(0), u64(0)),
            trailing: .accepted),
        .init(
            command: .unmapDMA, "unmap DMA and report dirty pages",
            fields(u32(48), u32(1), u64(0x1000), u64(0x1000), u64(4096), u64(8)), trailing: .accepted,
            reservedBits: [4: 0xfc, 5: 0xff, 6: 0xff, 7: 0xff]),
        .init(command: .getDeviceInfo, "get device info", fields(u32(32), u32(0), u64(0)), trailing: .accepted),
        .init(
            command: .getRegionInfo, "get region info", fields(u32(64), u32(0), u32(7), u32(0), u64(0), u64(0)),
            trailing: .accepted),
        .init(
            command: .getRegionIODescriptors, "get region I/O descriptors", fields(u32(56), u32(0), u32(2), u32(0)),
            trailing: .accepted,
            reservedBits: [
                4: 0xff, 5: 0xff, 6: 0xff, 7: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xff,
            ]),
        .init(
            command: .getInterruptInfo, "get interrupt info", fields(u32(16), u32(0), u32(2), u32(0)),
            trailing: .accepted),
        .init(
            command: .setInterrupts, "set interrupts by descriptors",
            fields(u32(20), u32(0b100_100), u32(2), u32(3), u32(4)), trailing: .accepted,
            reservedBits: [4: 0xc0, 5: 0xff, 6: 0xff, 7: 0xff]),
        .init(
            command: .setInterrupts, "unmask interrupts", fields(u32(20), u32(0b010_001), u32(0), u32(0), u32(1)),
            trailing: .accepted, reservedBits: [4: 0xc0, 5: 0xff, 6: 0xff, 7: 0xff]),
        .init(
            command: .readRegion, "read region", fields(u64(0x10_0000_0000), u32(1), u32(8)), trailing: .refused),
        .init(command: .resetDevice, "reset device", [], trailing: .accepted),
        .init(
            command: .deviceFeature, "get a feature", fields(u32(16), u32(0x1_0001)), trailing: .accepted,
            reservedBits: [6: 0xf8, 7: 0xff]),
        .init(
            command: .deviceFeature, "probe a feature", fields(u32(64), u32(0x6_0002)), trailing: .accepted,
            reservedBits: [6: 0xf8, 7: 0xff]),
        .init(
            command: .readMigrationData, "read migration data", fields(u32(4104), u32(4096)), trailing: .refused),
        .init(
            "write region", fields(u64(0x14), u32(0), u32(4), [1, 2, 3, 4]), trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let access = try RegionAccess(parsingWithData: span)
            return rewritten(span, RegionAccess.dataOffset..<(RegionAccess.dataOffset + access.count)) {
                access.write(to: &$0)
            }
        },
        .init(
            "mask interrupts by booleans", fields(u32(23), u32(0b001_010), u32(2), u32(1), u32(3), [1, 0, 1]),
            trailing: .refused, reservedBits: [4: 0xc0, 5: 0xff, 6: 0xff, 7: 0xff]
        ) { (span: Span<UInt8>) throws(WireError) in
            let message = try SetInterrupts(parsing: span)
            let count = message.data == .booleans ? Int(message.count) : 0
            return rewritten(span, SetInterrupts.booleansOffset..<(SetInterrupts.booleansOffset + count)) {
                message.write(to: &$0)
            }
        },
        .init(
            "write regions", fields(u64(2), u64(0), u32(1), u32(8), u64(7), u64(8), u32(2), u32(1), u64(0xff)),
            trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let message = try WriteRegions(parsing: span)
            var writer = MessageWriter()
            message.write(to: &writer)
            for index in 0..<message.count { try message.write(at: index, in: span).write(to: &writer) }
            return writer.bytes
        },
        .init(
            "write migration data", fields(u32(11), u32(3), [7, 8, 9]), trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let data = try MigrationData(parsing: span)
            return rewritten(span, MigrationData.dataOffset..<(MigrationData.dataOffset + data.count)) {
                data.write(to: &$0)
            }
        },
    ]

    static let replies: [MessageCase] = [
        .init(
            "device info", fields(u32(16), u32(3), u32(9), u32(5)), trailing: .accepted
        ) { (span: Span<UInt8>) throws(WireError) in
            let info = try DeviceInfo(parsing: span)
            return MessageWriter.bytes { info.write(to: &$0) }
        },
        .init(
            "region info with every capability",
            fields(
                u32(96), u32(0xf), u32(0), u32(32), u64(0x4000), u64(0x1000),
                u16(1), u16(1), u32(64), u32(1), u32(0), u64(0x1000), u64(0x3000),
                u16(9), u16(7), u32(72), u16(3), u16(1), u32(80), u16(2), u16(1), u32(0), u32(5), u32(6)),
            minimum: 32, trailing: .accepted
        ) { (span: Span<UInt8>) throws(WireError) in
            let info = try RegionInfo(parsing: span)
            return MessageWriter.bytes { info.write(to: &$0, maximumReplySize: .max) }
        },
        .init(
            "region I/O descriptors",
            fields(
                u32(96), u32(0), u32(1), u32(2),
                u64(0x10), u64(4), u32(0), u32(0), u32(1), u32(0), u64(7),
                u64(0x20), u64(8), u32(1), u32(1), u32(0), u32(0), u64(9)),
            minimum: 16, trailing: .accepted, reservedBits: [4: 0xff, 5: 0xff, 6: 0xff, 7: 0xff]
        ) { (span: Span<UInt8>) throws(WireError) in
            let descriptors = try RegionIODescriptors(parsing: span)
            return MessageWriter.bytes { descriptors.write(to: &$0, maximumReplySize: .max) }
        },
        .init(
            "interrupt info", fields(u32(16), u32(9), u32(2), u32(4)), trailing: .accepted
        ) { (span: Span<UInt8>) throws(WireError) in
            let info = try InterruptInfo(parsing: span)
            return MessageWriter.bytes { info.write(to: &$0) }
        },
        .init(
            "write regions reply", u64(3), trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let message = try WriteRegions(parsingReply: span)
            return MessageWriter.bytes { message.write(to: &$0) }
        },
        .init(
            "device feature reply", fields(u32(16), u32(0x1_0001)), trailing: .accepted,
            reservedBits: [6: 0xf8, 7: 0xff]
        ) { (span: Span<UInt8>) throws(WireError) in
            let feature = try DeviceFeature(parsingReply: span)
            return MessageWriter.bytes { feature.write(to: &$0) }
        },
        .init(
            "migration data reply", fields(u32(11), u32(3), [7, 8, 9]), trailing: .accepted
        ) { (span: Span<UInt8>) throws(WireError) in
            let data = try MigrationData(parsingReply: span)
            return rewritten(span, MigrationData.dataOffset..<(MigrationData.dataOffset + data.count)) {
                data.write(to: &$0)
            }
        },
    ]

    static let serverRequests: [MessageCase] = [
        .init(
            "read client memory", fields(u64(0x1000), u64(0x10000)), trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let access = try ClientMemoryAccess(parsingWithoutData: span)
            return MessageWriter.bytes { access.write(to: &$0) }
        },
        .init(
            "write client memory", fields(u64(0x1000), u64(2), [5, 6]), trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let access = try ClientMemoryAccess(parsingWithData: span)
            return rewritten(span, ClientMemoryAccess.dataOffset..<(ClientMemoryAccess.dataOffset + access.count)) {
                access.write(to: &$0)
            }
        },
        .init(
            "legacy read of client memory", fields(u64(0x1000), u32(2), [5, 6], u32(0)), trailing: .refused
        ) { (span: Span<UInt8>) throws(WireError) in
            let access = try LegacyClientMemoryAccess(parsingWithData: span)
            let data = LegacyClientMemoryAccess.dataOffset..<(LegacyClientMemoryAccess.dataOffset + access.count)
            var bytes = rewritten(span, data) { access.write(to: &$0) }
            bytes += MessageWriter.bytes { LegacyClientMemoryAccess.writePadding(to: &$0) }
            return bytes
        },
    ]
}

/// What `body` writes, and then the data of the payload.
private func rewritten(
    _ payload: Span<UInt8>, _ data: Range<Int>, _ body: (inout MessageWriter) -> Void
) -> [UInt8] {
    var writer = MessageWriter()
    body(&writer)
    writer.append(payload.extracting(data))
    return writer.bytes
}
