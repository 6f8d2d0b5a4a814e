public import LinuxHost
public import VFIOUserNegotiation
public import VFIOUserTransport
import VFIOUserWire

/// A connection to a server, and through it to its device: the client half of vfio-user.
///
/// Used by one thread at a time, and synchronous: a call returns when the server has answered. Whenever it waits it
/// also serves what the server asks of the memory that was mapped without a descriptor, so that the two never wait for
/// each other. A request that the server refuses changes nothing (`ClientError.refused`); after any other error the
/// connection is of no use.
public final class Client {
    /// What the two sides hold to.
    public let agreement: Agreement
    var conversation: Conversation

    /// How long the server may take to take in a request, and then to answer it; no limit unless one is set.
    public var replyTimeout: Duration? {
        get { conversation.replyTimeout }
        set { conversation.replyTimeout = newValue }
    }

    /// Room for the longest reply: the data of an access and what comes before them.
    private static let overhead = 64

    /// Negotiates over a connected socket, or over whatever carries messages in its place; it is the client's from now
    /// on.
    ///
    /// - Parameters:
    ///   - replyTimeout: how long a reply may take, that to the version message included; see `replyTimeout`.
    ///   - decorateTwin: puts something between the second socket and the client, if the proposal asks for one and the
    ///     server gives it.
    public init(
        _ transport: any Transport, proposal: ClientProposal = ClientProposal(), replyTimeout: Duration? = nil,
        decorateTwin: (UNIXSocket) -> any Transport = { $0 }
    ) throws(ClientError) {
        let transferSize = proposal.capabilities.maximumTransferSize ?? CapabilityLimits.defaultTransferSize
        var conversation = try Conversation(
            transport, maximumMessageSize: max(transferSize, CapabilityLimits.defaultTransferSize) + Client.overhead)
        conversation.maximumTransferSize = transferSize
        conversation.replyTimeout = replyTimeout
        let payload = try Client.payload(of: proposal)
        let id = try conversation.send(.version) { $0.append(contentsOf: payload) }
        let reply = try conversation.reply(to: id)
        do throws(NegotiationError) {
            agreement = try proposal.accept(reply.payload.span)
        } catch {
            conversation.close()
            throw .negotiation(error)
        }
        if let index = agreement.twinSocketDescriptorIndex {
            guard let socket = Client.socket(index, of: reply) else {
                conversation.close()
                throw .unexpectedReply(.version)
            }
            try conversation.addTwin(decorateTwin(socket))
        }
        self.conversation = conversation
    }

    /// The socket among a reply's descriptors that has a number; the others are of no use.
    private static func socket(_ index: Int, of reply: Reply) -> UNIXSocket? {
        for _ in 0..<index { guard reply.takeDescriptor() != nil else { return nil } }
        guard let number = reply.takeDescriptor()?.take() else { return nil }
        if let socket = OwnedDescriptor(adoptingSocket: number) { return UNIXSocket(adopting: socket) }
        _ = OwnedDescriptor(adopting: number)
        return nil
    }

    private static func payload(of proposal: ClientProposal) throws(ClientError) -> [UInt8] {
        var writer = MessageWriter()
        do throws(NegotiationError) {
            try proposal.write(to: &writer)
            return writer.bytes
        } catch {
            throw .negotiation(error)
        }
    }

    /// Connects to the socket at `path` and negotiates.
    ///
    /// - Parameter replyTimeout: how long the server may take to accept the connection, and how long a reply may take
    ///   from then on. A server that serves somebody else first accepts nobody until it has room.
    public convenience init(
        path: String, proposal: ClientProposal = ClientProposal(), replyTimeout: Duration? = nil
    ) throws(ClientError) {
        let socket = try systemCall { () throws(Errno) in
            guard let replyTimeout else { return try UNIXSocket.connect(toPath: path) }
            return try UNIXSocket.connect(toPath: path, atMost: replyTimeout)
        }
        try self.init(socket, proposal: proposal, replyTimeout: replyTimeout)
    }

    deinit { conversation.close() }

    /// Puts the device into its state after power-on; memory and interrupts stay. `VFIO_USER_DEVICE_RESET`
    public func reset() throws(ClientError) {
        _ = try perform(.resetDevice)
    }
}
