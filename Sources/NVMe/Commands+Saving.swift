import DMA
import DeviceModel

extension CommandToken {
    fileprivate func save(into writer: inout StateWriter) {
        writer.append(submissionQueue.rawValue)
        writer.append(completionQueue.rawValue)
    }

    fileprivate init(from reader: inout StateReader) throws(StateError) {
        // Whoever adopts the state tags it with a generation of its own.
        generation = 0
        submissionQueue = QueueID(rawValue: try reader.integer())
        completionQueue = QueueID(rawValue: try reader.integer())
    }
}

extension Unfinished {
    private enum Kind: UInt8 {
        case command, posting
    }

    func save(into writer: inout StateWriter, _ controller: ControllerState) {
        switch self {
        case .command(let entry, let token):
            writer.append(Kind.command.rawValue)
            token.save(into: &writer)
            entry.save(into: &writer)
        case .posting(let posting, let token):
            writer.append(Kind.posting.rawValue)
            token.save(into: &writer)
            let index = controller.index(ofCompletionQueue: token.completionQueue)
            let queue = index.flatMap { controller.operation.completionQueues[$0] }
            writer.append(count: queue?.slotNumber(at: posting.address) ?? 0)
            posting.entry.save(into: &writer)
            writer.append(posting.wasParked)
        }
    }

    /// - Parameter controller: with all its queues.
    init(from reader: inout StateReader, _ controller: ControllerState) throws(StateError) {
        let kind = Kind(rawValue: try reader.integer())
        let token = try CommandToken(from: &reader)
        switch kind {
        case .command: self = .command(try SubmissionEntry(from: &reader), token)
        case .posting:
            guard let index = controller.index(ofCompletionQueue: token.completionQueue),
                let queue = controller.operation.completionQueues[index]
            else { throw .impossible("queue of a completion") }
            let slot = try reader.count(atMost: queue.entryCount - 1, "slot of a completion")
            let entry = try CompletionEntry(from: &reader)
            let posting = Posting(
                entry: entry, address: queue.address(ofSlot: slot),
                vector: queue.isInterruptEnabled ? queue.vector : nil,
                wasParked: try reader.flag("parked command"))
            self = .posting(posting, token)
        case nil: throw .impossible("unfinished command")
        }
    }
}

extension Completion {
    func save(into writer: inout StateWriter) {
        token.save(into: &writer)
        writer.append(commandID.rawValue)
        writer.append(status.rawValue)
        writer.append(result)
        writer.append(wasParked)
    }

    init(from reader: inout StateReader) throws(StateError) {
        token = try CommandToken(from: &reader)
        commandID = CommandID(rawValue: try reader.integer())
        status = try Status(from: &reader)
        result = try reader.integer()
        wasParked = try reader.flag("parked command")
    }
}

extension Status {
    init(from reader: inout StateReader) throws(StateError) {
        guard let status = Status(rawValue: try reader.integer()) else { throw .impossible("status") }
        self = status
    }
}

extension CompletionEntry {
    fileprivate func save(into writer: inout StateWriter) {
        writer.append(result)
        writer.append(submissionQueueHead)
        writer.append(submissionQueue.rawValue)
        writer.append(commandID.rawValue)
        writer.append(phase)
        writer.append(status.rawValue)
    }

    fileprivate init(from reader: inout StateReader) throws(StateError) {
        result = try reader.integer()
        submissionQueueHead = try reader.integer()
        submissionQueue = QueueID(rawValue: try reader.integer())
        commandID = CommandID(rawValue: try reader.integer())
        phase = try reader.flag("phase")
        status = try Status(from: &reader)
    }
}

extension SubmissionEntry {
    /// The entry as it lies in its queue; nothing of dwords 2 to 5 is used here.
    fileprivate func save(into writer: inout StateWriter) {
        let flags: UInt32 = (isFused ? 1 << 8 : 0) | (usesScatterGatherList ? 1 << 14 : 0)
        writer.append(UInt32(opcode) | flags | UInt32(commandID.rawValue) << 16)
        writer.append(namespaceID.rawValue)
        for _ in 2...5 { writer.append(UInt32(0)) }
        writer.append(dataPointer.prp1.rawValue)
        writer.append(dataPointer.prp2.rawValue)
        for index in parameters.indices { writer.append(parameters[index]) }
    }

    fileprivate init(from reader: inout StateReader) throws(StateError) {
        var dwords = InlineArray<16, UInt32>(repeating: 0)
        for index in dwords.indices { dwords[index] = try reader.integer() }
        self.init(parsing: dwords)
    }
}
