public import VFIOUserWire

/// What a client asks for, and its judgement of the server's answer.
public struct ClientProposal: Hashable, Sendable {
    public var minor: UInt16
    public var capabilities: Capabilities

    /// A client that takes and gives all this package knows, except migration and a second socket; for that one set
    /// `capabilities.twinSocket`.
    public init(minor: UInt16 = ServerOffer.minorVersion) {
        self.minor = minor
        capabilities = Capabilities()
        capabilities.maximumMessageDescriptors = 16
        capabilities.maximumTransferSize = CapabilityLimits.defaultTransferSize
        capabilities.maximumDMAMappings = CapabilityLimits.defaultDMAMappings
        capabilities.pageSizes = .fourKiB
        capabilities.writeMultiple = true
    }

    public init(minor: UInt16, capabilities: Capabilities) {
        self.minor = minor
        self.capabilities = capabilities
    }

    /// Writes the payload of the version message.
    public func write(to writer: inout MessageWriter) throws(NegotiationError) {
        let text = try capabilities.text()
        VersionMessage(major: 0, minor: minor).write(to: &writer)
        writer.append(contentsOf: text)
    }

    /// Decides on the payload of the server's reply.
    ///
    /// A capability that was not proposed is not agreed on, even if the server names it: servers exist that always do.
    public func accept(_ reply: Span<UInt8>) throws(NegotiationError) -> Agreement {
        let version: VersionMessage
        do {
            version = try VersionMessage(parsing: reply)
        } catch {
            throw .malformed(error)
        }
        if version.major != 0 { throw .unsupportedMajor(version.major) }
        if version.minor > minor { throw .unexpectedMinor(version.minor) }
        let answer = try Capabilities(parsing: reply, from: .server)
        let twinSocket = capabilities.twinSocket?.isSupported == true ? answer.twinSocket : nil
        return Agreement(
            version: version,
            sending: answer.messageLimits,
            receiving: capabilities.messageLimits,
            maximumDMAMappings: answer.maximumDMAMappings ?? CapabilityLimits.defaultDMAMappings,
            pageSizes: answer.pageSizes ?? CapabilityLimits.defaultPageSizes,
            writeMultiple: capabilities.writeMultiple == true && answer.writeMultiple == true,
            migration: capabilities.migration == nil ? nil : answer.migration,
            twinSocketDescriptorIndex: twinSocket?.descriptorIndex,
            answer: answer, answerText: try answer.text())
    }
}
