import DMA
import LinuxHost
import PCI
import SVA

/// The three rings of an enabled device.
struct Rings: Sendable {
    var command, work: Ring
    /// `nil` without page requests.
    var pageRequest: Ring?

    /// - Returns: `nil` when the driver has described rings that cannot be.
    init?(_ registers: RegisterBank<CopyEngineRegister>) {
        let commands = Ring(
            at: registers[.commandRingBase], size: registers[.commandRingSize],
            entryByteCount: Descriptor.byteCount, sizes: 2...4096)
        let works = Ring(
            at: registers[.workRingBase], size: registers[.workRingSize], entryByteCount: Descriptor.byteCount,
            sizes: 2...4096)
        guard let commands, let works else { return nil }
        command = commands
        work = works
        guard registers[.pageRequestRingSize] != 0 else { return }
        // A group has to fit, whole.
        pageRequest = Ring(
            at: registers[.pageRequestRingBase], size: registers[.pageRequestRingSize],
            entryByteCount: PageRequestEntry.byteCount, sizes: 32...4096)
        if pageRequest == nil { return nil }
    }
}

/// The device as the bus sees it, and what its threads have to do. Changed under the engine's lock.
struct EngineState {
    var registers: RegisterBank<CopyEngineRegister>
    /// The error bits of the status register, since the device was enabled.
    private(set) var errors: EngineStatus = []
    /// `nil` while the device is not enabled, or its rings are no good.
    var rings: Rings?
    /// Counts the times that the device was enabled, disabled or reset: what was begun under another number is over.
    private(set) var epoch = 0
    /// Sessions up to this number interrupt nobody any more: there was a reset, or their client is gone.
    private(set) var lastSilenced = -1
    /// The one there is, which may be over but not ended yet.
    var session: EngineSession?
    /// Whether the driver may know that there is a session, because it began in time, and without a reset since.
    private var isKnown = false
    /// What sessions count since the last reset. Each keeps the one it was begun with, and so counts nothing after it.
    private(set) var statistics = WaitStatistics()
    /// Whether page requests may be waiting at the session's channel.
    var hasPageRequests = false
    var workers = Workers()
    /// Whether the threads are to end.
    var isEnding = false

    /// What the workers do for the session.
    struct Workers {
        /// Whether one is reading a descriptor.
        var isFetching = false
        /// How many are busy with a descriptor that they have read.
        var executing = 0
        /// What begins when nothing else is executed.
        var fenced: Descriptor?

        var isIdle: Bool { !isFetching && executing == 0 }
    }

    init(_ map: RegisterMap<CopyEngineRegister>) {
        registers = RegisterBank(map)
    }

    func isCurrent(_ session: EngineSession) -> Bool { session.epoch == epoch && self.session === session }

    /// Whether there is a session, as the driver sees it: while the device is enabled the one of this enabling, otherwise
    /// one that has not ended.
    private var isReady: Bool {
        guard isKnown, let session else { return false }
        return registers[.control] == 0 || isCurrent(session)
    }
}

/// The bus.
extension EngineState {
    mutating func readRegister(at offset: Int, byteCount: Int) -> UInt64 {
        let (rings, status) = (rings, errors.union(isReady ? .ready : []))
        let waits = statistics.counts
        return registers.read(at: offset, byteCount: byteCount) { register in
            switch register {
            case .status: status.rawValue
            case .commandRingHead: UInt64(rings?.command.head ?? 0)
            case .workRingHead: UInt64(rings?.work.head ?? 0)
            case .pageRequestRingTail: UInt64(rings?.pageRequest?.tail ?? 0)
            case .groupsAnswered: waits.groupsAnswered
            case .groupsRefused: waits.groupsRefused
            case .waitTotal: waits.waitTotal
            case .longestWait: waits.longestWait
            default: preconditionFailure("\(register) holds its own value")
            }
        }
    }

    /// - Returns: whether an error bit has been set that was not.
    mutating func writeRegister(_ value: UInt64, at offset: Int, byteCount: Int) -> Bool {
        var hasNews = false
        for write in registers.write(value, at: offset, byteCount: byteCount) where act(on: write) { hasNews = true }
        return hasNews
    }

