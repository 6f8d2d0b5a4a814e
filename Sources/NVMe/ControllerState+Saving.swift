import DMA
import DeviceModel
import PCI

/// The controller's state as bytes.
///
/// What follows from the rest is not in them: how many slots are reserved, how many commands a queue counts as executing,
/// which queues are in line. So they cannot contradict it either.
extension ControllerState {
    /// - Precondition: the controller was stopped and is at rest.
    func save(into writer: inout StateWriter) {
        registers.save(into: &writer)
        writer.append(SavedLifecycle(lifecycle).rawValue)
        writer.append(SavedShutdown(operation.shutdown).rawValue)
        writer.append(UInt8(operation.memoryPageByteCount.trailingZeroBitCount))
        writer.append(operation.maskedVectors)
        operation.features.save(into: &writer)
        operation.events.save(into: &writer)
        writer.list(operation.completionQueues.compactMap(\.self)) { $0.save(into: &$1) }
        writer.list(operation.submissionQueues.compactMap(\.self)) { $0.save(into: &$1) }
        writer.list(operation.unfinished) { $0.save(into: &$1, self) }
        writer.list(operation.dueCompletions) { $0.save(into: &$1) }
        history.save(into: &writer)
    }

    /// A controller in a state that one with the same identity has saved, or refused because no controller can be in it.
    init(_ identity: ControllerIdentity, from reader: inout StateReader) throws(StateError) {
        self.init(identity)
        registers = try RegisterBank(registers.map, from: &reader)
        lifecycle = try SavedLifecycle(from: &reader).lifecycle
        operation.shutdown = try SavedShutdown(from: &reader).shutdown
        let isEnabled = ControllerConfiguration(registers[.configuration]).isEnabled
        try reader.require(isEnabled == (lifecycle != .disabled), "lifecycle")
        let pageShift = try reader.integer(UInt8.self)
        try reader.require((12...12 + ControllerCapabilities.maximumPageShift).contains(Int(pageShift)), "page size")
        operation.memoryPageByteCount = 1 << UInt64(pageShift)
        operation.maskedVectors = try reader.integer()
        operation.features = try Features(queuePairs: identity.queuePairs, from: &reader)
        operation.events = try Events(from: &reader)
        try readQueues(from: &reader)
        let limit = operation.completionQueues.reduce(0) { $0 + ($1?.entryCount ?? 0) }
        for _ in 0..<(try reader.count(atMost: limit, "unfinished commands")) {
            try take(try Unfinished(from: &reader, self))
        }
        for _ in 0..<(try reader.count(atMost: limit, "due completions")) { try take(try Completion(from: &reader)) }
        history = try History(from: &reader)
        try checkWhole(reader)
        for index in operation.submissionQueues.indices { queueUp(index) }
    }

    private mutating func readQueues(from reader: inout StateReader) throws(StateError) {
        for _ in 0..<(try reader.count(atMost: identity.queuePairs + 1, "completion queues")) {
            let queue = try CompletionQueue(from: &reader)
            try reader.require(queue.vector < identity.vectorCount, "interrupt vector")
            try checkShape(queue.id, queue.base, queue.entryCount, CompletionEntry.byteCount, reader)
            try put(queue, at: queue.id, in: \.completionQueues, reader)
        }
        for _ in 0..<(try reader.count(atMost: identity.queuePairs + 1, "submission queues")) {
            let queue = try SubmissionQueue(from: &reader)
            try checkShape(queue.id, queue.base, queue.entryCount, SubmissionEntry.byteCount, reader)
            try reader.require(index(ofCompletionQueue: queue.completionQueue) != nil, "completion queue of a queue")
            try reader.require((queue.id == .admin) == (queue.completionQueue == .admin), "completion queue of a queue")
            try reader.require(queue.id != .admin || queue.deletion == nil, "deletion of a queue")
            try put(queue, at: queue.id, in: \.submissionQueues, reader)
            // The command that asked for the deletion was parked with its slot.
            if queue.deletion != nil { try reader.require(reserveSlot(.admin), "slots of a completion queue") }
        }
    }

    private func checkShape(
        _ id: QueueID, _ base: IOVA, _ entryCount: Int, _ entryByteCount: Int, _ reader: StateReader
    ) throws(StateError) {
        let limit = id == .admin ? AdminQueueAttributes.maximumEntryCount : ControllerIdentity.maximumQueueEntries
        try reader.require((2...limit).contains(entryCount), "queue size")
        try reader.require(base.isAligned(to: operation.memoryPageByteCount), "queue base")
        try reader.require(base.holds(entryCount, of: entryByteCount), "queue base")
    }

