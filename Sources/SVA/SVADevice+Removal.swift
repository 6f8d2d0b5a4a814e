public import DMA
import LinuxHost

/// The beginning and the end of a device's work, step by step.
///
/// The steps come in an order that leaves nobody behind: first nothing new comes, then what is under way is answered, then
/// what it used goes. Steps 1 to 6 are a reset, and all eight a removal. None can fail.
extension SVADevice {
    public enum Manner: Hashable, Sendable {
        /// Whoever handles faults gets time to finish.
        case orderly
        /// The other side is gone: nobody is waited for that may have to do with it.
        case surprise
    }

    /// Lets accesses reach memory and ask for pages: at first, and after each reset. Nothing happens while it runs.
    ///
    /// - Throws: `ENODEV` after its removal; `EBUSY` while it is reset or removed; `EINVAL` when its fault queue was stopped.
    public func start() throws(DMAError) {
        try pasids.bindings.update { (_) throws(DMAError) in
            switch life {
            case .removed: throw .noDevice
            case .stopping: throw .busy
            case .running: return
            case .idle: break
            }
            if let faultQueue {
                try faultQueue.add(self)
                pageRequests.enable()
            }
            trace(.started)
            setLife(.running)
        }
    }

    /// Ends all work and keeps the attachments: steps 1 to 6. `start` goes on.
    ///
    /// Nothing happens after a removal.
    ///
    /// - Parameters:
    ///   - stopWork: has the model refuse new work. Step 1
    ///   - finishWork: returns when the model's work has ended, its pins are released and each piece of it has completed
    ///     once. Accesses fail from step 1 on, and those that wait for pages are answered before step 5.
    public func reset(stopWork: () -> Void = {}, finishWork: () -> Void = {}) {
        guard beginStopping() else { return }
        quiesce(.orderly, stopWork, finishWork)
        pasids.bindings.update { _ in setLife(.idle) }
    }

    /// Ends all work and all attachments, whoever made them, for good: steps 1 to 8.
    ///
    /// Waits for as long as the model keeps pins. From the second time on nothing happens.
    ///
    /// - Parameters: as of `reset`.
    public func remove(_ manner: Manner = .orderly, stopWork: () -> Void = {}, finishWork: () -> Void = {}) {
        guard beginStopping() else { return }
        quiesce(manner, stopWork, finishWork)
        pasids.unbindAll(of: self)
        for slot in table.slots { detachForGood(slot) }
        for slot in table.slots { slot.access.destroy() }
        trace(.removed)
        pasids.bindings.update { _ in setLife(.removed) }
    }

    /// Keeps new bindings and attachments away, once a reset or removal under way is over. `false` when it is removed.
    private func beginStopping() -> Bool {
        pasids.bindings.wait { bindings in
            switch life {
            case .stopping: return nil
            case .removed: return false
            case .idle, .running:
                guard !bindings.isChanging(self) else { return nil }
                setLife(.stopping)
                return true
            }
        }
    }

    /// Steps 1 to 6.
    private func quiesce(_ manner: Manner, _ stopWork: () -> Void, _ finishWork: () -> Void) {
        stopWork()
        trace(.workStopped)
        pageRequests.stop()
        sendStopMarker()
        trace(.requestsStopped)
        flushFaults(within: manner == .orderly ? configuration.flushTime : .zero)
        faultQueue?.remove(self)
        trace(.leftQueue)
        pageRequests.waitUntilQuiet()
        finishWork()
        trace(.workFinished)
        pageRequests.disable()
        cache.invalidateAll()
        trace(.requestsDisabled)
    }

    /// Says that no request is on its way any more. The queue drops it.
    private func sendStopMarker() {
        guard let index = PageRequestGroupIndex(rawValue: 0) else { return }
        let marker = PageRequest(pasid: nil, address: IOVA(0), rights: [], group: index, isLast: true)
        do throws(DMAError) {
            try FaultQueue.report(marker, from: self)
        } catch {
            preconditionFailure("a stop marker is dropped: \(error)")
        }
    }

    /// Detaches what the device's owner has attached, for as long as there are pins.
    private func detachForGood(_ slot: PASIDSlot) {
        while !slot.isEmptyWhenSettled() {
            do throws(DMAError) {
                try detach(slot, by: .device)
            } catch {
                // Pins are left, or another thread has begun to detach.
                continue
            }
        }
    }
}
