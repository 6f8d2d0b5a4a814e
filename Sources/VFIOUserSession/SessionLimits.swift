import VFIOUserNegotiation

/// What one client may have of a server at the same time, and how long the server waits for it.
///
/// Every bound that a session and its connection hold a client to stands here with its reason. Each client has them to
/// itself. What a client sees of them is negotiated (`ServerOffer`), and never less than the standard lets it assume.
public struct SessionLimits: Hashable, Sendable {
    /// Bytes of data in one message, either way. What the reference server and QEMU take by default; a device's registers
    /// and its configuration space fit many times over, and larger transfers come in pieces. A client that does not say
    /// what it takes may assume as much, and then less is not enforced.
    public var transferSize = 1 << 20

    /// Descriptors that come with one message. QEMU gives no more and takes no more, and cloud-hypervisor sends up to
    /// this many without asking.
    public var messageDescriptors = 16

    /// Descriptors that have arrived with bytes which are no whole message yet. As many as the kernel passes in one call:
    /// a message is read before the descriptors of the next are, so more belong to a peer that piles them up.
    public var pendingDescriptors = 253

    /// Mappings of client memory. More than the 65535 that QEMU lets a server say, and has to be: QEMU does not count,
    /// and a guest behind a virtual IOMMU maps hundreds of thousands of pages. The reference server's limit. The memory for
    /// a million of them is a few hundred megabytes.
    public var mappings = 1_000_000

    /// Requests to the client that it has not answered; more wait their turn. A client answers one at a time, so that a few
    /// keep it busy.
    public var requestsOutstanding = 16

    /// Bytes that the client is asked for at once. QEMU (seen with 11.1.3) sends an answer with one call and drops what its
    /// socket's buffer, 208 KiB by default, does not take; small messages cost the buffer twice their size.
    public var bytesAsked = 64 << 10

    /// How long a client may take for one answer. Generous, because a stopped guest can be slow without being broken;
    /// finite, because a device must not hang on a client that never answers.
    public var answerWait = Duration.seconds(30)

    /// How long an unmap waits for the device to let go. QEMU gives a reply five seconds; a device that has not let go by
    /// then will not be waited for.
    public var unmapWait = Duration.seconds(3)

    public init() {}

    /// Bytes of a whole message: the data, and the header and the fixed part of the messages that carry them.
    public var messageSize: Int { max(transferSize, CapabilityLimits.defaultTransferSize) + SessionLimits.overhead }

    /// Bytes that wait for a client to read them: one message. While anything waits, nothing more is read from the client,
    /// so a client that does not read costs that much and the buffers of its socket, and no one else notices.
    public var bytesQueued: Int { messageSize }

    private static let overhead = 32
}
