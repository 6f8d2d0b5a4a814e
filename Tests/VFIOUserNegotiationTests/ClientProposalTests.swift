import Testing
import VFIOUserNegotiation
import VFIOUserWire

@Suite struct `A client's judgement` {
    private let proposal = ClientProposal()

    private func refusal(_ bytes: [UInt8]) -> NegotiationError? {
        do throws(NegotiationError) {
            _ = try proposal.accept(bytes.span)
            return nil
        } catch {
            return error
        }
    }

    @Test func `of what it writes itself`() throws {
        var writer = MessageWriter()
        try proposal.write(to: &writer)
        #expect(
            String(decoding: writer.bytes.dropFirst(4).dropLast(), as: UTF8.self)
                == #"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"#
                + #""pgsizes":4096,"write_multiple":true}}"#)
        #expect(Array(writer.bytes.prefix(4)) == [0, 0, 2, 0])
        #expect(writer.bytes.last == 0)
    }

    @Test func `of libvfio-user's recorded answer`() throws {
        let text =
            #"{ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576, "#
            + #""migration": { "pgsize": 4096 } } }"#
        let agreement = try proposal.accept(payload(text).span)
        #expect(agreement.sending == .init(maximumMessageDescriptors: 8, maximumTransferSize: 1 << 20))
        #expect(agreement.receiving == .init(maximumMessageDescriptors: 16, maximumTransferSize: 1 << 20))
        #expect(agreement.maximumDMAMappings == 65535)
        #expect(!agreement.writeMultiple)
        #expect(agreement.migration == nil, "not proposed, so not agreed on")
    }

    @Test func `of an answer without words`() throws {
        let agreement = try proposal.accept([0, 0, 1, 0].span)
        #expect(agreement.version.minor == 1)
        #expect(agreement.sending == .init(maximumMessageDescriptors: 1, maximumTransferSize: 1 << 20))
        #expect(!agreement.writeMultiple)
    }

    @Test func `of versions it did not propose`() {
        #expect(refusal(payload("{}", major: 1)) == .unsupportedMajor(1))
        #expect(refusal(payload("{}", minor: 3)) == .unexpectedMinor(3))
        #expect(refusal(payload("{}", minor: 2)) == nil)
    }

    @Test func `of a second socket it asked for`() throws {
        var proposal = proposal
        let answer = payload(#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":2}}}"#)
        #expect(try proposal.accept(answer.span).twinSocketDescriptorIndex == nil)
        proposal.capabilities.twinSocket = .init(isSupported: true)
        #expect(try proposal.accept(answer.span).twinSocketDescriptorIndex == 2)
        let vague = payload(#"{"capabilities":{"twin_socket":{"supported":true}}}"#)
        #expect(refusal(vague) == .missing(.twinSocketDescriptorIndex))
    }

    @Test func `and the server's agree`() throws {
        var offer = ServerOffer()
        offer.migration = .init(pageSize: 4096)
        offer.twinSocket = true
        offer.maximumTransferSize = 64 << 10
        var proposal = proposal
        proposal.capabilities.migration = .init(pageSize: 4096)
        proposal.capabilities.twinSocket = .init(isSupported: true)
        proposal.capabilities.maximumMessageDescriptors = 4
        proposal.capabilities.pageSizes = [.fourKiB, PageSizes(rawValue: 1 << 21)]
        var writer = MessageWriter()
        try proposal.write(to: &writer)
        let server = try offer.answer(writer.bytes.span)
        var reply = MessageWriter()
        server.writeReply(to: &reply)
        let client = try proposal.accept(reply.bytes.span)
        #expect(client.version == server.version)
        #expect(client.sending == server.receiving)
        #expect(client.receiving == server.sending)
        #expect(client.pageSizes == server.pageSizes)
        #expect(client.writeMultiple == server.writeMultiple)
        #expect(client.migration == server.migration)
        #expect(client.twinSocketDescriptorIndex == server.twinSocketDescriptorIndex)
        #expect(reply.bytes.count <= writer.bytes.count)
    }
}
