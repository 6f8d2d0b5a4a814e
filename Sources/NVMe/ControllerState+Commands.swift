import DMA
import PCI

/// A command that a worker has, from the moment its completion slot is reserved.
struct CommandToken {
    var generation: Int
    let submissionQueue: QueueID
    let completionQueue: QueueID
}

/// How a command ended, for the host to read.
struct Completion {
    let commandID: CommandID
    let status: Status
    let result: UInt32
    var token: CommandToken
    /// Whether the command was parked, so that its queue does not count it as executing any more.
    var wasParked = false
}

/// Something for one worker to do.
enum Work {
    /// Read the entry at an address, execute it, and complete it.
    case fetch(CommandToken, from: IOVA)
    /// Complete a command that was parked, or executed already.
    case complete(Completion)
    /// Take up what a stop has interrupted.
    case finish(Unfinished)
    /// Make everything durable, because the power may go.
    case shutDown(generation: Int)
    /// Make everything durable, because another process may open the store.
    case flushForStop
}

/// What a stop has interrupted: a fetched command that the host has not been told the end of.
enum Unfinished {
    /// A command that has to be executed, perhaps once more: the host has seen nothing of it but changes of its own buffers.
    case command(SubmissionEntry, CommandToken)
    /// A command whose completion has its slot and has to be written there, perhaps once more.
    case posting(Posting, CommandToken)

    var token: CommandToken {
        switch self {
        case .command(_, let token), .posting(_, let token): token
        }
    }

    var wasParked: Bool {
        switch self {
        case .command: false
        case .posting(let posting, _): posting.wasParked
        }
    }
}

/// What becomes of a completion.
enum CompletionStep {
    case write(Posting)
    /// The controller stands still: it is due when it goes on.
    case isDue
    /// Nowhere: a reset has orphaned the command, or the controller has failed.
    case nowhere
}

/// What is to be written into a completion queue, and the vector to raise then.
struct Posting {
    let entry: CompletionEntry
    let address: IOVA
    let vector: Int?
    var wasParked = false
}

/// Doorbells.
extension ControllerState {
    mutating func ring(_ doorbell: Doorbell, _ value: UInt32) {
        // Before the controller is ready there are no doorbells; a failed one hears none.
        guard lifecycle == .ready else { return }
        switch doorbell {
        case .submissionTail(let id):
            guard let index = index(ofSubmissionQueue: id) else { return report(.invalidDoorbellRegister, id) }
            guard operation.submissionQueues[index]?.setTail(value) == true else {
                return report(.invalidDoorbellValue, id)
            }
            queueUp(index)
        case .completionHead(let id):
            guard let index = index(ofCompletionQueue: id) else { return report(.invalidDoorbellRegister, id) }
            guard operation.completionQueues[index]?.setHead(value) == true else {
                return report(.invalidDoorbellValue, id)
            }
            queueUpThose(thatWaitFor: id)
            if id == .admin { deliverEvents() }
        }
    }

    private mutating func report(_ event: AsynchronousEvent, _ queue: QueueID) {
        history.log(queue, nil, .invalidField, block: 0, .none)
        operation.events.raise(event)
        deliverEvents()
    }

    /// Puts a submission queue in line if it has a command that nobody is fetching.
    mutating func queueUp(_ index: Int) {
        guard var queue = operation.submissionQueues[index] else { return }
        guard queue.hasCommands, !queue.isBeingRead, !queue.isInLine, queue.deletion == nil else { return }
        queue.isInLine = true
        operation.submissionQueues[index] = queue
        operation.line.append(queue.id)
    }

    /// Puts the submission queues in line whose completion queue has slots again: they may have waited for one.
    private mutating func queueUpThose(thatWaitFor id: QueueID) {
        for (index, queue) in operation.submissionQueues.enumerated() where queue?.completionQueue == id {
            queueUp(index)
        }
    }

    func index(ofSubmissionQueue id: QueueID) -> Int? {
        let index = Int(id.rawValue)
        return operation.submissionQueues.indices.contains(index) && operation.submissionQueues[index] != nil
            ? index : nil
    }

    func index(ofCompletionQueue id: QueueID) -> Int? {
        let index = Int(id.rawValue)
        return operation.completionQueues.indices.contains(index) && operation.completionQueues[index] != nil
            ? index : nil
    }
}

