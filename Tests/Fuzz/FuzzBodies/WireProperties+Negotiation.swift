import JSONText
import VFIOUserNegotiation
import VFIOUserWire

extension WireProperties {
    /// Which server a proposal is made to.
    struct Variant {
        let hasMigration, hasTwinSocket: Bool

        init(mode: UInt8) {
            hasMigration = mode & 4 != 0
            hasTwinSocket = mode & 8 != 0
        }
    }

    /// A version message's payload as a client's proposal and as a server's answer; its text as JSON.
    ///
    /// Whatever a server agrees to, it says in no more room than the client's words took, and a client that is ready for
    /// everything takes it.
    static func checkNegotiation(_ payload: [UInt8], _ variant: Variant) throws(Finding) {
        if payload.count > VersionMessage.capabilitiesOffset {
            try checkJSON(Array(payload[VersionMessage.capabilitiesOffset..<payload.count - 1]))
        }
        var offer = ServerOffer()
        offer.twinSocket = variant.hasTwinSocket
        if variant.hasMigration { offer.migration = .init(pageSize: 4096, maximumBitmapSize: 1 << 20) }
        var proposal = ClientProposal(minor: .max)
        proposal.capabilities.twinSocket = .init(isSupported: true)
        proposal.capabilities.migration = .init(pageSize: 4096, maximumBitmapSize: 1 << 20)

        switch Result(catching: { () throws(NegotiationError) in try offer.answer(payload.span) }) {
        case .success(let agreement): try checkAnswer(agreement, to: payload, proposal)
        case .failure(let error): try require(error.errno > 0, "\(error) has no error number")
        }
        if let accepted = try? proposal.accept(payload.span) {
            let copy = written { accepted.writeReply(to: &$0) }
            let again = try? proposal.accept(copy.span)
            try require(again == accepted, "\(accepted) was written as \(copy)")
        }
    }

    private static func checkAnswer(
        _ agreement: Agreement, to payload: [UInt8], _ proposal: ClientProposal
    ) throws(Finding) {
        let reply = written { agreement.writeReply(to: &$0) }
        let smallest = VersionMessage.capabilitiesOffset + #"{"capabilities":{}}"#.utf8.count + 1
        try require(reply.count <= max(payload.count, smallest), "a reply of \(reply.count) to \(payload.count) bytes")
        try require(agreement.sending.maximumTransferSize > 0, "not a byte can be sent")
        try require(agreement.maximumDMAMappings > 0, "not a mapping can be made")
        switch Result(catching: { () throws(NegotiationError) in try proposal.accept(reply.span) }) {
        case .success(let accepted):
            try require(accepted.version == agreement.version, "two versions agreed on")
            let isLegal = accepted.sending.maximumMessageDescriptors <= 16 && accepted.maximumDMAMappings <= 65535
            try require(isLegal, "an answer beyond what QEMU takes: \(accepted)")
        case .failure(let error): throw Finding("a client does not take \(reply): \(error)")
        }
    }

    private static func checkJSON(_ text: [UInt8]) throws(Finding) {
        let limits = JSONLimits(maximumByteCount: 16 << 10, maximumDepth: 16)
        guard let value = try? JSONValue(parsing: text, limits: limits) else { return }
        guard let copy = try? value.text() else { throw Finding("\(value) cannot be written") }
        let again = try? JSONValue(parsing: copy, limits: JSONLimits(maximumByteCount: 1 << 20, maximumDepth: 16))
        try require(again == value, "\(value) was written as \(copy) and read as \(String(describing: again))")
    }
}
