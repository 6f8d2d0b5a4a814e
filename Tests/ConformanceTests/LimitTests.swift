import DeviceModel
import Edu
import LinuxHost
import Testing
import VFIOUserNegotiation
import VFIOUserSession
import VFIOUserWire

@Suite struct Limits {
    @Test func `S37 a map too many is refused, and one more fits when another is gone`() throws {
        var offer = ServerOffer()
        offer.maximumDMAMappings = 3
        var session = try Session(device: Edu.makeFunction(), clientMemory: ClientMemory(), offer: offer)
        var reply = SessionReply()
        func answer(_ command: VFIOUserWire.Command, _ payload: [UInt8]) throws -> MessageHeader {
            reply.removeAll()
            let header = MessageHeader(
                id: MessageID(rawValue: 1), command: command, byteCount: 16 + payload.count, kind: .command)
            _ = session.handle(
                header, payload: payload.span, descriptors: DescriptorBundle(), lostDescriptors: false, reply: &reply)
            return try MessageHeader(parsing: reply.writer.bytes.span)
        }
        #expect(try !answer(.version, Payload.version(Payload.qemuCapabilities)).isError)
        for page in 0..<3 as Range<UInt64> {
            #expect(try !answer(.mapDMA, Payload.map(at: page << 12, size: 0x1000)).isError)
        }
        // ENOSPC
        #expect(try answer(.mapDMA, Payload.map(at: 3 << 12, size: 0x1000)).errorNumber == 28)
        #expect(try !answer(.unmapDMA, Payload.unmap(at: 0, size: 0x1000)).isError)
        #expect(try !answer(.mapDMA, Payload.map(at: 3 << 12, size: 0x1000)).isError)
        session.end()
    }
}
