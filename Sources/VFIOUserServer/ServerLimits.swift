public import VFIOUserSession

/// What a server gives to all its clients together, and to each.
public struct ServerLimits: Hashable, Sendable {
    /// How many clients a server may be made for. Each costs its device's threads and one more, and memory as `session`
    /// allows; a guest machine is one client for each of its devices, and a host runs tens of them.
    public static let clientCounts = 1...64

    /// What each client may have.
    public var session = SessionLimits()

    /// How many clients that there is no room for are told so at once. Each is a descriptor and 64 KiB for as long as
    /// `refusalWait`; further ones find their connection closed without a word.
    public var refusals = 16

    /// How long a client that there is no room for may take to send the version message to which it is told so. Clients
    /// send it first thing; one that does not has nothing to learn from an answer.
    public var refusalWait = Duration.seconds(1)

    public init() {}
}
