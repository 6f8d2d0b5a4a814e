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
    let options: NVMeController.Options
    let state: Monitor<ControllerState>
    /// Counts the times that the workers have come to rest after a stop, for who waits for it; taken before `state`.
    let rest = Monitor(0)
    /// One for each worker, set to wake it.
    private let alarms: [Monitor<Bool>]

    init(port: PCIPort, store: any BlockStore, options: NVMeController.Options) {
        self.port = port
        self.store = store
        self.options = options
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
        state.withLock { $0.activity.isEnding = true }
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
                if state.activity.isEnding { return .stop }
                if let work = state.nextWork(isBusMaster: port.isBusMaster) {
                    return .work(work, port.memory, stops: state.activity.stops)
                }
                state.activity.idleWorkers.append(number)
                return .sleep(isAtRest: state.activity.isStopped && state.activity.executing == 0)
            }
            switch next {
            case .stop: return
            case .work(let work, let memory, let stops):
                hadWork = true
                perform(work, memory.map { CommandMemory(store: store, guest: $0) }, stops)
            case .sleep(let isAtRest):
                hadWork = false
                if isAtRest { rest.update { $0 += 1 } }
                alarms[number].wait { isSet in
                    defer { isSet = false }
                    return isSet ? () : nil
                }
            }
        }
    }

    private enum Next {
        case stop
        case sleep(isAtRest: Bool)
        case work(Work, GuestMemory?, stops: Int)
    }

    /// - Parameter stops: how often the controller had been told to stand still when the work was handed out.
    private func perform(_ work: Work, _ memory: CommandMemory?, _ stops: Int) {
        switch work {
        case .fetch(let token, let address):
            guard let memory, let entry = memory.readEntry(at: address) else {
                update { $0.didNotRead(token, stops: stops) }
                return
            }
            update { $0.didRead(token) }
            execute(entry, token, memory, stops)
        case .finish(.command(let entry, let token)):
            guard let memory else {
                update { $0.didFail(token, wasParked: false) }
                return
            }
            execute(entry, token, memory, stops)
        case .finish(.posting(let posting, let token)): write(posting, token, memory, stops)
        case .complete(let completion): complete(completion, memory, stops)
        case .shutDown(let generation): shutDown(generation)
        case .flushForStop: flushForStop(stops)
        }
    }

    private func execute(_ entry: SubmissionEntry, _ token: CommandToken, _ memory: CommandMemory, _ stops: Int) {
        switch Execution(engine: self, token: token, entry: entry, memory: memory, stops: stops).run() {
        case .ended(let status, let result):
            let completion = Completion(commandID: entry.commandID, status: status, result: result, token: token)
            complete(completion, memory, stops)
        case .parked: update { $0.didEnd(token) }
        case .interrupted: update { $0.keep(.command(entry, token)) }
        }
    }

    /// Tells the host. A queue whose memory cannot be reached leaves the controller no way but its status register.
    private func complete(_ completion: Completion, _ memory: CommandMemory?, _ stops: Int) {
        switch update({ $0.post(completion) }) {
        case .write(let posting): write(posting, completion.token, memory, stops)
        case .isDue: break
        case .nowhere: if !completion.wasParked { update { $0.didEnd(completion.token) } }
        }
    }

    private func write(_ posting: Posting, _ token: CommandToken, _ memory: CommandMemory?, _ stops: Int) {
        guard let memory, memory.write(posting.entry, at: posting.address) else {
            update { state in
                if state.wasStopped(since: stops) {
                    state.keep(.posting(posting, token))
                } else {
                    state.didFail(token, wasParked: posting.wasParked)
                }
            }
            return
        }
        let mayInterrupt = update { $0.didPost(posting, token) }
        if mayInterrupt, let vector = posting.vector { port.notify(vector) }
        if !posting.wasParked { update { $0.didEnd(token) } }
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