    private mutating func put<Queue>(
        _ queue: Queue, at id: QueueID, in queues: WritableKeyPath<Operation, [Queue?]>, _ reader: StateReader
    ) throws(StateError) {
        let index = Int(id.rawValue)
        try reader.require(index <= identity.queuePairs, "queue identifier")
        while operation[keyPath: queues].count <= index { operation[keyPath: queues].append(nil) }
        try reader.require(operation[keyPath: queues][index] == nil, "queue identifier")
        operation[keyPath: queues][index] = queue
    }

    /// Takes interrupted work, with the slot and the place among the executing that it has.
    private mutating func take(_ work: Unfinished) throws(StateError) {
        switch work {
        case .command(_, let token):
            try reserve(token)
            try countExecuting(token)
        case .posting(let posting, let token):
            if posting.wasParked { try checkParked(token) } else { try countExecuting(token) }
            let index = index(ofCompletionQueue: token.completionQueue)
            guard let index, operation.completionQueues[index]?.willWrite() == true else {
                throw .impossible("unwritten completion")
            }
        }
        operation.unfinished.append(work)
    }

    private mutating func take(_ completion: Completion) throws(StateError) {
        try reserve(completion.token)
        if completion.wasParked { try checkParked(completion.token) } else { try countExecuting(completion.token) }
        operation.dueCompletions.append(completion)
    }

    /// Only commands of the admin queue are parked. No submission queue that counts them keeps their completion queue from
    /// being deleted and made anew, without their slots; the admin queue's stays.
    private func checkParked(_ token: CommandToken) throws(StateError) {
        guard token.submissionQueue == .admin, token.completionQueue == .admin else {
            throw .impossible("parked command")
        }
    }

    private mutating func reserve(_ token: CommandToken) throws(StateError) {
        guard reserveSlot(token.completionQueue) else { throw .impossible("slots of a completion queue") }
    }

    private mutating func countExecuting(_ token: CommandToken) throws(StateError) {
        guard let index = index(ofSubmissionQueue: token.submissionQueue),
            operation.submissionQueues[index]?.completionQueue == token.completionQueue
        else { throw .impossible("queue of a command") }
        operation.submissionQueues[index]?.executing += 1
    }

    /// What can only be seen when everything has been read.
    private func checkWhole(_ reader: StateReader) throws(StateError) {
        let (submission, completion) = (operation.submissionQueues, operation.completionQueues)
        if lifecycle == .ready {
            try reader.require(submission[0] != nil && completion[0] != nil, "admin queues")
        } else if lifecycle == .disabled {
            try reader.require(submission.allSatisfy { $0 == nil } && completion.allSatisfy { $0 == nil }, "queues")
        }
        // A queue whose last command is completed is gone.
        try reader.require(submission.allSatisfy { $0?.deletion == nil || $0?.executing != 0 }, "deletion of a queue")
    }
}

/// Where a controller at rest can be; the other cases of `Lifecycle` end when the last command does.
private enum SavedLifecycle: UInt8 {
    case disabled, ready, failed, failedWhileReady

    init(_ lifecycle: Lifecycle) {
        switch lifecycle {
        case .disabled: self = .disabled
        case .ready: self = .ready
        case .failed(let wasReady): self = wasReady ? .failedWhileReady : .failed
        case .starting, .stopping: preconditionFailure("a controller at rest waits for no command")
        }
    }

    init(from reader: inout StateReader) throws(StateError) {
        guard let value = Self(rawValue: try reader.integer()) else { throw .impossible("lifecycle") }
        self = value
    }

    var lifecycle: Lifecycle {
        switch self {
        case .disabled: .disabled
        case .ready: .ready
        case .failed: .failed(wasReady: false)
        case .failedWhileReady: .failed(wasReady: true)
        }
    }
}

private enum SavedShutdown: UInt8 {
    case none, requested, complete

    init(_ shutdown: ControllerState.Shutdown) {
        switch shutdown {
        case .none: self = .none
        case .requested: self = .requested
        case .complete: self = .complete
        case .underWay: preconditionFailure("a controller at rest is not shutting down")
        }
    }

    init(from reader: inout StateReader) throws(StateError) {
        guard let value = Self(rawValue: try reader.integer()) else { throw .impossible("shutdown") }
        self = value
    }

    var shutdown: ControllerState.Shutdown {
        switch self {
        case .none: .none
        case .requested: .requested
        case .complete: .complete
        }
    }
}

extension ControllerState.Operation {
    /// Makes the work in it work of a generation.
    mutating func tag(with generation: Int) {
        for index in dueCompletions.indices { dueCompletions[index].token.generation = generation }
        unfinished = unfinished.map { work in
            var token = work.token
            token.generation = generation
            return switch work {
            case .command(let entry, _): .command(entry, token)
            case .posting(let posting, _): .posting(posting, token)
            }
        }
    }
}

extension StateWriter {
    fileprivate mutating func list<Element>(_ elements: [Element], _ body: (Element, inout StateWriter) -> Void) {
        append(count: elements.count)
        for element in elements { body(element, &self) }
    }
}
