import DMA
import LinuxHost
import Synchronization

/// What the threads of a fault queue share: its devices, the work, and the groups whose time runs.
///
/// Apart from the queue, so that its threads do not keep that alive.
final class FaultQueueCore: Sendable {
    private struct Item {
        let ticket: UInt64
        let group: FaultGroup
        let body: @Sendable () -> Void

        var work: Work { Work(device: ObjectIdentifier(group.device), attachment: group.attachment) }
    }

    /// What a piece of work is about.
    private struct Work {
        let device: ObjectIdentifier
        let attachment: UInt64

        /// - Parameter attachment: one of the device; `nil` for all.
        func concerns(_ device: ObjectIdentifier, _ attachment: UInt64?) -> Bool {
            self.device == device && (attachment.map { $0 == self.attachment } ?? true)
        }
    }

    private struct Load {
        var devices: [PendingFaults] = []
        var isClosed = false
        var hasEnded = false
        /// In the order of their tickets.
        var items: [Item] = []
        var lastTicket: UInt64 = 0
        /// Of work that runs, by ticket.
        var running: [UInt64: Work] = [:]

        /// Strikes out the work that nobody waits for any more, so that there is no more than devices may have requests
        /// outstanding, even if every thread hangs. The caller lets go of it without the lock.
        mutating func takeSettled() -> [Item] {
            // Each is asked once: what is answered in between must not be let go of here.
            var settled: [Item] = []
            var pending: [Item] = []
            for item in items { if item.group.isPending { pending.append(item) } else { settled.append(item) } }
            items = pending
            return settled
        }

        func hasWork(of device: ObjectIdentifier, _ attachment: UInt64?, upTo ticket: UInt64) -> Bool {
            running.contains { $0.key <= ticket && $0.value.concerns(device, attachment) }
                || items.contains { $0.ticket <= ticket && $0.work.concerns(device, attachment) }
        }
    }

    private struct Deadlines {
        var groups: [UInt64: FaultGroup] = [:]
        var hasEnded = false

        /// Every group has as much time, so the one that came first is due first.
        var first: FaultGroup? { groups.min { $0.key < $1.key }?.value }
    }

    private let load = Monitor(Load(), as: .faultWork)
    private let deadlines = Monitor(Deadlines(), as: .faultDeadlines)
    private let groupCount = Atomic<UInt64>(0)
    private let responseTime: Duration

    init(responseTime: Duration) { self.responseTime = responseTime }

    func nextGroupNumber() -> UInt64 { groupCount.wrappingAdd(1, ordering: .relaxed).newValue }

    func newDeadline() -> MonotonicInstant { .after(responseTime) }

    // Devices

    func add(_ device: any FaultingDevice) throws(DMAError) {
        guard device.canRespond else { throw .noDevice }
        let faults = PendingFaults(of: device, at: self)
        let isOpen = load.withLock { load in
            if !load.isClosed { load.devices.append(faults) }
            return !load.isClosed
        }
        guard isOpen else { throw .invalid }
        guard device.faultState.publish(faults) else {
            unlist(faults)
            throw .busy
        }
        // Who closes the queue before this is published does not find it.
        if load.withLock({ $0.isClosed }) { remove(device) }
    }

    @discardableResult
    func remove(_ device: any FaultingDevice) -> Bool {
        guard let faults = device.faultState.take(at: self) else { return false }
        faults.close()
        unlist(faults)
        return true
    }

    private func unlist(_ faults: PendingFaults) {
        load.withLock { load in load.devices.removeAll { $0 === faults } }
    }

    var listed: [PendingFaults] { load.withLock { $0.devices } }

    /// Lets no device in any more, and returns those that are.
    func close() -> [PendingFaults] {
        load.withLock { load in
            load.isClosed = true
            return load.devices
        }
    }

    /// Ends the threads, once they have done what they have.
    func end() {
        load.update { $0.hasEnded = true }
        deadlines.update { $0.hasEnded = true }
    }

    // Work

    /// Once the threads have ended it is not done any more; all groups are answered by then.
    func enqueue(_ group: FaultGroup, _ body: @escaping @Sendable () -> Void) {
        _ = load.update { load -> [Item] in
            guard !load.hasEnded else { return [] }
            let settled = load.takeSettled()
            load.lastTicket += 1
            load.items.append(Item(ticket: load.lastTicket, group: group, body: body))
            return settled
        }
    }

    /// The life of a thread that handles faults.
    func work() {
        while let ticket = workOnNext() { load.update { $0.running[ticket] = nil } }
    }

    /// Does the next piece of work, and returns its ticket. By then it is let go of: after a flush no thread is the last to
    /// know a device or a context.
    private func workOnNext() -> UInt64? {
        guard let item = nextItem() else { return nil }
        LockChecker.holding(.faultHandling, instance: item.work.device, mode: .shared) { item.body() }
        return item.ticket
    }

    private func nextItem() -> Item? {
        load.wait { load -> Item?? in
            guard !load.items.isEmpty else { return load.hasEnded ? .some(nil) : nil }
            let item = load.items.removeFirst()
            load.running[item.ticket] = item.work
            return item
        }
    }

    /// - Parameter attachment: the one whose faults are waited for; `nil` for all of the device.
    func flush(
        _ device: any FaultingDevice, of attachment: UInt64? = nil, until deadline: MonotonicInstant?,
        file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) -> Bool {
        guard let faults = device.faultState.current, faults.queue === self else { throw .noDevice }
        let id = ObjectIdentifier(device)
        LockChecker.passes(through: .faultHandling, instance: id, file: file, line: line)
        let ticket = load.withLock { $0.lastTicket }
        guard let deadline else {
            load.wait { $0.hasWork(of: id, attachment, upTo: ticket) ? nil : () }
            return true
        }
        return load.wait(until: deadline) { $0.hasWork(of: id, attachment, upTo: ticket) ? nil : () } != nil
    }

    // Deadlines

    func watch(_ group: FaultGroup) {
        // Only a thread that has nothing to wait for has to be woken: the others are due earlier.
        let isFirst = deadlines.withLock { deadlines in
            defer { deadlines.groups[group.number] = group }
            return deadlines.groups.isEmpty
        }
        if isFirst { deadlines.update { _ in } }
        // It may have been answered before it was noted.
        if !group.isPending { unwatch(group) }
    }

    func unwatch(_ group: FaultGroup) {
        deadlines.withLock { $0.groups[group.number] = nil }
    }

    /// The life of the thread that looks at deadlines.
    func watch() {
        while let deadline = nextDeadline() {
            let hasEnded: Void? = deadlines.wait(until: deadline) { $0.hasEnded ? () : nil }
            if hasEnded != nil { return }
            let now = MonotonicInstant.now
            let late = deadlines.withLock { $0.groups.values.filter { $0.deadline <= now } }
            for group in late.sorted(by: { $0.number < $1.number }) { group.respond(.invalid) }
        }
    }

    private func nextDeadline() -> MonotonicInstant? {
        deadlines.wait { deadlines -> MonotonicInstant?? in
            if deadlines.hasEnded { return .some(nil) }
            return deadlines.first.map(\.deadline)
        }
    }
}
