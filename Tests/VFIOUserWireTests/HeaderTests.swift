import Testing
import VFIOUserWire

@Suite struct `Message headers` {
    private func bytes(size: UInt32 = 16, flags: UInt32 = 0, error: UInt32 = 0) -> [UInt8] {
        fields(u16(0x1234), u16(9), u32(size), u32(flags), u32(error))
    }

    @Test func `fields lie where the standard puts them`() throws {
        let header = try MessageHeader(parsing: bytes(size: 0x20, flags: 0x31, error: 22).span)
        #expect(header.id == MessageID(rawValue: 0x1234))
        #expect(header.command == .readRegion)
        #expect(header.byteCount == 32)
        #expect(header.payloadByteCount == 16)
        #expect(header.kind == .reply)
        #expect(header.expectsNoReply && header.isError)
        #expect(header.errorNumber == 22)
    }

    @Test(arguments: 0..<16)
    func `fewer than sixteen bytes are no header`(count: Int) {
        #expect(throws: WireError.payloadTooShort(minimum: 16, actual: count)) {
            try MessageHeader(parsing: Array(bytes().prefix(count)).span)
        }
    }

    /// S8
    @Test(arguments: 0..<16)
    func `a size that does not hold the header is refused`(size: Int) {
        #expect(throws: WireError.messageTooShort(size)) {
            try MessageHeader(parsing: bytes(size: UInt32(size)).span)
        }
        #expect(WireError.messageTooShort(size).losesFraming)
    }

    /// S12
    @Test(arguments: 2..<16)
    func `a type that is neither command nor reply is refused`(type: Int) {
        #expect(throws: WireError.unknownMessageType(UInt8(type))) {
            try MessageHeader(parsing: bytes(flags: UInt32(type)).span)
        }
    }

    @Test(arguments: 6..<32)
    func `a reserved flag leaves the message readable but invalid`(bit: Int) throws {
        let header = try MessageHeader(parsing: bytes(flags: 1 << UInt32(bit)).span)
        #expect(header.command == .readRegion)
        #expect(throws: WireError.reservedBits(1 << UInt32(bit))) { try header.validate() }
        #expect(MessageWriter.bytes { header.write(to: &$0) } == bytes(flags: 1 << UInt32(bit)))
    }

    @Test func `a command that claims to be an error is invalid`() throws {
        let header = try MessageHeader(parsing: bytes(flags: 0x20, error: 5).span)
        #expect(throws: WireError.conflictingFlags(0x20)) { try header.validate() }
    }

    /// S10, S11: 14 has been withdrawn and 19 never was in the standard.
    @Test(arguments: [0, 14, 19, 0xffff] as [UInt16])
    func `an unknown command keeps its number`(number: UInt16) throws {
        var raw = bytes()
        raw.replaceSubrange(2..<4, with: u16(number))
        let header = try MessageHeader(parsing: raw.span)
        #expect(header.command == .other(number))
        #expect(throws: WireError.unknownCommand(number)) { try Request(parsing: [0].span, command: header.command) }
        let reply = MessageWriter.bytes { $0.appendErrorReply(to: header, errorNumber: 22) }
        #expect(Array(reply[2..<4]) == u16(number))
    }

    @Test func `every command's number comes back`() {
        for number in UInt16.min ... .max {
            #expect(Command(rawValue: number).rawValue == number)
        }
    }
}

@Suite struct `Writing messages` {
    private let request = MessageHeader(
        id: MessageID(rawValue: 0xbeef), command: .mapDMA, byteCount: 48, kind: .command)

    /// S3
    @Test func `an error reply is a header and nothing else`() {
        let bytes = MessageWriter.bytes { $0.appendErrorReply(to: request, errorNumber: 17) }
        #expect(bytes == fields(u16(0xbeef), u16(2), u32(16), u32(0x21), u32(17)))
    }

    @Test func `messages follow one another in the buffer`() {
        var writer = MessageWriter()
        writer.beginReply(to: request)
        writer.append(UInt64(0x1122_3344_5566_7788))
        writer.finish()
        writer.appendReply(to: request)
        #expect(writer.bytes.count == 40)
        #expect(Array(writer.bytes[4..<8]) == u32(24))
        #expect(Array(writer.bytes[16..<24]) == [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11])
        #expect(Array(writer.bytes[28..<32]) == u32(16))
        writer.removeAll()
        #expect(writer.bytes.isEmpty)
    }

    @Test func `an abandoned message leaves nothing but its forerunners`() {
        var writer = MessageWriter()
        writer.appendReply(to: request)
        writer.beginReply(to: request)
        writer.appendZeros(4096)
        writer.abandon()
        #expect(writer.bytes.count == 16)
        writer.appendErrorReply(to: request, errorNumber: 5)
        #expect(writer.bytes.count == 32)
    }

    @Test func `data sent from elsewhere count in the size`() {
        var writer = MessageWriter()
        writer.beginCommand(.writeClientMemory, id: MessageID(rawValue: 1))
        ClientMemoryAccess(address: 0, count: 1 << 20).write(to: &writer)
        writer.finish(followedByBytes: 1 << 20)
        #expect(writer.bytes.count == 32)
        #expect(Array(writer.bytes[4..<8]) == u32((1 << 20) + 32))
    }

    @Test func `reserved bytes are zero and can be filled`() throws {
        struct DeviceFailure: Error {}
        var writer = MessageWriter()
        writer.append(contentsOf: [1, 2, 3])
        let range = writer.appendZeros(4)
        #expect(range == 3..<7)
        #expect(writer.bytes == [1, 2, 3, 0, 0, 0, 0])
        writer.withBytes(in: range) { span in
            #expect(span.count == 4)
            span[3] = 9
        }
        #expect(writer.bytes == [1, 2, 3, 0, 0, 0, 9])
        #expect(throws: DeviceFailure.self) {
            try writer.withBytes(in: range) { (_: inout MutableSpan<UInt8>) throws(DeviceFailure) in
                throw DeviceFailure()
            }
        }
        writer.append([4, 5].span)
        #expect(writer.bytes.suffix(2) == [4, 5])
    }

    @Test func `reuse keeps the memory`() {
        var writer = MessageWriter(capacity: 0)
        writer.appendZeros(1 << 16)
        let capacity = writer.bytes.capacity
        writer.removeAll()
        #expect(writer.bytes.capacity == capacity)
    }
}