/// Work.
extension ControllerState {
    /// Whether a worker that asks now may get something to do.
    func hasWork(isBusMaster: Bool) -> Bool {
        if activity.isStopped { return activity.stopFlush == .requested && activity.executing == 0 }
        let isServing = lifecycle == .ready && isBusMaster
        if isServing, nextUnfinished != nil { return true }
        if operation.shutdown == .requested { return activity.executing == 0 }
        guard isServing else { return false }
        return !operation.dueCompletions.isEmpty || operation.shutdown == .none && nextInLine != nil
    }

    /// The place of the interrupted work that is taken up next: the last free worker is for the admin queue alone here, too.
    private var nextUnfinished: Int? {
        if activity.executing < identity.ioWorkers { return operation.unfinished.indices.first }
        return operation.unfinished.firstIndex { $0.token.submissionQueue == .admin }
    }

    /// The place in the line of the queue that is served next: the last free worker serves the admin queue alone.
    private var nextInLine: Int? {
        if activity.executing < identity.ioWorkers { return operation.line.indices.first }
        return operation.line.firstIndex(of: .admin)
    }

    /// Hands out the next piece of work, if any; the worker reports its end with `didEndWork`.
    ///
    /// Nothing is fetched while the function may not touch guest memory, nor from the moment that the host has announced
    /// the end of power: what was fetched later might be written after the flush.
    mutating func nextWork(isBusMaster: Bool) -> Work? {
        guard hasWork(isBusMaster: isBusMaster) else { return nil }
        if activity.isStopped {
            activity.stopFlush = .underWay
            activity.executing += 1
            return .flushForStop
        }
        if lifecycle == .ready, isBusMaster, let place = nextUnfinished {
            activity.executing += 1
            return .finish(operation.unfinished.remove(at: place))
        }
        if operation.shutdown == .requested {
            operation.shutdown = .underWay
            activity.executing += 1
            return .shutDown(generation: generation)
        }
        if !operation.dueCompletions.isEmpty {
            activity.executing += 1
            return .complete(operation.dueCompletions.removeFirst())
        }
        while let place = nextInLine {
            let id = operation.line.remove(at: place)
            guard let index = index(ofSubmissionQueue: id), var queue = operation.submissionQueues[index] else {
                continue
            }
            queue.isInLine = false
            if queue.hasCommands, queue.deletion == nil, reserveSlot(queue.completionQueue) {
                queue.isBeingRead = true
                queue.executing += 1
                operation.submissionQueues[index] = queue
                activity.executing += 1
                let token = CommandToken(
                    generation: generation, submissionQueue: id, completionQueue: queue.completionQueue)
                return .fetch(token, from: queue.headAddress)
            }
            operation.submissionQueues[index] = queue
        }
        return nil
    }

    /// Takes note that a command could not be read: the controller fails, unless it was only stopped; then the command is
    /// read when it goes on.
    mutating func didNotRead(_ token: CommandToken, stops: Int) {
        guard wasStopped(since: stops) else { return didFail(token, wasParked: false) }
        guard isCurrent(token.generation), let index = index(ofSubmissionQueue: token.submissionQueue) else { return }
        operation.submissionQueues[index]?.isBeingRead = false
        if let index = self.index(ofCompletionQueue: token.completionQueue) {
            operation.completionQueues[index]?.release()
        }
        didEnd(token)
        queueUp(index)
    }

    /// Takes note that a command cannot be read, or its completion not be written.
    mutating func didFail(_ token: CommandToken, wasParked: Bool) {
        guard isCurrent(token.generation) else { return }
        fail()
        if !wasParked { didEnd(token) }
    }

    /// Whether the controller was told to stand still since a piece of work was handed out.
    func wasStopped(since stops: Int) -> Bool { activity.stops != stops }

    /// Keeps what a stop has interrupted. Its slot stays taken, and its queue counts it as executing.
    mutating func keep(_ work: Unfinished) {
        guard isCurrent(work.token.generation) else { return }
        guard lifecycle == .ready else { return didFail(work.token, wasParked: work.wasParked) }
        operation.unfinished.append(work)
    }

