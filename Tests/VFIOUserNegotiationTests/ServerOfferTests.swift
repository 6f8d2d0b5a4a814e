import JSONText
import Testing
import VFIOUserNegotiation
import VFIOUserWire

/// What QEMU 11.1.3 proposes, as recorded.
let qemuProposal = """
    {"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, \
    "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}
    """
let cloudHypervisorProposal =
    #"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#

extension Agreement {
    /// The reply's payload.
    var reply: [UInt8] {
        var writer = MessageWriter()
        writeReply(to: &writer)
        return writer.bytes
    }

    /// The reply's JSON, without its NUL.
    var replyText: String { String(decoding: reply.dropFirst(4).dropLast(), as: UTF8.self) }
}

@Suite struct `A server's answer` {
    private var offer = ServerOffer()

    private func answer(_ text: String, minor: UInt16 = 0) throws(NegotiationError) -> Agreement {
        try offer.answer(payload(text, minor: minor).span)
    }

    private func refusal(_ bytes: [UInt8]) -> NegotiationError? {
        do throws(NegotiationError) {
            _ = try offer.answer(bytes.span)
            return nil
        } catch {
            return error
        }
    }

    /// S29, S30, S31
    @Test func `to QEMU 11.1.3`() throws {
        let agreement = try answer(qemuProposal)
        #expect(agreement.version == VersionMessage(major: 0, minor: 0))
        #expect(
            agreement.replyText
                == #"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"#
                + #""pgsizes":4096,"write_multiple":true}}"#)
        #expect(agreement.reply.last == 0)
        #expect(agreement.reply.count + 16 <= 214)
        #expect(agreement.sending == .init(maximumMessageDescriptors: 16, maximumTransferSize: 1 << 20))
        #expect(agreement.receiving == .init(maximumMessageDescriptors: 16, maximumTransferSize: 1 << 20))
        #expect(agreement.writeMultiple)
        #expect(agreement.migration == nil)
        #expect(agreement.twinSocketDescriptorIndex == nil)
    }

    /// S32, S35
    @Test func `to cloud-hypervisor`() throws {
        var offer = offer
        offer.migration = .init(pageSize: 4096, maximumBitmapSize: 1 << 20)
        let agreement = try offer.answer(payload(cloudHypervisorProposal, minor: 1).span)
        #expect(agreement.version.minor == 1)
        // One byte longer than the proposal with every key, so the one that says only a default is left out.
        #expect(agreement.replyText == #"{"capabilities":{"max_msg_fds":16,"migration":{"pgsize":4096}}}"#)
        #expect(agreement.sending.maximumMessageDescriptors == 1)
        #expect(agreement.receiving.maximumMessageDescriptors == 16)
        #expect(!agreement.writeMultiple)
    }

    /// S23
    @Test(arguments: [(0, 0), (1, 1), (2, 2), (3, 2), (.max, 2)] as [(UInt16, UInt16)])
    func `has the lesser of the minor versions`(proposed: UInt16, agreed: UInt16) throws {
        #expect(try answer("{}", minor: proposed).version == VersionMessage(major: 0, minor: agreed))
    }

    /// S22
    @Test func `to another major version is a refusal`() {
        #expect(refusal(payload("{}", major: 1)) == .unsupportedMajor(1))
    }

