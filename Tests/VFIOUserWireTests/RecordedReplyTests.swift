import Testing
import VFIOUserWire

@Suite struct `Replies recorded with QEMU` {
    @Test(arguments: ["map-dma-reply", "set-interrupts-reply", "reset-device-reply"])
    func `without a payload are written alike`(name: String) throws {
        let fixture = try Fixture(name)
        #expect(fixture.header.kind == .reply)
        #expect(MessageWriter.bytes { $0.appendReply(to: fixture.header) } == fixture.bytes)
    }

    @Test(arguments: ["unmap-dma-reply", "unmap-dma-everything-reply"])
    func `an unmap is answered by repeating it`(name: String) throws {
        let request = try Fixture(name.replacing("reply", with: "command"))
        let unmap = try UnmapDMA(parsing: request.payload.span)
        #expect(try Fixture(name).bytes == reply(to: request.header) { unmap.write(to: &$0) })
    }

    @Test func `device info`() throws {
        let fixture = try Fixture("get-device-info-reply")
        let info = DeviceInfo(flags: [.reset, .pci], regionCount: 9, interruptIndexCount: 5)
        #expect(try DeviceInfo(parsing: fixture.payload.span) == info)
        #expect(reply(to: fixture.header) { info.write(to: &$0) } == fixture.bytes)
    }

    @Test func `region info`() throws {
        let fixture = try Fixture("get-region-info-reply")
        let info = RegionInfo(index: 2, flags: [.read, .write], size: 0x100)
        #expect(try RegionInfo(parsing: fixture.payload.span) == info)
        #expect(reply(to: fixture.header) { info.write(to: &$0, maximumReplySize: 32) } == fixture.bytes)
    }

    @Test func `region info with areas to map`() throws {
        let fixture = try Fixture("get-region-info-with-areas-reply")
        let info = RegionInfo(
            index: 0, flags: [.read, .write, .mappable], size: 0x4000,
            capabilities: [.mappableAreas([.init(offset: 0x1000, size: 0x3000)])])
        #expect(try RegionInfo(parsing: fixture.payload.span) == info)
        #expect(info.requiredReplySize == 64)
        #expect(reply(to: fixture.header) { info.write(to: &$0, maximumReplySize: 64) } == fixture.bytes)
    }

    @Test func `region info that was cut short says how much to ask for`() throws {
        let info = try RegionInfo(parsing: Fixture("get-region-info-cut-short-reply").payload.span)
        #expect(info.requiredReplySize == 64)
        #expect(info.capabilities.isEmpty)
    }

    @Test func `interrupt info`() throws {
        let fixture = try Fixture("get-interrupt-info-reply")
        let info = InterruptInfo(index: 3, flags: [.eventDescriptors], vectorCount: 1)
        #expect(try InterruptInfo(parsing: fixture.payload.span) == info)
        #expect(reply(to: fixture.header) { info.write(to: &$0) } == fixture.bytes)
    }

    @Test func `interrupt info of MSI-X`() throws {
        let fixture = try Fixture("get-interrupt-info-msix-reply")
        let info = InterruptInfo(index: 2, flags: [.eventDescriptors, .cannotGrow], vectorCount: 4)
        #expect(try InterruptInfo(parsing: fixture.payload.span) == info)
        #expect(reply(to: fixture.header) { info.write(to: &$0) } == fixture.bytes)
    }

    @Test func `a region read is answered with data filled in place`() throws {
        let fixture = try Fixture("read-region-reply")
        let access = RegionAccess(offset: 0, region: 7, count: 4)
        #expect(try RegionAccess(parsingWithData: fixture.payload.span) == access)
        let bytes = reply(to: fixture.header) { writer in
            access.write(to: &writer)
            let data = writer.appendZeros(access.count)
            writer.withBytes(in: data) { span in
                for (index, byte) in [0x4f, 0x49, 0xc8, 0x0d].enumerated() { span[index] = UInt8(byte) }
            }
        }
        #expect(bytes == fixture.bytes)
    }

    @Test func `a region write is answered without data`() throws {
        let fixture = try Fixture("write-region-reply")
        let access = RegionAccess(offset: 0x30, region: 7, count: 4)
        #expect(try RegionAccess(parsingWithoutData: fixture.payload.span) == access)
        #expect(reply(to: fixture.header) { access.write(to: &$0) } == fixture.bytes)
    }

    private func reply(to header: MessageHeader, _ body: (inout MessageWriter) -> Void) -> [UInt8] {
        MessageWriter.bytes { writer in
            writer.beginReply(to: header)
            body(&writer)
            writer.finish()
        }
    }
}

@Suite struct `Client memory recorded with QEMU` {
    private let read = ClientMemoryAccess(address: 0x1000_0000, count: 4096)
    private let write = ClientMemoryAccess(address: 0x1000_1000, count: 4096)

    @Test func `the server's requests`() throws {
        let readCommand = try Fixture("read-client-memory-command")
        #expect(try request(readCommand) == .readClientMemory(read))
        let writeCommand = try Fixture("write-client-memory-command")
        #expect(try request(writeCommand) == .writeClientMemory(write))
        for fixture in [readCommand, writeCommand] {
            let value = try request(fixture)
            let bytes = MessageWriter.bytes { writer in
                writer.beginCommand(value.command, id: fixture.header.id)
                value.write(to: &writer)
                writer.finish(followedByBytes: fixture.bytes.count - writer.bytes.count)
            }
            #expect(bytes == Array(fixture.bytes.prefix(32)))
        }
    }

    @Test func `the client's answers`() throws {
        let readReply = try ClientMemoryAccess(parsingWithData: Fixture("read-client-memory-reply").payload.span)
        #expect(read.isAnswered(by: readReply))
        let payload = try Fixture("write-client-memory-reply").payload
        let isLegacy = ClientMemoryAccess.isLegacyWriteReply(payload.span)
        #expect(!isLegacy)
        #expect(try write.isAnswered(by: ClientMemoryAccess(parsingWithoutData: payload.span)))
        #expect(try !read.isAnswered(by: ClientMemoryAccess(parsingWithoutData: payload.span)))
    }

    private func request(_ fixture: Fixture) throws -> ServerRequest {
        try ServerRequest(parsing: fixture.payload.span, command: fixture.header.command)
    }
}