    /// Frees the slot of a command that has been read, and lets another worker read the next one.
    mutating func didRead(_ token: CommandToken) {
        guard isCurrent(token.generation), let index = index(ofSubmissionQueue: token.submissionQueue) else { return }
        operation.submissionQueues[index]?.isBeingRead = false
        operation.submissionQueues[index]?.advanceHead()
        queueUp(index)
    }

    mutating func reserveSlot(_ id: QueueID) -> Bool {
        guard let index = index(ofCompletionQueue: id) else { return false }
        return operation.completionQueues[index]?.reserve() == true
    }

    /// Takes the place for a completion, unless the controller stands still: nothing is completed then.
    mutating func post(_ completion: Completion) -> CompletionStep {
        guard isCurrent(completion.token.generation), lifecycle == .ready,
            let index = index(ofCompletionQueue: completion.token.completionQueue)
        else { return .nowhere }
        if activity.isStopped {
            operation.dueCompletions.append(completion)
            return .isDue
        }
        guard let slot = operation.completionQueues[index]?.takeSlot(),
            let queue = operation.completionQueues[index]
        else { return .nowhere }
        let source = self.index(ofSubmissionQueue: completion.token.submissionQueue)
        let head = source.flatMap { operation.submissionQueues[$0]?.head } ?? 0
        let entry = CompletionEntry(
            result: completion.result, submissionQueueHead: UInt16(truncatingIfNeeded: head),
            submissionQueue: completion.token.submissionQueue, commandID: completion.commandID, phase: slot.phase,
            status: completion.status)
        return .write(
            Posting(
                entry: entry, address: slot.address, vector: queue.isInterruptEnabled ? queue.vector : nil,
                wasParked: completion.wasParked))
    }

    /// Takes note that a completion can be seen by the host.
    ///
    /// - Returns: whether its interrupt may be raised now; a masked one is when it is unmasked.
    mutating func didPost(_ posting: Posting, _ token: CommandToken) -> Bool {
        guard isCurrent(token.generation), let index = index(ofCompletionQueue: token.completionQueue) else {
            return false
        }
        operation.completionQueues[index]?.didWrite()
        return posting.vector.map { !isMasked($0) } ?? false
    }

    /// Takes note that a fetched command is completed, or parked with its slot.
    mutating func didEnd(_ token: CommandToken) {
        guard isCurrent(token.generation), let index = index(ofSubmissionQueue: token.submissionQueue) else { return }
        operation.submissionQueues[index]?.executing -= 1
        finishDeletion(index)
    }
}

/// Queues come and go. Base specification 2.0, sections 5.4 to 5.7
extension ControllerState {
    mutating func create(_ command: CreateCompletionQueue) throws(Status) {
        let limit = operation.features.queueCounts.completionQueues
        guard (1...limit).contains(Int(command.queue.rawValue)), self.index(ofCompletionQueue: command.queue) == nil
        else {
            throw .invalidQueueIdentifier
        }
        try checkShape(command.entryCount, command.isContiguous, command.base, CompletionEntry.byteCount)
        guard command.vector < identity.vectorCount else { throw .invalidInterruptVector }
        let index = Int(command.queue.rawValue)
        while operation.completionQueues.count <= index { operation.completionQueues.append(nil) }
        operation.completionQueues[index] = CompletionQueue(
            id: command.queue, base: command.base, entryCount: command.entryCount, vector: command.vector,
            isInterruptEnabled: command.isInterruptEnabled)
    }

    mutating func create(_ command: CreateSubmissionQueue) throws(Status) {
        let limits = operation.features.queueCounts
        guard (1...limits.submissionQueues).contains(Int(command.queue.rawValue)),
            self.index(ofSubmissionQueue: command.queue) == nil,
            (1...limits.completionQueues).contains(Int(command.completionQueue.rawValue))
        else { throw .invalidQueueIdentifier }
        guard self.index(ofCompletionQueue: command.completionQueue) != nil else { throw .completionQueueInvalid }
        try checkShape(command.entryCount, command.isContiguous, command.base, SubmissionEntry.byteCount)
        let index = Int(command.queue.rawValue)
        while operation.submissionQueues.count <= index { operation.submissionQueues.append(nil) }
        operation.submissionQueues[index] = SubmissionQueue(
            id: command.queue, base: command.base, entryCount: command.entryCount,
            completionQueue: command.completionQueue)
    }

