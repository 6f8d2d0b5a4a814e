import LinuxHost

/// A device as a fault queue sees it: it has attachments, whose handlers take its page requests, and it takes the answers.
public protocol FaultingDevice: AnyObject, Sendable {
    /// Its place at a fault queue, the same all its life.
    var faultState: FaultState { get }
    /// Whether it takes answers at all.
    var canRespond: Bool { get }
    /// How many of its requests may be outstanding; more is a bug of the device.
    var outstandingRequestLimit: Int { get }
    /// Whether an answer is to carry the PASID of the request.
    var wantsPASIDInResponses: Bool { get }

    /// Who takes a fault of a PASID, or of none. Called with no lock held.
    func faultRoute(for pasid: PASID?) -> FaultRoute?

    /// The answer to one of its groups.
    ///
    /// Called on any thread, with the device's pending faults locked, so that an answer and the removal of the device
    /// come one after the other: it must not wait, nor report, add, remove or flush. Taking a lock of its own to note the
    /// answer is what it should do. What nobody takes at all is answered on the thread that reports it, before that
    /// returns, with nothing locked.
    func respond(_ response: PageResponse)
}

/// Who takes the page requests of an attachment.
///
/// Called on the thread that reports, which is the device's, with no lock held. A reset or removal of the device waits for it
/// to return, so it must neither do that nor wait for whoever may.
public protocol PageFaultHandler: AnyObject, Sendable {
    /// Takes a group, which it then has to answer exactly once, on any thread and at any time; or refuses it by `false`,
    /// for which the device gets `failure`.
    func take(_ group: FaultGroup) -> Bool
}

/// Where the faults of an attachment go.
public struct FaultRoute: Sendable {
    public let handler: any PageFaultHandler
    /// A number of the attachment that no other of the device has, nor had.
    public let attachment: UInt64

    public init(handler: any PageFaultHandler, attachment: UInt64) {
        self.handler = handler
        self.attachment = attachment
    }
}

/// The place of a device at a fault queue: where its pending faults are while it has been added to one. `dev->iommu`
public final class FaultState: Sendable {
    private let pending = Monitor<PendingFaults?>(nil, as: .faultState)

    public init() {}

    /// Whether the device has been added to a queue.
    public var isAdded: Bool { current != nil }

    var current: PendingFaults? { pending.withLock { $0 } }

    /// Whether there was none before.
    func publish(_ new: PendingFaults) -> Bool {
        pending.withLock { pending in
            guard pending == nil else { return false }
            pending = new
            return true
        }
    }

    /// Takes them away if they are at this queue.
    func take(at queue: FaultQueueCore) -> PendingFaults? {
        pending.withLock { pending in
            guard let current = pending, current.queue === queue else { return nil }
            pending = nil
            return current
        }
    }
}
