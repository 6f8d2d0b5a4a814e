import DMA
import LinuxHost
import PCI
import SVA

/// What the connection's thread, the control thread and the workers share.
///
/// The connection's thread notes what the driver writes to registers, and wakes the others; it waits for nothing. The control
/// thread makes and ends sessions, carries out commands and puts page requests into their ring, so that none of that waits for
/// work. A worker takes a piece of work off the ring and sees it to its end, waiting for pages where it must.
///
/// The lock is held for moments only, never over memory, an access or a session's beginning or end; the function's lock may
/// be taken inside it.
final class Engine: Sendable {
    private let port: PCIPort
    private let options: CopyEngine.Options
    private let faultQueue: FaultQueue
    private let state: Monitor<EngineState>

    init(port: PCIPort, _ options: CopyEngine.Options, _ faultQueue: FaultQueue) {
        self.port = port
        self.options = options
        self.faultQueue = faultQueue
        state = Monitor(EngineState(CopyEngine.registers(options)))
    }
}

/// For the connection's thread.
extension Engine {
    func readRegister(at offset: UInt64, byteCount: Int) -> UInt64 {
        guard let offset = Int(exactly: offset) else { return 0 }
        return state.withLock { $0.readRegister(at: offset, byteCount: byteCount) }
    }

    func writeRegister(_ value: UInt64, at offset: UInt64, byteCount: Int) {
        guard let offset = Int(exactly: offset) else { return }
        state.update { state in
            if state.writeRegister(value, at: offset, byteCount: byteCount) { port.notify(InterruptVector.errors) }
        }
    }

    /// Back to power-on. The memory that work under way has is over, so nobody waits for it.
    func reset() { state.update { $0.reset() } }

    /// Whether memory may be being read. Work that waits for pages waits for no answer of the bus's, and whoever resets the
    /// function does not have to let it end first.
    var hasPendingTransactions: Bool {
        let (session, workers) = state.withLock { ($0.session, $0.workers) }
        let waiting = session?.device.pageRequests.outstandingGroupCount ?? 0
        return workers.isFetching || workers.executing > waiting
    }

    /// Has all threads end what they do and return.
    func stop() { state.update { $0.isEnding = true } }
}

/// For the control thread.
extension Engine {
    func runControl() {
        while true {
            switch state.wait({ $0.nextControlStep() }) {
            case .begin(let epoch, let hasPageRequests, let statistics): begin(epoch, hasPageRequests, statistics)
            case .command(let session, let address): takeCommand(session, at: address)
            case .deliver(let session, let ring): deliver(session, ring)
            case .refuseAll(let session): session.channel?.close()
            case .end(let session, let manner): end(session, manner)
            case .exit: return
            }
        }
    }

    private func begin(_ epoch: Int, _ hasPageRequests: Bool, _ statistics: WaitStatistics) {
        // The channel keeps the state and not the engine: a thread of the fault queue may be the last to know it, and cannot
        // end the queue.
        let channel = hasPageRequests ? FaultChannel { [state] in state.update { $0.hasPageRequests = true } } : nil
        guard let memory = port.memory else {
            // The client is gone, and with it whoever has enabled the device. By now there may be another.
            state.update { if $0.epoch == epoch { $0.reset() } }
            return
        }
        let session = EngineSession(epoch: epoch, memory, options, faultQueue, statistics, channel: channel)
        state.update { $0.setSession(session) }
    }

    private func end(_ session: EngineSession, _ manner: SVADevice.Manner) {
        session.end(manner) {
            let fenced = state.wait { state -> Descriptor?? in
                guard state.workers.isIdle else { return nil }
                defer { state.workers.fenced = nil }
                return .some(state.workers.fenced)
            }
            if let fenced { complete(fenced, .aborted, 0, InterruptVector.work, session) }
        }
        state.update { $0.setSession(nil) }
    }

