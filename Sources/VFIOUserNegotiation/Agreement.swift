public import VFIOUserWire

/// What two sides hold to for the rest of a connection, as one of them sees it.
public struct Agreement: Hashable, Sendable {
    /// Bounds of the messages in one direction.
    public struct MessageLimits: Hashable, Sendable {
        public var maximumMessageDescriptors: Int
        public var maximumTransferSize: Int

        public init(maximumMessageDescriptors: Int, maximumTransferSize: Int) {
            self.maximumMessageDescriptors = maximumMessageDescriptors
            self.maximumTransferSize = maximumTransferSize
        }
    }

    public let version: VersionMessage
    /// What the other side takes.
    public let sending: MessageLimits
    /// What this side has to take. Never below what the other side may believe.
    public let receiving: MessageLimits
    /// Mappings the server holds at a time. A server takes more when it can: QEMU keeps to no limit behind a virtual IOMMU.
    public let maximumDMAMappings: Int
    public let pageSizes: PageSizes
    /// Whether the client may put several writes in one message.
    public let writeMultiple: Bool
    /// Nil without migration.
    public let migration: Capabilities.Migration?
    /// Which of the reply's descriptors is the socket for the server's requests; nil if they share the one socket.
    public let twinSocketDescriptorIndex: Int?

    /// The words of the server, as they go over the wire.
    let answer: Capabilities
    let answerText: [UInt8]

    /// Writes the payload of the server's reply.
    public func writeReply(to writer: inout MessageWriter) {
        version.write(to: &writer)
        writer.append(contentsOf: answerText)
    }
}
