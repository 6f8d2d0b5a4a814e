public import LinuxHost
public import VFIOUserNegotiation
public import VFIOUserWire

/// Why a client did not get what it asked for.
public enum ClientError: Error, Hashable, Sendable {
    /// The server refused the request with a Linux error number; nothing else has changed.
    case refused(Command, errorNumber: Int32)
    /// There is no agreement on version and capabilities. The connection is closed.
    case negotiation(NegotiationError)
    /// A socket, a mapping or an event counter failed.
    case system(Errno)
    /// The server has closed the connection.
    case closed
    /// The server sent what the standard does not allow. The connection is closed.
    case malformed(WireError)
    /// The reply answers something else than was asked. The connection is closed.
    case unexpectedReply(Command)
    /// A request was not taken in, or not answered, within the client's limit. The connection is closed, for a late reply
    /// could not be told from others.
    case timedOut
    /// More than was agreed on with this server can carry.
    case notAgreed
}
