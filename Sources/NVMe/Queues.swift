import DMA
import DeviceModel

/// A ring of commands in guest memory.
///
/// The host moves the tail by its doorbell; the head moves when a command has been read out of its slot, which the host
/// may then use again. One worker at a time reads, in order; execution overlaps.
struct SubmissionQueue {
    let id: QueueID
    let base: IOVA
    let entryCount: Int
    let completionQueue: QueueID
    private(set) var head = 0
    private(set) var tail = 0
    /// Whether a worker is reading the command at the head.
    var isBeingRead = false
    /// Whether the queue is in the line of those that have work.
    var isInLine = false
    /// Commands that workers have and that are not completed or parked.
    var executing = 0
    /// The command that asked for the queue's deletion, to be completed when `executing` is zero.
    var deletion: CommandID?

    init(id: QueueID, base: IOVA, entryCount: Int, completionQueue: QueueID) {
        self.id = id
        self.base = base
        self.entryCount = entryCount
        self.completionQueue = completionQueue
    }

    var hasCommands: Bool { head != tail }

    var headAddress: IOVA { base.slot(head, byteCount: SubmissionEntry.byteCount) }

    mutating func advanceHead() { head = (head + 1) % entryCount }

    /// - Returns: whether the doorbell's value is a slot of the queue.
    mutating func setTail(_ value: UInt32) -> Bool {
        guard value < UInt32(entryCount) else { return false }
        tail = Int(value)
        return true
    }
}

/// A ring of completions in guest memory.
///
/// The controller owns the tail and the phase, the host moves the head by its doorbell. A slot is reserved before a
/// command is fetched, so that its completion always has a place; the ring is full when one slot is left.
struct CompletionQueue {
    struct Slot {
        let address: IOVA
        let phase: Bool
    }

    let id: QueueID
    let base: IOVA
    let entryCount: Int
    let vector: Int
    let isInterruptEnabled: Bool
    private var head = 0
    private var tail = 0
    private var phase = true
    private var reserved = 0
    /// Completions that are in guest memory and that the host has not acknowledged. The tail runs ahead of what is
    /// written, and a host that acknowledges what it cannot have seen makes this negative for a while.
    private var visible = 0

    init(id: QueueID, base: IOVA, entryCount: Int, vector: Int, isInterruptEnabled: Bool) {
        self.id = id
        self.base = base
        self.entryCount = entryCount
        self.vector = vector
        self.isInterruptEnabled = isInterruptEnabled
    }

    /// Completions that the host has not acknowledged.
    private var unacknowledged: Int { (tail - head + entryCount) % entryCount }

    /// Whether the host has something to look at, which is what asserts an interrupt line.
    var hasNews: Bool { visible > 0 }

    mutating func didWrite() { visible += 1 }

    /// - Returns: whether there was a slot to reserve.
    mutating func reserve() -> Bool {
        guard unacknowledged + reserved < entryCount - 1 else { return false }
        reserved += 1
        return true
    }

    /// Gives a reserved slot back unused.
    mutating func release() {
        precondition(reserved > 0, "a slot was reserved")
        reserved -= 1
    }

    /// Turns a reservation into the next slot.
    mutating func takeSlot() -> Slot {
        release()
        let slot = Slot(address: base.slot(tail, byteCount: CompletionEntry.byteCount), phase: phase)
        tail += 1
        if tail == entryCount {
            tail = 0
            phase.toggle()
        }
        return slot
    }

    /// - Returns: whether the doorbell's value acknowledges completions that there are.
    mutating func setHead(_ value: UInt32) -> Bool {
        guard value < UInt32(entryCount) else { return false }
        let acknowledged = (Int(value) - head + entryCount) % entryCount
        guard acknowledged <= unacknowledged else { return false }
        head = Int(value)
        visible -= acknowledged
        return true
    }
}

extension CompletionQueue {
    func address(ofSlot number: Int) -> IOVA { base.slot(number, byteCount: CompletionEntry.byteCount) }

    /// The number of the slot at an address that `takeSlot` has given.
    func slotNumber(at address: IOVA) -> Int { Int(address.rawValue - base.rawValue) / CompletionEntry.byteCount }

    /// Takes note that a slot that was taken has not been written.
    ///
    /// - Returns: whether that can be: no more are taken than the host has not acknowledged, or all of them once more if
    ///   it has acknowledged what it cannot have seen.
    mutating func willWrite() -> Bool {
        guard visible > -entryCount else { return false }
        visible -= 1
        return true
    }

    func save(into writer: inout StateWriter) {
        writer.append(id.rawValue)
        writer.append(base.rawValue)
        writer.append(count: entryCount)
        writer.append(count: vector)
        writer.append(isInterruptEnabled)
        writer.append(count: head)
        writer.append(count: tail)
        writer.append(phase)
    }

    /// A queue with nothing reserved, and all that the host has not acknowledged written.
    init(from reader: inout StateReader) throws(StateError) {
        self.init(
            id: QueueID(rawValue: try reader.integer()), base: IOVA(rawValue: try reader.integer()),
            entryCount: try reader.count(atMost: AdminQueueAttributes.maximumEntryCount, "queue size"),
            vector: try reader.count(atMost: Int(UInt16.max), "interrupt vector"),
            isInterruptEnabled: try reader.flag("interrupt of a queue"))
        head = try reader.count(atMost: entryCount - 1, "head of a queue")
        tail = try reader.count(atMost: entryCount - 1, "tail of a queue")
        phase = try reader.flag("phase")
        visible = unacknowledged
    }
}

extension SubmissionQueue {
    func save(into writer: inout StateWriter) {
        writer.append(id.rawValue)
        writer.append(base.rawValue)
        writer.append(count: entryCount)
        writer.append(completionQueue.rawValue)
        writer.append(count: head)
        writer.append(count: tail)
        writer.append(deletion != nil)
        writer.append(deletion?.rawValue ?? 0)
    }

    /// A queue of which nothing is executing.
    init(from reader: inout StateReader) throws(StateError) {
        self.init(
            id: QueueID(rawValue: try reader.integer()), base: IOVA(rawValue: try reader.integer()),
            entryCount: try reader.count(atMost: AdminQueueAttributes.maximumEntryCount, "queue size"),
            completionQueue: QueueID(rawValue: try reader.integer()))
        head = try reader.count(atMost: entryCount - 1, "head of a queue")
        tail = try reader.count(atMost: entryCount - 1, "tail of a queue")
        let isBeingDeleted = try reader.flag("deletion of a queue")
        let command = CommandID(rawValue: try reader.integer())
        deletion = isBeingDeleted ? command : nil
    }
}

extension IOVA {
    /// Where entry `number` of a ring begins; the ring was checked to lie below the top of the address space.
    fileprivate func slot(_ number: Int, byteCount: Int) -> IOVA {
        IOVA(rawValue + UInt64(number * byteCount))
    }
}