    private func takeCommand(_ session: EngineSession, at address: IOVA) {
        guard let descriptor = session.memory.readDescriptor(at: address) else {
            return report(.commandRingError, of: session)
        }
        let isTaken = state.update { state in
            guard state.isCurrent(session) else { return false }
            state.rings?.command.advanceHead()
            return true
        }
        guard isTaken else { return }
        do throws(EngineFailure) {
            let bytes = try session.perform(try Command(descriptor))
            complete(descriptor, nil, bytes, InterruptVector.commands, session)
        } catch {
            complete(descriptor, error, 0, InterruptVector.commands, session)
        }
    }

    private func deliver(_ session: EngineSession, _ ring: Ring) {
        guard let channel = session.channel else { return }
        var ring = ring
        var hasFailed = false
        let count = try? channel.receive(maximumRequests: ring.room) { message in
            for request in message.group.requests {
                let entry = PageRequestEntry(cookie: message.cookie, request: request)
                guard session.memory.write(entry, at: ring.address(of: ring.tail)) else {
                    hasFailed = true
                    return false
                }
                ring.advanceTail()
            }
            return true
        }
        let tail = ring.tail
        state.update { state in
            guard state.isCurrent(session) else { return }
            if !hasFailed { _ = state.rings?.pageRequest?.setTail(UInt64(tail)) }
            // There was no room for more, or some have come meanwhile.
            if channel.isReadable { state.hasPageRequests = true }
            if let count, count > 0 { port.notify(InterruptVector.pageRequests) }
        }
        if hasFailed { report(.pageRequestRingError, of: session) }
    }
}

/// For workers.
extension Engine {
    func runWorker() {
        var buffer = [UInt8](repeating: 0, count: CopyEngine.pieceByteCount)
        while true {
            switch state.wait({ $0.nextWorkStep() }) {
            case .exit: return
            case .fetch(let session, let address):
                if let descriptor = fetch(session, at: address) { execute(descriptor, session, &buffer) }
            case .execute(let session, let descriptor): execute(descriptor, session, &buffer)
            }
        }
    }

    /// What the worker has to execute now, if anything.
    private func fetch(_ session: EngineSession, at address: IOVA) -> Descriptor? {
        if let descriptor = session.memory.readDescriptor(at: address) {
            return state.update { $0.didFetch(descriptor, for: session) } ? descriptor : nil
        }
        report(.workRingError, of: session)
        state.update { $0.workers.isFetching = false }
        return nil
    }

    private func execute(_ descriptor: Descriptor, _ session: EngineSession, _ buffer: inout [UInt8]) {
        var done: UInt64 = 0
        do throws(EngineFailure) {
            try session.perform(try Work(descriptor), &buffer, &done)
            complete(descriptor, nil, done, InterruptVector.work, session)
        } catch {
            complete(descriptor, error, done, InterruptVector.work, session)
        }
        state.update { $0.workers.executing -= 1 }
    }
}

extension Engine {
    /// Tells the driver, in the ways it wants, that a descriptor is done with.
    private func complete(
        _ descriptor: Descriptor, _ failure: EngineFailure?, _ bytes: UInt64, _ vector: Int, _ session: EngineSession
    ) {
        if descriptor.flags.contains(.writesCompletion) {
            let record = CompletionRecord(tag: descriptor.tag, bytes: bytes, failure: failure)
            if !session.memory.write(record, at: descriptor.completionAddress) {
                report(.completionLost, of: session)
            }
        }
        if descriptor.flags.contains(.interrupts) {
            state.withLock { if $0.isHeard(session) { port.notify(vector) } }
        }
    }

    private func report(_ error: EngineStatus, of session: EngineSession) {
        state.update { if $0.note(error, of: session) { port.notify(InterruptVector.errors) } }
    }
}

/// The interrupt vectors.
enum InterruptVector {
    static let commands = 0
    static let work = 1
    static let pageRequests = 2
    static let errors = 3
    static let count = 4
}
