public import DMA
public import LinuxHost

/// Where page requests of several devices are handled: on threads of its own, and within a time.
///
///     device ── report ──▶ partial ── the last of its group ──▶ group ──▶ handler ──▶ thread ── respond ──▶ device
///
/// A device reports its requests on its own threads. A group goes to the handler of the attachment that it is about, which
/// may have a thread of the queue handle it, or answers by itself later. Whatever happens, the device gets one answer for
/// each last request: from the handler, `invalid` when the time is over, the attachment or the device goes, `failure` when
/// the handler refuses.
///
/// Whatever a handler waits for, one thread waits with it: who takes longer than others answers by itself, as a channel does.
/// Whoever makes it keeps it for as long as its devices run; it stops when the last reference goes. Devices do not keep it,
/// because its threads keep devices; nor may a pager, which they keep as well. Threads: every method on any thread, but
/// `flush`, `stop` and the last reference on none of its own.
/// Counterpart of `struct iopf_queue`.
public final class FaultQueue: Sendable {
    public struct Configuration: Sendable {
        /// The threads that handle faults, at least one.
        public var threadCount = 2
        /// How long whoever took a group may keep the device waiting.
        public var responseTime: Duration = .seconds(10)

        public init() {}
    }

    let core: FaultQueueCore
    private let threads: Monitor<[OSThread]>

    /// A queue whose threads run.
    ///
    /// - Precondition: there is at least one thread.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public init(_ configuration: Configuration = Configuration()) throws(Errno) {
        precondition(configuration.threadCount > 0, "a fault queue has threads")
        let core = FaultQueueCore(responseTime: configuration.responseTime)
        self.core = core
        var threads: [OSThread] = []
        do throws(Errno) {
            for number in 0..<configuration.threadCount {
                threads.append(try OSThread(name: "fault \(number)") { core.work() })
            }
            threads.append(try OSThread(name: "fault deadline") { core.watch() })
        } catch {
            core.end()
            for thread in threads { thread.join() }
            throw error
        }
        self.threads = Monitor(threads, as: .faultThreads)
    }

    deinit { stop() }

    /// Takes a device in: from now on its page requests are handled.
    ///
    /// - Throws: `ENODEV` for a device that cannot be answered; `EBUSY` when it was added to a queue already; `EINVAL` when
    ///   this one was stopped.
    public func add(_ device: any FaultingDevice) throws(DMAError) { try core.add(device) }

    /// Lets a device go: what is pending of it is answered `invalid` once, and what comes later is refused.
    ///
    /// Never fails and never waits for a handler. Whoever still has a group of it may answer, which does nothing.
    ///
    /// - Returns: whether it was here.
    @discardableResult
    public func remove(_ device: any FaultingDevice) -> Bool { core.remove(device) }

    /// Waits until threads of the queue have done what was enqueued for a device before the call.
    ///
    /// Only for that device: what the queue does for others may take longer, and is no concern of this one's pages.
    ///
    /// - Parameter deadline: when to give up; `nil` for never.
    /// - Returns: whether it was done before the deadline.
    /// - Throws: `ENODEV` for a device that was not added to this queue.
    @discardableResult
    public func flush(
        _ device: any FaultingDevice, until deadline: MonotonicInstant? = nil, file: StaticString = #fileID,
        line: UInt32 = #line
    ) throws(DMAError) -> Bool {
        try core.flush(device, until: deadline, file: file, line: line)
    }

    /// Forgets the requests of all devices whose group is not complete, as after an overflow of what carries them. Nobody is
    /// answered, because only complete groups are.
    public func discardPartial() {
        for faults in core.listed { faults.discardPartial() }
    }

    /// Lets all devices go, and ends the threads once they have done what they have. From the second time on nothing
    /// happens.
    public func stop() {
        for faults in core.close() { core.remove(faults.device) }
        core.end()
        let threads = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in threads { thread.join() }
    }
}

extension FaultQueue {
    /// Reports a device's page request to the queue that it was added to.
    ///
    /// A request that is not its group's last is kept and never answered by itself. For a last one the device is answered
    /// once, now or later, whether this throws or not. A stop marker is dropped.
    ///
    /// - Throws: `EINVAL` when the device was not added to a queue, or nobody takes faults of the PASID; `ENOSPC` when the
    ///   device has more requests outstanding than it may, and incomplete groups of it are lost.
    public static func report(_ request: PageRequest, from device: any FaultingDevice) throws(DMAError) {
        if request.isStopMarker { return }
        guard let faults = device.faultState.current else { throw refuse(request, of: device, .invalid) }
        guard request.isLast else {
            switch faults.keep(request) {
            case nil: return
            case .closed: throw .invalid
            case .overflow: throw .noSpace
            }
        }
        guard let route = device.faultRoute(for: request.pasid) else {
            faults.discardPartial(of: request.group)
            throw refuse(request, of: device, .invalid)
        }
        switch faults.complete(request, on: route.attachment) {
        case .success(let group):
            faults.queue.watch(group)
            // An attachment that goes answers its groups after it has closed its route: it has seen this one, or is seen.
            guard isRouted(request.pasid, of: device, to: route.attachment) else {
                group.respond(.invalid)
                throw .invalid
            }
            LockChecker.callsBack()
            if !route.handler.take(group) { group.respond(.failure) }
        case .failure(.closed):
            throw refuse(request, of: device, .invalid)
        case .failure(.overflow):
            throw refuse(request, of: device, .noSpace)
        }
    }

    /// Whether faults of the PASID go to this attachment, or did while it had none of its own.
    private static func isRouted(_ pasid: PASID?, of device: any FaultingDevice, to attachment: UInt64) -> Bool {
        if device.faultRoute(for: pasid)?.attachment == attachment { return true }
        return pasid != nil && device.faultRoute(for: nil)?.attachment == attachment
    }

    private static func refuse(
        _ request: PageRequest, of device: any FaultingDevice, _ error: DMAError
    ) -> DMAError {
        if request.isLast { device.respond(device.response(to: request, .invalid)) }
        return error
    }
}
