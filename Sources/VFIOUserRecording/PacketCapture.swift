/// A recording in the format that Wireshark reads, pcapng, one packet for each message.
///
/// The link type is `USER0` (147), which belongs to nobody; `schemas/vfio-user.lua` teaches Wireshark what is in it. A
/// packet is a pseudo-header and then the message:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 1 | version of this layout, 1 |
/// | 1 | 1 | bit 0 from server to client, bit 1 on the twin socket, bit 2 a fragment, bit 3 descriptors were lost |
/// | 2 | 2 | conversation |
/// | 4 | 2 | number of descriptors |
/// | 6 | 2 | reserved |
/// | 8 | 16 each | descriptors: 1 byte kind, 1 byte writable, 2 reserved, 4 number, 8 size |
///
/// Integers are little-endian. Rejected: Exported PDU, whose tags have no place for descriptors.
public struct PacketCapture {
    private static let sectionHeader: UInt32 = 0x0a0d_0d0a
    private static let byteOrderMagic: UInt32 = 0x1a2b_3c4d
    private static let interfaceDescription: UInt32 = 1
    private static let enhancedPacket: UInt32 = 6
    private static let linkType: UInt16 = 147
    /// `if_tsresol`: times are in nanoseconds.
    private static let timeResolution: (option: UInt16, value: UInt8) = (9, 9)
    /// `epb_flags`: bits 0 and 1 are the direction, 1 inbound and 2 outbound.
    private static let flagsOption: UInt16 = 2
    private static let pseudoHeaderVersion: UInt8 = 1
    /// Wireshark refuses a file with more in one packet; the rest of such a packet is left out.
    private static let maximumPacketByteCount = 256 << 10

    public private(set) var bytes: [UInt8] = []
    private var wallClock: UInt64 = 0

    public init() {
        block(Self.sectionHeader) { body in
            body.append(Self.byteOrderMagic)
            body.append(UInt16(1))
            body.append(UInt16(0))
            body.append(UInt64.max)  // the section's length is not told
        }
        block(Self.interfaceDescription) { body in
            body.append(Self.linkType)
            body.append(UInt16(0))
            body.append(UInt32(Self.maximumPacketByteCount))
            body.append(Self.timeResolution.option)
            body.append(UInt16(1))
            body.append(UInt32(Self.timeResolution.value))
            body.append(UInt32(0))
        }
    }

    /// Appends what an entry has for Wireshark: messages and fragments.
    public mutating func append(_ entry: RecordingEntry) {
        switch entry.event {
        case .served(_, let wallClock): self.wallClock = wallClock
        case .message(let message): append(message, isFragment: false, entry)
        case .fragment(let message): append(message, isFragment: true, entry)
        case .connected, .memory, .disconnected, .finished: break
        }
    }

    private mutating func append(_ message: RecordedMessage, isFragment: Bool, _ entry: RecordingEntry) {
        let time = wallClock &+ entry.time
        block(Self.enhancedPacket) { body in
            var packet = Body()
            var flags: UInt8 = message.direction == .toClient ? 1 : 0
            if message.socket == .twin { flags |= 2 }
            if isFragment { flags |= 4 }
            if message.lostDescriptors { flags |= 8 }
            packet.append(Self.pseudoHeaderVersion)
            packet.append(flags)
            packet.append(entry.conversation)
            let descriptors = message.descriptors.prefix(Int(UInt16.max))
            packet.append(UInt16(descriptors.count))
            packet.append(UInt16(0))
            for descriptor in descriptors {
                packet.append(descriptor.kind.rawValue)
                packet.append(UInt8(descriptor.isWritable ? 1 : 0))
                packet.append(UInt16(0))
                packet.append(descriptor.number)
                packet.append(descriptor.byteCount)
            }
            packet.bytes += message.bytes
            body.append(UInt32(0))
            body.append(UInt32(truncatingIfNeeded: time >> 32))
            body.append(UInt32(truncatingIfNeeded: time))
            let captured = packet.bytes.prefix(Self.maximumPacketByteCount)
            body.append(UInt32(captured.count))
            body.append(UInt32(packet.bytes.count))
            body.bytes += captured
            body.pad()
            body.append(Self.flagsOption)
            body.append(UInt16(4))
            body.append(UInt32(message.direction == .toServer ? 1 : 2))
            body.append(UInt32(0))
        }
    }

    private struct Body {
        var bytes: [UInt8] = []

        mutating func append<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value) {
            for index in 0..<Value.bitWidth / 8 { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * index))) }
        }

        mutating func pad() {
            while bytes.count % 4 != 0 { bytes.append(0) }
        }
    }

    private mutating func block(_ type: UInt32, _ fill: (inout Body) -> Void) {
        var body = Body()
        fill(&body)
        var framed = Body()
        let byteCount = UInt32(body.bytes.count + 12)
        framed.append(type)
        framed.append(byteCount)
        framed.bytes += body.bytes
        framed.append(byteCount)
        bytes += framed.bytes
    }
}
