import DMA
public import LinuxHost
import Synchronization

/// The page requests of a device that are answered together.
///
/// Whoever takes it answers it once, when it likes: an answer that comes late, because the device was removed, the
/// attachment went or the time was over, does nothing. It keeps alive what it needs for that, however late. Counterpart of
/// `struct iopf_group`.
public final class FaultGroup: Sendable {
    /// In the order in which they came; the last one completed the group.
    public let requests: [PageRequest]
    /// When the device is answered `invalid` without whoever took it.
    public let deadline: MonotonicInstant
    /// A number that no other group of the queue has, nor had.
    let number: UInt64
    let attachment: UInt64
    private let faults: PendingFaults
    private let isUnanswered = Atomic<Bool>(true)

    init(
        _ requests: [PageRequest], of faults: PendingFaults, on attachment: UInt64, number: UInt64,
        deadline: MonotonicInstant
    ) {
        self.requests = requests
        self.faults = faults
        self.attachment = attachment
        self.number = number
        self.deadline = deadline
    }

    /// The PASID of the last request.
    public var pasid: PASID? { requests.last?.pasid }

    public var device: any FaultingDevice { faults.device }

    /// Whether the device still waits for the answer.
    public var isPending: Bool { isUnanswered.load(ordering: .acquiring) }

    /// Answers the device. `false` when it was answered before, and nothing has happened.
    @discardableResult
    public func respond(_ code: PageResponse.Code) -> Bool { faults.respond(to: self, code) }

    /// Has a thread of the device's fault queue run `body`, unless the group is answered before one comes to it. Flushing
    /// the device waits for that.
    func enqueue(_ body: @escaping @Sendable () -> Void) { faults.queue.enqueue(self, body) }

    /// Noted by the pending faults, under their lock.
    func noteAnswer() { isUnanswered.store(false, ordering: .releasing) }
}
