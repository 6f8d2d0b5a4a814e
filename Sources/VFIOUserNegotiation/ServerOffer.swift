import VFIOUserWire

/// What a server is able to do, before it knows its client.
///
/// This module decides what two sides agree on: a proposal goes in, an agreement or a refusal comes out. It holds no
/// state and does no I/O; the JSON names of the capabilities stand nowhere else.
public struct ServerOffer: Hashable, Sendable {
    /// The newest minor version of the protocol that is spoken here; the major version is 0.
    public static let minorVersion: UInt16 = 2

    /// QEMU takes no more than this from a server, and gives no more. A session offers its own limits.
    public var maximumMessageDescriptors = 16
    public var maximumTransferSize = 1 << 20
    /// What the server enforces. It may be more than the 65535 that QEMU lets a server say, and has to be: QEMU does not
    /// count, and a guest behind a virtual IOMMU maps hundreds of thousands of pages. The reference server's limit.
    public var maximumDMAMappings = 1_000_000
    public var pageSizes = PageSizes.all
    public var writeMultiple = true
    /// Nil for a device without migration.
    public var migration: Capabilities.Migration?
    /// Whether the server can make a second socket.
    public var twinSocket = false

    public init() {}

    /// Decides on the payload of a client's version message.
    ///
    /// The reply never has a capability that the client has not named, and it is never longer than the request, because
    /// QEMU reads it into the buffer of its request: capabilities are left out until it fits, but not the empty object
    /// that other clients insist on.
    public func answer(_ payload: Span<UInt8>) throws(NegotiationError) -> Agreement {
        let version: VersionMessage
        do {
            version = try VersionMessage(parsing: payload)
        } catch {
            throw .malformed(error)
        }
        if version.major != 0 { throw .unsupportedMajor(version.major) }
        let proposal = try Capabilities(parsing: payload, from: .client)
        var answer = try draft(for: proposal)
        let room = payload.count - VersionMessage.capabilitiesOffset
        var text = try answer.text()
        while text.count > room, answer.dropLeastImportant() {
            text = try answer.text()
        }
        return try agreement(
            VersionMessage(major: 0, minor: min(version.minor, ServerOffer.minorVersion)),
            proposal: proposal, answer: answer, text: text)
    }

    /// The answer to a proposal if there were no limit to its length.
    private func draft(for proposal: Capabilities) throws(NegotiationError) -> Capabilities {
        var answer = Capabilities()
        if proposal.maximumMessageDescriptors != nil {
            answer.maximumMessageDescriptors = min(
                maximumMessageDescriptors, CapabilityLimits.answeredMessageDescriptors)
        }
        if proposal.maximumTransferSize != nil {
            answer.maximumTransferSize = min(maximumTransferSize, CapabilityLimits.answeredTransferSize)
        }
        if let proposed = proposal.maximumDMAMappings {
            answer.maximumDMAMappings = min(proposed, maximumDMAMappings, CapabilityLimits.answeredDMAMappings)
        }
        if let proposed = proposal.pageSizes {
            answer.pageSizes = proposed.intersection(pageSizes)
            if answer.pageSizes == [] { throw .outOfRange(.pageSizes) }
        }
        if let proposed = proposal.writeMultiple {
            answer.writeMultiple = proposed && writeMultiple
        }
        if let proposed = proposal.migration, let migration {
            answer.migration = migration.answer(to: proposed)
        }
        // A client that takes no descriptor could not be given its end.
        if let proposed = proposal.twinSocket, proposed.isSupported && twinSocket,
            proposal.messageLimits.maximumMessageDescriptors > 0
        {
            answer.twinSocket = .init(isSupported: true, descriptorIndex: 0)
        }
        return answer
    }

    private func agreement(
        _ version: VersionMessage, proposal: Capabilities, answer: Capabilities, text: [UInt8]
    ) throws(NegotiationError) -> Agreement {
        let agreedPageSizes = answer.pageSizes ?? CapabilityLimits.defaultPageSizes
        if agreedPageSizes.isDisjoint(with: pageSizes) { throw .outOfRange(.pageSizes) }
        return Agreement(
            version: version,
            sending: proposal.messageLimits,
            // Where the answer leaves a limit out, the client believes the default and may act on it.
            receiving: Agreement.MessageLimits(
                maximumMessageDescriptors: max(
                    maximumMessageDescriptors, answer.messageLimits.maximumMessageDescriptors),
                maximumTransferSize: max(maximumTransferSize, answer.messageLimits.maximumTransferSize)),
            maximumDMAMappings: maximumDMAMappings,
            pageSizes: agreedPageSizes,
            writeMultiple: answer.writeMultiple ?? false,
            migration: answer.migration,
            twinSocketDescriptorIndex: answer.twinSocket?.descriptorIndex,
            answer: answer, answerText: text)
    }
}

extension Capabilities {
    var messageLimits: Agreement.MessageLimits {
        Agreement.MessageLimits(
            maximumMessageDescriptors: maximumMessageDescriptors ?? CapabilityLimits.defaultMessageDescriptors,
            maximumTransferSize: maximumTransferSize ?? CapabilityLimits.defaultTransferSize)
    }

    /// Takes out the capability that is missed least; false if none is left.
    ///
    /// First those that only repeat a default. Then those a client can do without, and last the two limits: without
    /// `max_msg_fds` clients differ in what they believe.
    fileprivate mutating func dropLeastImportant() -> Bool {
        if pageSizes == CapabilityLimits.defaultPageSizes {
            pageSizes = nil
        } else if maximumDMAMappings == CapabilityLimits.defaultDMAMappings {
            maximumDMAMappings = nil
        } else if writeMultiple == false {
            writeMultiple = nil
        } else if maximumTransferSize == CapabilityLimits.defaultTransferSize {
            maximumTransferSize = nil
        } else if writeMultiple != nil {
            writeMultiple = nil
        } else if pageSizes != nil {
            pageSizes = nil
        } else if maximumDMAMappings != nil {
            maximumDMAMappings = nil
        } else if twinSocket != nil {
            twinSocket = nil
        } else if migration != nil {
            migration = nil
        } else if maximumTransferSize != nil {
            maximumTransferSize = nil
        } else if maximumMessageDescriptors != nil {
            maximumMessageDescriptors = nil
        } else {
            return false
        }
        return true
    }
}

extension Capabilities.Migration {
    /// What a server with these abilities tells a client. The page size is always there: one client cannot read an answer
    /// without it.
    fileprivate func answer(to proposal: Capabilities.Migration) -> Capabilities.Migration {
        let largest = min(maximumBitmapSize ?? UInt64.max, CapabilityLimits.answeredBitmapSize)
        return Capabilities.Migration(
            pageSize: pageSize ?? CapabilityLimits.pageSize,
            maximumBitmapSize: proposal.maximumBitmapSize.map { min($0, largest) })
    }
}
