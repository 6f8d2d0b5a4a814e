import Testing
import VFIOUserWire

/// A recorded command and the value it stands for.
struct RecordedRequest: CustomTestStringConvertible, Sendable {
    let fixture: String
    let request: Request
    var descriptorCount = 0

    var testDescription: String { fixture }

    static let all: [RecordedRequest] = [
        .init(fixture: "version-command", request: .version(.init(major: 0, minor: 0))),
        .init(
            fixture: "map-dma-command",
            request: .mapDMA(.init(flags: [.read, .write], fileOffset: 0, address: 0, size: 0x2000_0000)),
            descriptorCount: 1),
        .init(
            fixture: "map-dma-read-only-command",
            request: .mapDMA(.init(flags: [.read], fileOffset: 0, address: 0xfffc_0000, size: 0x40000))),
        .init(
            fixture: "unmap-dma-command",
            request: .unmapDMA(.init(scope: .addresses(0...0x1fff_ffff)))),
        .init(
            fixture: "unmap-dma-half-the-space-command",
            request: .unmapDMA(.init(scope: .addresses(0x800_0000_0000...0xfff_ffff_ffff)))),
        .init(fixture: "unmap-dma-everything-command", request: .unmapDMA(.init(scope: .everything))),
        .init(fixture: "get-device-info-command", request: .getDeviceInfo(.init(maximumReplySize: 16))),
        .init(fixture: "get-region-info-command", request: .getRegionInfo(.init(index: 2, maximumReplySize: 32))),
        .init(
            fixture: "get-region-info-again-command",
            request: .getRegionInfo(.init(index: 0, maximumReplySize: 64))),
        .init(
            fixture: "get-interrupt-info-command",
            request: .getInterruptInfo(.init(index: 3, maximumReplySize: 16))),
        .init(
            fixture: "set-interrupts-assign-command",
            request: .setInterrupts(.init(action: .trigger, data: .descriptors, index: 0, start: 0, count: 1)),
            descriptorCount: 1),
        .init(
            fixture: "set-interrupts-disable-command",
            request: .setInterrupts(.init(action: .trigger, data: .none, index: 0, start: 0, count: 0))),
        .init(
            fixture: "set-interrupts-msix-without-vector-command",
            request: .setInterrupts(.init(action: .trigger, data: .descriptors, index: 2, start: 0, count: 1))),
        .init(fixture: "read-region-command", request: .readRegion(.init(offset: 0, region: 7, count: 256))),
        .init(fixture: "write-region-command", request: .writeRegion(.init(offset: 0x30, region: 7, count: 4))),
        .init(fixture: "write-region-posted-command", request: .writeRegion(.init(offset: 8, region: 0, count: 8))),
        .init(fixture: "reset-device-command", request: .resetDevice),
    ]
}

@Suite struct `Requests recorded from QEMU` {
    @Test(arguments: RecordedRequest.all)
    func `read as what they say`(_ recorded: RecordedRequest) throws {
        let fixture = try Fixture(recorded.fixture)
        #expect(fixture.header.kind == .command)
        #expect(fixture.header.byteCount == fixture.bytes.count)
        try fixture.header.validate()
        let request = try Request(parsing: fixture.payload.span, command: fixture.header.command)
        #expect(request == recorded.request)
        try request.validate(descriptorCount: recorded.descriptorCount)
    }

    @Test(arguments: RecordedRequest.all)
    func `are written byte for byte as QEMU writes them`(_ recorded: RecordedRequest) throws {
        let fixture = try Fixture(recorded.fixture)
        let bytes = MessageWriter.bytes { writer in
            writer.beginCommand(
                recorded.request.command, id: fixture.header.id, expectsNoReply: fixture.header.expectsNoReply)
            recorded.request.write(to: &writer)
            // What a value does not hold: version data and region data.
            writer.append(contentsOf: fixture.bytes.dropFirst(writer.bytes.count))
            writer.finish()
        }
        #expect(bytes == fixture.bytes)
    }

    @Test func `a posted write says that it wants no reply`() throws {
        #expect(try Fixture("write-region-posted-command").header.expectsNoReply)
        #expect(try !Fixture("write-region-command").header.expectsNoReply)
    }

    @Test func `the data of a region write lie where the value says`() throws {
        let payload = try Fixture("write-region-command").payload
        #expect(Array(payload[RegionAccess.dataOffset...]) == [0x00, 0xf8, 0xff, 0xff])
    }

    @Test func `the version data lie where the value says, NUL and all`() throws {
        let payload = try Fixture("version-command").payload
        #expect(payload.count == 198)
        #expect(payload[VersionMessage.capabilitiesOffset] == UInt8(ascii: "{"))
        #expect(payload.last == 0)
    }
}