    /// S25
    @Test func `to a client that says nothing assumes the defaults`() throws {
        for bytes in [[0, 0, 0, 0], payload("{}"), payload(#"{"capabilities":{}}"#)] as [[UInt8]] {
            let agreement = try offer.answer(bytes.span)
            #expect(agreement.sending == .init(maximumMessageDescriptors: 1, maximumTransferSize: 1 << 20))
            #expect(agreement.pageSizes == .fourKiB)
            #expect(!agreement.writeMultiple)
            #expect(agreement.migration == nil)
            #expect(agreement.replyText == #"{"capabilities":{}}"#)
        }
    }

    /// S26
    @Test func `to a malformed payload is a refusal`() {
        #expect(refusal([]) == .malformed(.payloadTooShort(minimum: 4, actual: 0)))
        #expect(refusal([0, 0, 0]) == .malformed(.payloadTooShort(minimum: 4, actual: 3)))
        #expect(refusal(Array(payload("{}").dropLast())) == .notTerminated)
        #expect(refusal(payload("")) == .notJSON(.unexpectedEnd))
        #expect(refusal(payload("{}\u{0}")) == .notJSON(.unexpectedByte(offset: 2)))
        #expect(refusal(payload("[]")) == .notAnObject)
        #expect(refusal(payload(#"{"capabilities":1}"#)) == .notAnObject)
    }

    @Test(
        arguments: [
            (#""max_msg_fds":-1"#, .outOfRange(.maximumMessageDescriptors)),
            (#""max_msg_fds":4294967296"#, .outOfRange(.maximumMessageDescriptors)),
            (#""max_msg_fds":"1""#, .wrongType(.maximumMessageDescriptors)),
            (#""max_data_xfer_size":0"#, .outOfRange(.maximumTransferSize)),
            (#""max_data_xfer_size":0.5"#, .wrongType(.maximumTransferSize)),
            (#""max_dma_maps":null"#, .wrongType(.maximumDMAMappings)),
            (#""pgsizes":0"#, .outOfRange(.pageSizes)),
            (#""pgsizes":4097"#, .outOfRange(.pageSizes)),
            (#""write_multiple":"yes""#, .wrongType(.writeMultiple)),
            (#""migration":[]"#, .wrongType(.migration)),
            (#""migration":{"pgsize":1}"#, .outOfRange(.migrationPageSize)),
            (#""twin_socket":{"supported":"true"}"#, .wrongType(.twinSocketSupported)),
        ] as [(String, NegotiationError)])
    func `to a senseless capability is a refusal that names it`(member: String, expected: NegotiationError) {
        #expect(refusal(payload(#"{"capabilities":{\#(member)}}"#)) == expected)
    }

    /// S27
    @Test func `ignores what it does not know`() throws {
        let agreement = try answer(#"{"x":[{"y":1}],"capabilities":{"sparse_mmap_fds":true,"max_msg_fds":2}}"#)
        #expect(agreement.replyText == #"{"capabilities":{"max_msg_fds":16}}"#)
        #expect(agreement.sending.maximumMessageDescriptors == 2)
    }

    /// S28: each capability alone, and only it comes back.
    @Test(arguments: [
        (#""max_msg_fds":4"#, #""max_msg_fds":16"#),
        (#""max_data_xfer_size":4096"#, #""max_data_xfer_size":1048576"#),
        (#""max_dma_maps":100"#, #""max_dma_maps":100"#),
        (#""max_dma_maps":1000000"#, #""max_dma_maps":65535"#),
        (#""pgsizes":2101248"#, #""pgsizes":2101248"#),
        (#""write_multiple":true"#, #""write_multiple":true"#),
        (#""write_multiple":false"#, #""write_multiple":false"#),
        (#""migration":{}"#, #""migration":{"pgsize":8192}"#),
        (
            #""migration":{"pgsize":4096,"max_bitmap_size":268435456}"#,
            #""migration":{"pgsize":8192,"max_bitmap_size":65536}"#
        ),
        (#""twin_socket":{"supported":true}"#, #""twin_socket":{"supported":true,"fd_index":0}"#),
        (#""twin_socket":{"supported":false}"#, ""),
    ])
    func `names only what the client has named`(proposed: String, answered: String) throws {
        var offer = offer
        offer.maximumDMAMappings = 1 << 24
        offer.migration = .init(pageSize: 8192, maximumBitmapSize: 65536)
        offer.twinSocket = true
        // White space makes the request long enough for any answer.
        let text = #"{"capabilities":{\#(proposed)}}"# + String(repeating: " ", count: 100)
        let agreement = try offer.answer(payload(text).span)
        #expect(agreement.replyText == #"{"capabilities":{\#(answered)}}"#)
        #expect((agreement.twinSocketDescriptorIndex == 0) == proposed.contains("true}"))
        #expect(agreement.maximumDMAMappings == 1 << 24)
    }

    /// S31: whatever the server could do, its words stay within what QEMU takes.
    @Test func `never says more than QEMU takes`() throws {
        var offer = offer
        offer.maximumMessageDescriptors = 253
        offer.maximumTransferSize = 1 << 30
        offer.maximumDMAMappings = .max
        offer.migration = .init(pageSize: 4096, maximumBitmapSize: 1 << 40)
        let agreement = try offer.answer(payload(qemuProposal + String(repeating: " ", count: 100)).span)
        #expect(
            agreement.replyText
                == #"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":67108864,"max_dma_maps":65535,"#
                + #""pgsizes":4096,"write_multiple":true,"#
                + #""migration":{"pgsize":4096,"max_bitmap_size":268435456}}}"#)
        #expect(agreement.receiving.maximumMessageDescriptors == 253)
        #expect(throws: Never.self) { try ClientProposal().accept(agreement.reply.span) }
    }

    @Test func `takes what the client may believe where it cannot say less`() throws {
        var offer = offer
        offer.maximumTransferSize = 4096
        #expect(try offer.answer(payload("{}").span).receiving.maximumTransferSize == 1 << 20)
        let text = #"{"capabilities":{"max_data_xfer_size":1048576}}"#
        #expect(try offer.answer(payload(text).span).receiving.maximumTransferSize == 4096)
    }

    @Test func `to page sizes that share none is a refusal`() {
        var offer = offer
        offer.pageSizes = [PageSizes(rawValue: 1 << 21)]
        #expect(throws: NegotiationError.outOfRange(.pageSizes)) {
            try offer.answer(payload(#"{"capabilities":{"pgsizes":4096}}"#).span)
        }
        #expect(throws: NegotiationError.outOfRange(.pageSizes)) { try offer.answer(payload("{}").span) }
    }

    @Test func `drops a second socket with its words`() throws {
        var offer = offer
        offer.twinSocket = true
        let agreement = try offer.answer(payload(#"{"capabilities":{"twin_socket":{"supported":true}}}"#).span)
        #expect(agreement.replyText == #"{"capabilities":{}}"#)
        #expect(agreement.twinSocketDescriptorIndex == nil)
    }
}

@Suite struct `The length of an answer` {
    private var everything: ServerOffer {
        var offer = ServerOffer()
        offer.pageSizes = .all
        offer.migration = .init(pageSize: 4096, maximumBitmapSize: 256 << 20)
        offer.twinSocket = true
        return offer
    }

    private let keys = [
        #""max_msg_fds":1"#, #""max_data_xfer_size":1"#, #""max_dma_maps":1"#, #""pgsizes":4096"#,
        #""twin_socket":{"supported":true}"#, #""write_multiple":true"#, #""migration":{"max_bitmap_size":1}"#,
    ]

    /// S29: every set of capabilities, in the fewest bytes that a client can say them with.
    @Test func `is never more than that of the request, and the object is always there`() throws {
        for set in 0..<(1 << keys.count) {
            let members = keys.indices.filter { set & (1 << $0) != 0 }.map { keys[$0] }.joined(separator: ",")
            let request = payload(#"{"capabilities":{\#(members)}}"#)
            let agreement = try everything.answer(request.span)
            #expect(agreement.reply.count <= request.count, "\(members)")
            let document = try JSONValue(parsing: Array(agreement.replyText.utf8))
            #expect(document.members?["capabilities"]?.members != nil)
            #expect(agreement.reply.last == 0)
        }
    }

    /// Each proposal is as short as it can be and its full answer too long.
    @Test(arguments: [
        // Room for all of it but 29 bytes: the defaults go first.
        (
            [0, 1, 2, 3, 4, 5, 6],
            #""max_msg_fds":16,"max_dma_maps":1,"twin_socket":{"supported":true,"fd_index":0},"#
                + #""write_multiple":true,"migration":{"pgsize":4096,"max_bitmap_size":1}"#
        ),
        ([0, 1], #""max_msg_fds":16"#),
        ([1, 5], #""write_multiple":true"#),
        // Then what a client can do without.
        ([5, 6], #""migration":{"pgsize":4096,"max_bitmap_size":1}"#),
        ([2, 4], #""twin_socket":{"supported":true,"fd_index":0}"#),
        ([4, 6], #""migration":{"pgsize":4096,"max_bitmap_size":1}"#),
        ([0, 6], #""max_msg_fds":16"#),
        ([0], ""),
    ])
    func `shrinks by what is missed least`(proposed: [Int], answered: String) throws {
        let members = proposed.map { keys[$0] }.joined(separator: ",")
        let agreement = try everything.answer(payload(#"{"capabilities":{\#(members)}}"#).span)
        #expect(agreement.replyText == #"{"capabilities":{\#(answered)}}"#)
    }

    @Test func `of the least answer is that of an empty object even if the request was shorter`() throws {
        let agreement = try everything.answer([0, 0, 0, 0].span)
        #expect(agreement.replyText == #"{"capabilities":{}}"#)
    }
}
