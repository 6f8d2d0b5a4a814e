import LinuxHost
import PCI
import Synchronization

/// What lies between a driver and a device: the registers of the transport, and the work that they make for the worker.
///
/// The connection's thread only notes what the driver writes, under the lock, and wakes the worker; it never touches guest
/// memory. The lock is held for moments; the function's is taken inside it.
final class VirtioTransport: Sendable {
    let port: PCIPort
    let state: Monitor<VirtioState>
    private let report: @Sendable (VirtioFailure) -> Void
    /// A copy of what the state says, for the look at every batch.
    private let epoch = Atomic<Int>(0)
    /// How long a reset of the function waits for the device.
    private static let patience = Duration.seconds(2)

    init(_ description: VirtioDescription, _ port: PCIPort, report: @escaping @Sendable (VirtioFailure) -> Void) {
        self.port = port
        self.report = report
        state = Monitor(VirtioState(description))
    }

    /// Runs `body` on the state and wakes the worker if there is something for it to do.
    func update<Result>(_ body: (inout VirtioState) -> Result) -> Result {
        let (result, wakes) = state.withLock { state in
            let result = body(&state)
            epoch.store(state.work.epoch, ordering: .releasing)
            let wakes = state.work.isWaiting && state.hasTask(isBusMaster: port.isBusMaster)
            if wakes { state.work.isWaiting = false }
            return (result, wakes)
        }
        if wakes { state.update { _ in } }
        return result
    }

    func isCurrent(_ epoch: Int) -> Bool { self.epoch.load(ordering: .acquiring) == epoch }
}

/// For the connection's thread.
extension VirtioTransport {
    func readInterruptStatus() -> UInt64 {
        update { state in
            let status = state.takeInterruptStatus()
            port.setInterruptLine(asserted: false)
            return UInt64(status)
        }
    }

    func writeCommon(_ value: UInt64, at offset: Int, byteCount: Int) {
        update { state in
            let epoch = state.work.epoch
            state.writeCommon(value, at: offset, byteCount: byteCount, port.memory)
            if state.work.epoch != epoch { port.setInterruptLine(asserted: false) }
        }
    }

    /// Back to power-on. Waits for the device to have reset itself, but not forever: it starts nothing before it has.
    func reset() {
        update { state in
            state.resetByFunction()
            port.setInterruptLine(asserted: false)
        }
        let end = MonotonicInstant.after(Self.patience)
        if state.wait(until: end, { $0.isResetting ? nil : () }) == nil { report(.slowReset) }
    }
}

/// For the device and its queues.
extension VirtioTransport {
    func schedule(_ queue: Int) {
        update { state in
            guard state.queues.indices.contains(queue), state.isLive else { return }
            state.work.kicked |= 1 << UInt64(queue)
        }
    }

    func configurationDidChange() {
        update { state in
            state.work.configurationGeneration &+= 1
            if state.registers.status.contains(.driverOK) { tellOfConfiguration(&state) }
        }
    }

    /// - Parameter epoch: what the failure belongs to; `nil` for what there is.
    func fail(_ failure: VirtioFailure, _ epoch: Int? = nil) {
        let isNews = update { state in
            guard epoch == nil || epoch == state.work.epoch, state.needReset() else { return false }
            tellOfConfiguration(&state)
            return true
        }
        if isNews { report(failure) }
    }

    /// The device's work on a queue has ended with an error.
    ///
    /// Memory that is out of reach because the function has been reset, or may not access any, is no fault of the driver's:
    /// its reset may be on its way here. If none is, the broken queue is told of when the function may access memory again.
    func fail(_ queue: Int, _ error: VirtqueueError, _ memory: GuestMemory, _ epoch: Int) {
        guard case .memory = error else {
            fail(.queue(number: queue, error), epoch)
            return
        }
        guard port.memory === memory else { return }
        if port.isBusMaster {
            fail(.queue(number: queue, error), epoch)
        } else {
            update { if $0.work.epoch == epoch { $0.work.kicked |= 1 << UInt64(queue) } }
        }
    }

    func interrupt(queue number: Int, _ epoch: Int) {
        update { state in
            guard epoch == state.work.epoch, state.registers.status.contains(.driverOK) else { return }
            if port.usesMessages {
                if state.queues[number].vector != VirtioState.noVector { port.notify(Int(state.queues[number].vector)) }
            } else {
                state.raise(.queue)
                port.setInterruptLine(asserted: true)
            }
        }
    }

    private func tellOfConfiguration(_ state: inout VirtioState) {
        state.raise(.configuration)
        if port.usesMessages {
            let vector = state.registers.configurationVector
            if vector != VirtioState.noVector { port.notify(Int(vector)) }
        } else {
            port.setInterruptLine(asserted: true)
        }
    }
}
