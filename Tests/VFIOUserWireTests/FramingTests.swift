import Testing
import VFIOUserWire

@Suite struct `Framing` {
    private let framer = MessageFramer()

    /// S6, S7
    @Test func `a message that comes byte by byte is complete with the last one`() throws {
        let message = try Fixture("write-region-command").bytes
        for count in 0..<message.count {
            let missing = count < 16 ? 16 - count : message.count - count
            #expect(framer.examine(Array(message.prefix(count)).span) == .needs(byteCount: missing))
        }
        #expect(framer.examine(message.span) == .message(try MessageHeader(parsing: message.span)))
    }

    @Test func `two messages in one read come out one after the other`() throws {
        let first = try Fixture("map-dma-command")
        let second = try Fixture("get-device-info-command")
        let buffer = first.bytes + second.bytes.dropLast()
        #expect(framer.examine(buffer.span) == .message(first.header))
        let rest = Array(buffer.dropFirst(first.header.byteCount))
        #expect(framer.examine(rest.span) == .needs(byteCount: 1))
    }

    /// S9
    @Test func `a size past the limit breaks the stream as soon as the header is there`() {
        let limit = MessageFramer.defaultMaximumMessageSize
        #expect(limit == 1_048_608)
        #expect(
            framer.examine(header(size: UInt32(limit) + 1).span)
                == .broken(
                    id: MessageID(rawValue: 7), command: .writeRegion,
                    error: .messageTooLong(maximum: limit, actual: limit + 1)))
        #expect(framer.examine(header(size: UInt32(limit)).span) == .needs(byteCount: limit - 16))
        #expect(MessageFramer(maximumMessageSize: 64).examine(header(size: 64).span) == .needs(byteCount: 48))
    }

    /// S8, S12
    @Test func `a broken header still says whom to answer`() {
        #expect(
            framer.examine(header(size: 15).span)
                == .broken(id: MessageID(rawValue: 7), command: .writeRegion, error: .messageTooShort(15)))
        #expect(
            framer.examine(header(size: 16, flags: 3).span)
                == .broken(id: MessageID(rawValue: 7), command: .writeRegion, error: .unknownMessageType(3)))
    }

    private func header(size: UInt32, flags: UInt32 = 0) -> [UInt8] {
        fields(u16(7), u16(10), u32(size), u32(flags), u32(0))
    }
}
