public import DMA

/// Something that a device and its fault queue have done, for whoever keeps a record of the order.
public enum SVAEvent: Hashable, Sendable {
    /// The device takes new work.
    case started
    /// The device refuses new work. Step 1 of a removal
    case workStopped
    /// No further request leaves the device; the stop marker has. Step 2
    case requestsStopped
    /// A request is about to leave the device.
    case requested(PageRequest)
    /// The device's work on the queue, or at the end of an attachment that for it, was waited for: to its end or, if not,
    /// until the time was over. Step 3
    case flushed(isComplete: Bool)
    /// What was left is answered, and the queue has forgotten the device. Step 4
    case leftQueue
    /// A group was answered.
    case answered(PageResponse)
    /// The device has taken all answers, and its work has ended. Step 5
    case workFinished
    /// Page requests are off and no translation is cached. Step 6
    case requestsDisabled
    /// An access failed, and its page was not to be asked for. There is no group.
    case unrecoverable(PASID?, IOVARange, AccessRights)
    /// Accesses with the PASID, or with none, reach memory.
    case attached(PASID?)
    /// Accesses with the PASID, or with none, reach other memory than before.
    case replaced(PASID?)
    /// Accesses with the PASID, or with none, reach nothing any more. Step 7
    case detached(PASID?)
    /// The last device of a domain has left it.
    case domainFreed(PASID)
    /// The device can never be used again. Step 8
    case removed
}

/// Takes what happens.
///
/// Called on any thread and at times with a lock held, so that the order is the true one: it may write down, and neither
/// wait nor call back.
public typealias SVATrace = @Sendable (SVAEvent) -> Void
