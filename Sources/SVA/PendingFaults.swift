import DMA
import LinuxHost

/// The faults of a device at a queue that are not answered: requests whose group is not complete, and complete groups.
///
/// One for each time that the device is added to a queue. Groups keep it, so that it is there for an answer that comes
/// after the device was removed; such an answer finds its group struck out and does nothing. Counterpart of
/// `struct iommu_fault_param`.
final class PendingFaults: Sendable {
    private struct State {
        /// In the order in which they came.
        var partial: [PageRequest] = []
        var groups: [UInt64: FaultGroup] = [:]
        /// The requests in `groups`.
        var groupedCount = 0
        /// The device was removed: there is nothing here and nothing comes in.
        var isClosed = false

        mutating func takePartial(of group: PageRequestGroupIndex) -> [PageRequest] {
            let own = partial.filter { $0.group == group }
            partial.removeAll { $0.group == group }
            return own
        }
    }

    let device: any FaultingDevice
    let queue: FaultQueueCore
    private let state = Monitor(State(), as: .pendingFaults)

    init(of device: any FaultingDevice, at queue: FaultQueueCore) {
        self.device = device
        self.queue = queue
    }

    /// Why a request was not taken.
    enum Refusal {
        case closed
        /// The device has more requests outstanding than it may.
        case overflow
    }

    /// Keeps a request whose group is not complete.
    func keep(_ request: PageRequest) -> Refusal? {
        state.withLock { state in
            if state.isClosed { return .closed }
            guard takesMore(&state) else { return .overflow }
            state.partial.append(request)
            return nil
        }
    }

    /// Makes a group of its last request and those before it.
    func complete(_ last: PageRequest, on attachment: UInt64) -> Result<FaultGroup, Refusal> {
        state.withLock { state in
            if state.isClosed { return .failure(.closed) }
            guard takesMore(&state) else { return .failure(.overflow) }
            let requests = state.takePartial(of: last.group) + [last]
            let group = FaultGroup(
                requests, of: self, on: attachment, number: queue.nextGroupNumber(), deadline: queue.newDeadline())
            state.groups[group.number] = group
            state.groupedCount += requests.count
            return .success(group)
        }
    }

    /// Whether there is room for one more request. If not, requests whose group is not complete are lost, as in a
    /// hardware queue that has overflowed; they need no answer.
    private func takesMore(_ state: inout State) -> Bool {
        if state.partial.count + state.groupedCount < device.outstandingRequestLimit { return true }
        state.partial = []
        return false
    }

    /// Forgets requests whose group is not complete: of one group, or all.
    func discardPartial(of group: PageRequestGroupIndex? = nil) {
        state.withLock { state in
            if let group { _ = state.takePartial(of: group) } else { state.partial = [] }
        }
    }

    /// Answers the device, unless the group was answered before.
    func respond(to group: FaultGroup, _ code: PageResponse.Code) -> Bool {
        let isFirst = state.withLock { state in
            guard state.groups[group.number] != nil else { return false }
            settle(group, code, &state)
            return true
        }
        if isFirst { queue.unwatch(group) }
        return isFirst
    }

    /// Answers the groups of an attachment that is gone.
    func refuse(attachment: UInt64) {
        let refused = state.withLock { state in
            let groups = state.groups.values.filter { $0.attachment == attachment }
            let ordered = groups.sorted { $0.number < $1.number }
            for group in ordered { settle(group, .invalid, &state) }
            return ordered
        }
        for group in refused { queue.unwatch(group) }
    }

    /// Answers everything and takes nothing more.
    func close() {
        let refused = state.withLock { state in
            state.isClosed = true
            state.partial = []
            let groups = state.groups.values.sorted { $0.number < $1.number }
            for group in groups { settle(group, .invalid, &state) }
            return groups
        }
        for group in refused { queue.unwatch(group) }
    }

    /// Tells the device and strikes the group out, in this order and with the lock held: so the device has heard of the
    /// group before anybody can find that it is answered, and hears of it once.
    private func settle(_ group: FaultGroup, _ code: PageResponse.Code, _ state: inout State) {
        guard let last = group.requests.last else { preconditionFailure("a group has its last request") }
        device.respond(device.response(to: last, code))
        state.groups[group.number] = nil
        state.groupedCount -= group.requests.count
        group.noteAnswer()
    }
}

extension PendingFaults.Refusal: Error {}

extension FaultingDevice {
    func response(to last: PageRequest, _ code: PageResponse.Code) -> PageResponse {
        PageResponse(group: last.group, pasid: wantsPASIDInResponses ? last.pasid : nil, code: code)
    }
}
