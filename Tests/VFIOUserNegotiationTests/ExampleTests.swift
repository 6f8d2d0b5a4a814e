import SchemaExamples
import Testing
import VFIOUserNegotiation
import VFIOUserWire

@Suite struct `Capability examples` {
    @Test(arguments: SchemaExample.all(of: "version-client"))
    func `of clients are accepted and rejected as their schema does`(_ example: SchemaExample) {
        do throws(NegotiationError) {
            _ = try ServerOffer().answer(payload(example.text).span)
            #expect(example.isAccepted)
        } catch {
            #expect(!example.isAccepted, "\(error)")
            #expect(error.errno == 22)
        }
    }

    @Test(arguments: SchemaExample.all(of: "version-server"))
    func `of servers are accepted and rejected as their schema does`(_ example: SchemaExample) {
        do throws(NegotiationError) {
            _ = try ClientProposal().accept(payload(example.text).span)
            #expect(example.isAccepted)
        } catch {
            #expect(!example.isAccepted, "\(error)")
        }
    }

    /// What a client of ours sends satisfies the schema by way of the decoder that agrees with it.
    @Test func `the proposal of our own client is accepted`() throws {
        var writer = MessageWriter()
        try ClientProposal().write(to: &writer)
        let agreement = try ServerOffer().answer(writer.bytes.span)
        #expect(agreement.version == VersionMessage(major: 0, minor: 2))
        #expect(agreement.writeMultiple)
    }
}

/// A version payload with these capabilities, their NUL and version 0.0.
func payload(_ text: [UInt8], major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
    var writer = MessageWriter()
    VersionMessage(major: major, minor: minor).write(to: &writer)
    writer.append(contentsOf: text + [0])
    return writer.bytes
}

func payload(_ text: String, major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
    payload(Array(text.utf8), major: major, minor: minor)
}
