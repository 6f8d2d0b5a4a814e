import DMA
import PCI

/// Whether the controller serves commands. Base specification 2.0, section 3.5
///
///                 enable,               enable, commands
///                 none executing        still executing
///       disabled ───────────────▶ ready ◀─ ─ ─ ┐
///        ▲  ▲ │                    │           ╎ the last one ends
///        │  │ └────────────────────┼─────▶ starting
///        │  └──────────────────────┼──────────┘ disable
///        │                         │ disable
///        └──────────────────── stopping ──▶ starting  (enable)
///          the last command ends
///
/// `failed` is entered when a queue cannot be reached, or from an enable that makes no sense; only a reset leaves it.
/// Commands that a reset finds executing end without a completion.
enum Lifecycle: Equatable {
    case disabled, starting, ready, stopping
    case failed(wasReady: Bool)
}

/// All that the controller knows beside its store; guarded by the engine's lock.
struct ControllerState {
    let identity: ControllerIdentity
    var registers: RegisterBank<NVMeRegister>
    var lifecycle = Lifecycle.disabled
    /// Counts resets. Work that was taken up under another number is not the controller's any more.
    private(set) var generation = 0
    var operation: Operation
    var activity = Activity()
    var history = History()

    /// What every reset of the controller forgets.
    struct Operation {
        /// By identifier, as far as the highest that the host has used: what looks at every queue costs no more than the
        /// host has asked for.
        var submissionQueues: [SubmissionQueue?] = [nil]
        var completionQueues: [CompletionQueue?] = [nil]
        /// Submission queues that may have a command to fetch, longest waiting first.
        var line: [QueueID] = []
        /// Completions without a worker: parked commands whose time has come, and commands that were executed when the
        /// controller was stopped. Their slots are reserved.
        var dueCompletions: [Completion] = []
        /// What a stop has interrupted, to be taken up again before anything else.
        var unfinished: [Unfinished] = []
        var events = Events()
        var features: Features
        var maskedVectors: UInt32 = 0
        var shutdown = Shutdown.none
        var memoryPageByteCount: UInt64 = 4096

        init(_ identity: ControllerIdentity) {
            features = Features(queuePairs: identity.queuePairs)
        }
    }

    /// Shutdown processing. `CSTS.SHST`
    enum Shutdown {
        case none, requested, underWay, complete
    }

    /// What the workers are doing, whichever generation their work belongs to.
    struct Activity {
        /// Workers that have work.
        var executing = 0
        /// Workers that wait, the last to go to sleep at the end.
        var idleWorkers: [Int] = []
        var isEnding = false
        /// Whether the controller stands still to be migrated: nothing is taken up, nothing completed.
        var isStopped = false
        /// Counts the times that it was told to stand still. What fails under another number than it was taken up under
        /// is done again.
        var stops = 0
        /// What stands still has been written: everything is durable, for whoever opens the store next.
        var stopFlush = StopFlush.none
        /// The level of the interrupt line as the function was last told.
        var isLineShown = false
    }

    enum StopFlush {
        case none, requested, underWay, done, failed
    }

    init(_ identity: ControllerIdentity) {
        self.identity = identity
        let capabilities = ControllerCapabilities(maximumQueueEntries: ControllerIdentity.maximumQueueEntries)
        registers = RegisterBank(NVMeRegister.map(capabilities))
        operation = Operation(identity)
    }
}

/// Registers.
extension ControllerState {
    var status: ControllerStatus {
        var status: ControllerStatus
        switch lifecycle {
        case .disabled, .starting: status = []
        case .ready, .stopping: status = .ready
        case .failed(let wasReady): status = wasReady ? [.ready, .fatal] : .fatal
        }
        switch operation.shutdown {
        case .none: break
        case .requested, .underWay: status.insert(.shutdownUnderWay)
        case .complete: status.insert(.shutdownComplete)
        }
        return status
    }

    mutating func readRegister(at offset: Int, byteCount: Int) -> UInt64 {
        let (status, mask) = (status, UInt64(operation.maskedVectors))
        return registers.read(at: offset, byteCount: byteCount) { $0 == .status ? status.rawValue : mask }
    }

    mutating func writeRegister(_ value: UInt64, at offset: Int, byteCount: Int) {
        for write in registers.write(value, at: offset, byteCount: byteCount) {
            switch write.id {
            case .interruptMaskSet: operation.maskedVectors |= UInt32(truncatingIfNeeded: write.written)
            case .interruptMaskClear: operation.maskedVectors &= ~UInt32(truncatingIfNeeded: write.written)
            case .configuration:
                configure(from: ControllerConfiguration(write.old), to: ControllerConfiguration(write.new))
            case .capabilities, .version, .status, .adminQueueAttributes, .adminSubmissionQueueBase,
                .adminCompletionQueueBase, .readyTimeouts:
                break
            }
        }
    }