    /// Whether an error bit has been set that was not.
    private mutating func act(on write: RegisterWrite<CopyEngineRegister>) -> Bool {
        switch write.id {
        case .control:
            guard write.new != write.old else { return false }
            epoch += 1
            rings = nil
            return write.new == 1 && !enable()
        case .commandRingTail:
            return rings?.command.setTail(write.new) == false && note(.commandRingError)
        case .workRingTail:
            return rings?.work.setTail(write.new) == false && note(.workRingError)
        case .pageRequestRingHead:
            return rings?.pageRequest?.setHead(write.new) == false && note(.pageRequestRingError)
        default: return false
        }
    }

    /// Whether the rings that the driver has described can be.
    private mutating func enable() -> Bool {
        errors = []
        for index in [.commandRingTail, .workRingTail, .pageRequestRingHead] as [CopyEngineRegister] {
            registers[index] = 0
        }
        rings = Rings(registers)
        if rings == nil { errors = .configurationError }
        return rings != nil
    }

    /// Notes an error of a session. Whether it is news to the driver.
    mutating func note(_ error: EngineStatus, of session: EngineSession) -> Bool {
        isCurrent(session) && note(error)
    }

    private mutating func note(_ error: EngineStatus) -> Bool {
        // The requests that wait are refused.
        if error == .pageRequestRingError { hasPageRequests = true }
        return errors.insert(error).inserted
    }

    /// Back to power-on; a session that there is will be ended, and is silent from now on.
    mutating func reset() {
        registers = RegisterBank(registers.map)
        errors = []
        rings = nil
        isKnown = false
        statistics = WaitStatistics()
        lastSilenced = epoch
        epoch += 1
    }

    /// Whether a session may still interrupt.
    func isHeard(_ session: EngineSession) -> Bool { session.epoch > lastSilenced }
}

/// What the control thread has to do.
extension EngineState {
    enum ControlStep {
        /// Make a session.
        case begin(epoch: Int, hasPageRequests: Bool, WaitStatistics)
        case command(EngineSession, IOVA)
        /// Put page requests into the ring, as many as there is room for.
        case deliver(EngineSession, Ring)
        /// Answer all page requests, now and later, because the driver cannot be told of them.
        case refuseAll(EngineSession)
        case end(EngineSession, SVADevice.Manner)
        case exit
    }

    mutating func nextControlStep() -> ControlStep? {
        guard let session else {
            if isEnding { return .exit }
            guard let rings else { return nil }
            return .begin(epoch: epoch, hasPageRequests: rings.pageRequest != nil, statistics)
        }
        guard !isEnding, isCurrent(session), let rings else {
            return .end(session, isHeard(session) && !isEnding ? .orderly : .surprise)
        }
        // Page requests first: work waits for them, and commands have the answers.
        if hasPageRequests, errors.contains(.pageRequestRingError) {
            hasPageRequests = false
            return .refuseAll(session)
        }
        if hasPageRequests, let ring = rings.pageRequest, ring.room >= CopyEngine.requestsPerGroup {
            hasPageRequests = false
            return .deliver(session, ring)
        }
        if !errors.contains(.commandRingError), !rings.command.isEmpty {
            return .command(session, rings.command.address(of: rings.command.head))
        }
        return nil
    }

    /// - Parameter new: `nil` when the one there was has ended.
    mutating func setSession(_ new: EngineSession?) {
        session = new
        isKnown = new.map(isCurrent) ?? false
    }
}

/// What the workers have to do.
extension EngineState {
    enum WorkStep {
        case fetch(EngineSession, IOVA)
        case execute(EngineSession, Descriptor)
        case exit
    }

    mutating func nextWorkStep() -> WorkStep? {
        if isEnding, session == nil { return .exit }
        guard let session, !isEnding, isCurrent(session), let rings else { return nil }
        if let descriptor = workers.fenced {
            guard workers.executing == 0 else { return nil }
            workers.fenced = nil
            workers.executing = 1
            return .execute(session, descriptor)
        }
        guard !workers.isFetching, !errors.contains(.workRingError), !rings.work.isEmpty else { return nil }
        workers.isFetching = true
        return .fetch(session, rings.work.address(of: rings.work.head))
    }

    /// A worker has read a descriptor. Whether it has to execute it now.
    mutating func didFetch(_ descriptor: Descriptor, for session: EngineSession) -> Bool {
        workers.isFetching = false
        // Not taken: it stays in the ring.
        guard isCurrent(session) else { return false }
        rings?.work.advanceHead()
        if descriptor.flags.contains(.fence), workers.executing > 0 {
            workers.fenced = descriptor
            return false
        }
        workers.executing += 1
        return true
    }
}
