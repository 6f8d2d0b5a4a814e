public import LinuxHost
public import VFIOUserNegotiation
import VFIOUserWire

/// A connection to a server, and through it to its device: the client half of vfio-user.
///
/// Used by one thread at a time, and synchronous: a call returns when the server has answered. Whenever it waits it
/// also serves what the server asks of the memory that was mapped without a descriptor, so that the two never wait for
/// each other. A request that the server refuses changes nothing (`ClientError.refused`); after any other error the
/// connection is of no use.
///
/// It takes no second socket for the server's requests.
public final class Client {
    /// What the two sides hold to.
    public let agreement: Agreement
    var conversation: Conversation

    /// How long a reply may take; no limit unless one is set.
    public var replyTimeout: Duration? {
        get { conversation.replyTimeout }
        set { conversation.replyTimeout = newValue }
    }

    /// Room for the longest reply: the data of an access and what comes before them.
    private static let overhead = 64

    /// Negotiates over a connected socket, which is the client's from now on.
    public init(_ socket: UNIXSocket, proposal: ClientProposal = ClientProposal()) throws(ClientError) {
        let transferSize = proposal.capabilities.maximumTransferSize ?? CapabilityLimits.defaultTransferSize
        var conversation = try Conversation(
            socket, maximumMessageSize: max(transferSize, CapabilityLimits.defaultTransferSize) + Client.overhead)
        conversation.maximumTransferSize = transferSize
        let payload = try Client.payload(of: proposal)
        let id = try conversation.send(.version) { $0.append(contentsOf: payload) }
        let reply = try conversation.reply(to: id)
        do throws(NegotiationError) {
            agreement = try proposal.accept(reply.payload.span)
        } catch {
            conversation.close()
            throw .negotiation(error)
        }
        self.conversation = conversation
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
    public convenience init(path: String, proposal: ClientProposal = ClientProposal()) throws(ClientError) {
        try self.init(try systemCall { () throws(Errno) in try UNIXSocket.connect(toPath: path) }, proposal: proposal)
    }

    deinit { conversation.close() }

    /// Puts the device into its state after power-on; memory and interrupts stay. `VFIO_USER_DEVICE_RESET`
    public func reset() throws(ClientError) {
        _ = try perform(.resetDevice)
    }
}