    private mutating func configure(from old: ControllerConfiguration, to new: ControllerConfiguration) {
        if old.isEnabled, !new.isEnabled { disable() }
        if !old.isEnabled, new.isEnabled { enable() }
        if new.wantsShutdown, !old.wantsShutdown { operation.shutdown = .requested }
        if !new.wantsShutdown, old.wantsShutdown { operation.shutdown = .none }
    }
}

/// Lifecycle.
extension ControllerState {
    private mutating func enable() {
        lifecycle = .starting
        startIfPossible()
    }

    /// Makes the admin queues and takes commands, once the last command of an earlier generation has ended.
    private mutating func startIfPossible() {
        guard lifecycle == .starting, activity.executing == 0 else { return }
        let configuration = ControllerConfiguration(registers[.configuration])
        let attributes = AdminQueueAttributes(registers[.adminQueueAttributes])
        let submissionBase = IOVA(registers[.adminSubmissionQueueBase])
        let completionBase = IOVA(registers[.adminCompletionQueueBase])
        guard configuration.isSupported,
            attributes.submissionEntryCount >= 2, attributes.completionEntryCount >= 2,
            submissionBase.isAligned(to: configuration.memoryPageByteCount),
            completionBase.isAligned(to: configuration.memoryPageByteCount),
            submissionBase.holds(attributes.submissionEntryCount, of: SubmissionEntry.byteCount),
            completionBase.holds(attributes.completionEntryCount, of: CompletionEntry.byteCount)
        else {
            lifecycle = .failed(wasReady: false)
            return
        }
        operation.memoryPageByteCount = configuration.memoryPageByteCount
        operation.submissionQueues[0] = SubmissionQueue(
            id: .admin, base: submissionBase, entryCount: attributes.submissionEntryCount, completionQueue: .admin)
        operation.completionQueues[0] = CompletionQueue(
            id: .admin, base: completionBase, entryCount: attributes.completionEntryCount, vector: 0,
            isInterruptEnabled: true)
        lifecycle = .ready
    }

    private mutating func disable() {
        switch lifecycle {
        case .ready, .stopping, .failed(wasReady: true):
            lifecycle = activity.executing == 0 ? .disabled : .stopping
        case .disabled, .starting, .failed(wasReady: false): lifecycle = .disabled
        }
        forget()
    }

    private mutating func forget() {
        generation += 1
        operation = Operation(identity)
    }

    /// Back to power-on: a reset that the host did not ask for by the enable bit, and is not told the end of by a ready bit.
    mutating func reset() {
        registers = RegisterBank(registers.map)
        lifecycle = .disabled
        forget()
    }

    /// Stops serving for good until the next reset, because a queue cannot be reached. `CSTS.CFS`
    mutating func fail() {
        if lifecycle == .ready { lifecycle = .failed(wasReady: true) }
    }

    /// Takes note that a worker has ended what it was doing.
    mutating func didEndWork() {
        activity.executing -= 1
        guard activity.executing == 0 else { return }
        if lifecycle == .stopping { lifecycle = .disabled }
        startIfPossible()
    }

    /// Whether work that was taken up in `generation` is still the controller's.
    func isCurrent(_ generation: Int) -> Bool { generation == self.generation }

    /// Puts the state of another controller into the place of this one's; what the workers are doing is theirs.
    mutating func adopt(_ other: ControllerState) {
        generation += 1
        registers = other.registers
        lifecycle = other.lifecycle
        history = other.history
        operation = other.operation
        operation.tag(with: generation)
    }
}

/// Interrupts.
extension ControllerState {
    /// Whether some completion queue that interrupts holds completions the host has not acknowledged.
    var isLineAsserted: Bool {
        operation.completionQueues.contains { queue in
            guard let queue, queue.isInterruptEnabled else { return false }
            return queue.hasNews && !isMasked(queue.vector)
        }
    }

    /// Whether the host has masked a vector by register, which it does only without MSI-X. `INTMS`
    func isMasked(_ vector: Int) -> Bool {
        vector < 32 && operation.maskedVectors >> UInt32(vector) & 1 != 0
    }

    /// Vectors of `mask` whose queues hold completions the host has not acknowledged.
    func waitingVectors(in mask: UInt32) -> [Int] {
        operation.completionQueues.compactMap { queue in
            guard let queue, queue.isInterruptEnabled, queue.hasNews, queue.vector < 32 else { return nil }
            return mask >> UInt32(queue.vector) & 1 != 0 ? queue.vector : nil
        }
    }
}

extension IOVA {
    /// Whether `count` entries from this address on fit below the top of the address space.
    func holds(_ count: Int, of byteCount: Int) -> Bool {
        !rawValue.addingReportingOverflow(UInt64(count * byteCount - 1)).overflow
    }
}