    var hasQueues: Bool {
        operation.completionQueues.dropFirst().contains { $0 != nil }
            || operation.submissionQueues.dropFirst().contains { $0 != nil }
    }

    mutating func deleteCompletionQueue(_ id: QueueID) throws(Status) {
        guard id != .admin, let index = index(ofCompletionQueue: id) else { throw .invalidQueueIdentifier }
        guard !operation.submissionQueues.contains(where: { $0?.completionQueue == id }) else {
            throw .invalidQueueDeletion
        }
        operation.completionQueues[index] = nil
    }

    /// Fetches nothing more from a queue and removes it when its last command is completed, which then completes
    /// `command`: at once or later, by a worker.
    mutating func deleteSubmissionQueue(_ id: QueueID, for command: CommandID) throws(Status) {
        guard id != .admin, let index = index(ofSubmissionQueue: id),
            operation.submissionQueues[index]?.deletion == nil
        else { throw .invalidQueueIdentifier }
        operation.submissionQueues[index]?.deletion = command
        finishDeletion(index)
    }

    private mutating func finishDeletion(_ index: Int) {
        guard let queue = operation.submissionQueues[index], queue.executing == 0, let command = queue.deletion else {
            return
        }
        operation.submissionQueues[index] = nil
        // A queue that is made anew under this identifier gets a place of its own.
        operation.line.removeAll { $0 == queue.id }
        let token = CommandToken(generation: generation, submissionQueue: .admin, completionQueue: .admin)
        operation.dueCompletions.append(
            Completion(commandID: command, status: .success, result: 0, token: token, wasParked: true))
    }

    private func checkShape(
        _ entryCount: Int, _ isContiguous: Bool, _ base: IOVA, _ entryByteCount: Int
    ) throws(Status) {
        // The host may set the sizes of entries until it makes the first queue.
        let configuration = ControllerConfiguration(registers[.configuration])
        guard (2...ControllerIdentity.maximumQueueEntries).contains(entryCount), configuration.hasSupportedEntrySizes
        else { throw .invalidQueueSize }
        // Scattered queues are optional, and CAP.CQR says that there are none here.
        guard isContiguous else { throw .invalidField }
        guard base.isAligned(to: operation.memoryPageByteCount) else { throw .invalidPRPOffset }
        guard base.holds(entryCount, of: entryByteCount) else { throw .invalidField }
    }
}

/// Asynchronous events. Base specification 2.0, section 5.2
extension ControllerState {
    /// Parks a request until there is an event for it. The slot it came with is given back, so that parked requests do
    /// not fill a small completion queue; the event that ends it reserves another.
    mutating func parkEventRequest(_ command: CommandID) throws(Status) {
        guard operation.events.requests.count < ControllerIdentity.eventRequestLimit else {
            throw .asynchronousEventRequestLimitExceeded
        }
        operation.events.requests.append(command)
        operation.completionQueues[0]?.release()
        deliverEvents()
        queueUpThose(thatWaitFor: .admin)
    }

    /// Pairs events with parked requests, as far as there are completion slots.
    mutating func deliverEvents() {
        while !operation.events.requests.isEmpty, operation.events.hasDeliverable, reserveSlot(.admin),
            let event = operation.events.takeDeliverable()
        {
            completeEventRequest(at: 0, .success, event.result)
        }
    }

    /// Ends a parked request early.
    ///
    /// - Returns: whether `command` was one, and could be.
    mutating func abortEventRequest(_ command: CommandID) -> Bool {
        guard let index = operation.events.requests.firstIndex(of: command), reserveSlot(.admin) else { return false }
        completeEventRequest(at: index, .abortRequested, 0)
        return true
    }

    private mutating func completeEventRequest(at index: Int, _ status: Status, _ result: UInt32) {
        let command = operation.events.requests.remove(at: index)
        let token = CommandToken(generation: generation, submissionQueue: .admin, completionQueue: .admin)
        operation.dueCompletions.append(
            Completion(commandID: command, status: status, result: result, token: token, wasParked: true))
    }
}
