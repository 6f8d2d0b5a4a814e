import BlockStorage
import LinuxHost
import PCI

/// What the connection's thread and the workers share.
///
/// The connection's thread only notes what the host writes to registers, under the lock, and wakes a worker; it never
/// touches guest memory or the store. A worker takes one command off a queue, puts the queue back in line for the next
/// worker, and sees its own command to its end, so that commands overlap and a lone one costs one wake-up.
///
/// The lock is held for moments only, never over guest memory, the store, or an interrupt message; the function's lock may
/// be taken inside it.
final class NVMeEngine: Sendable {
    let port: PCIPort
    let store: any BlockStore
    let identity: ControllerIdentity
    private let state: Monitor<ControllerState>
    /// One for each worker, set to wake it.
    private let alarms: [Monitor<Bool>]

    init(port: PCIPort, store: any BlockStore, options: NVMeController.Options) {
        self.port = port
        self.store = store
        identity = ControllerIdentity(options, store: store)
        state = Monitor(ControllerState(identity))
        alarms = (0..<identity.workerCount).map { _ in Monitor(false) }
    }

    /// Runs `body` on the state, brings the interrupt line in step with it, and wakes a worker if there is work for one.
    func update<Result>(_ body: (inout ControllerState) -> Result) -> Result {
        let (result, worker) = state.withLock { state in
            let result = body(&state)
            let isLineAsserted = state.isLineAsserted
            if isLineAsserted != state.activity.isLineShown {
                state.activity.isLineShown = isLineAsserted
                port.setInterruptLine(asserted: isLineAsserted)
            }
            let worker = state.hasWork(isBusMaster: port.isBusMaster) ? state.activity.idleWorkers.popLast() : nil
            return (result, worker)
        }
        if let worker { alarms[worker].update { $0 = true } }
        return result
    }

    /// As `update`, for work of a generation that may be over, and for what may be refused.
    func update<Result>(
        for token: CommandToken, _ body: (inout ControllerState) throws(Status) -> Result
    ) throws(Status) -> Result {
        let result: Swift.Result<Result, Status> = update { state in
            guard state.isCurrent(token.generation) else { return .failure(.abortRequested) }
            do throws(Status) {
                return .success(try body(&state))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}

/// For the connection's thread.
extension NVMeEngine {
    func readRegister(at offset: UInt64, byteCount: Int) -> UInt64 {
        guard offset < Doorbell.firstOffset else { return 0 }
        return state.withLock { $0.readRegister(at: Int(offset), byteCount: byteCount) }
    }

    func writeRegister(_ value: UInt64, at offset: UInt64, byteCount: Int) {
        if let doorbell = Doorbell(at: offset) {
            // Doorbells are 32 bits wide, and other accesses to them are undefined.
            guard byteCount == Doorbell.byteCount else { return }
            update { $0.ring(doorbell, UInt32(truncatingIfNeeded: value)) }
            return
        }
        guard offset < Doorbell.firstOffset else { return }
        let unmasked = update { state in
            let before = state.operation.maskedVectors
            state.writeRegister(value, at: Int(offset), byteCount: byteCount)
            return state.waitingVectors(in: before & ~state.operation.maskedVectors)
        }
        for vector in unmasked { port.notify(vector) }
    }

    /// Back to power-on. Commands that are executing end without a completion, and the guest memory that they have has
    /// ended, so nobody waits for them.
    func reset() {
        update { $0.reset() }
    }

    var isExecuting: Bool { state.withLock { $0.activity.executing > 0 } }

    /// Lets every worker end what it does and then return from `run`.
    func stop() {
        state.withLock { $0.activity.isStopping = true }
        for alarm in alarms { alarm.update { $0 = true } }
    }
}

/// For workers.
extension NVMeEngine {
    func isCurrent(_ generation: Int) -> Bool { state.withLock { $0.isCurrent(generation) } }

    /// The loop of worker `number`.
    func run(worker number: Int) {
        var hadWork = false
        while true {
            let next = update { state -> Next in
                if hadWork { state.didEndWork() }
                if state.activity.isStopping { return .stop }
                if let work = state.nextWork(isBusMaster: port.isBusMaster) { return .work(work, port.memory) }
                state.activity.idleWorkers.append(number)
                return .sleep
            }
            switch next {
            case .stop: return
            case .work(let work, let memory):
                hadWork = true
                perform(work, memory.map { CommandMemory(store: store, guest: $0) })
            case .sleep:
                hadWork = false
                alarms[number].wait { isSet in
                    defer { isSet = false }
                    return isSet ? () : nil
                }
            }
        }
    }

    private enum Next {
        case stop, sleep
        case work(Work, GuestMemory?)
    }

    private func perform(_ work: Work, _ memory: CommandMemory?) {
        switch work {
        case .fetch(let token, let address):
            guard let memory, let entry = memory.readEntry(at: address) else {
                update { state in
                    if state.isCurrent(token.generation) { state.fail() }
                    state.didEnd(token)
                }
                return
            }
            update { $0.didRead(token) }
            let outcome = Execution(engine: self, token: token, entry: entry, memory: memory).run()
            if case .ended(let status, let result) = outcome {
                let completion = Completion(commandID: entry.commandID, status: status, result: result, token: token)
                complete(completion, memory)
            }
            update { $0.didEnd(token) }
        case .complete(let completion): complete(completion, memory)
        case .shutDown(let generation): shutDown(generation)
        }
    }

    /// Tells the host. A queue whose memory cannot be reached leaves the controller no way but its status register.
    private func complete(_ completion: Completion, _ memory: CommandMemory?) {
        guard let posting = update({ $0.post(completion) }) else { return }
        guard let memory, memory.write(posting.entry, at: posting.address) else {
            update { if $0.isCurrent(completion.token.generation) { $0.fail() } }
            return
        }
        let mayInterrupt = update { $0.didPost(posting, completion.token) }
        if mayInterrupt, let vector = posting.vector { port.notify(vector) }
    }

    private func shutDown(_ generation: Int) {
        do throws(BlockStoreError) {
            try store.flush()
        } catch {
            // The host cannot be told in any other way, and it is about to go.
            update { $0.history.log(.admin, nil, .writeFault, block: 0, .first) }
        }
        update { state in
            if state.isCurrent(generation), state.operation.shutdown == .underWay {
                state.operation.shutdown = .complete
            }
        }
    }
}
