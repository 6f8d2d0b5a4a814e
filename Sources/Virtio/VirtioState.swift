import PCI

/// What the connection's thread and the worker share: registers, and what the worker is to do.
struct VirtioState {
    let description: VirtioDescription
    private(set) var registers = Registers()
    private(set) var queues: [QueueState]
    var work = Work()

    /// Everything that a reset rebuilds, but for the queues.
    struct Registers {
        /// Selectors are kept here; the other registers are filled in for every access.
        var bank = RegisterBank(CommonRegister.map)
        var status: DeviceStatus = []
        var driverFeatures: UInt64 = 0
        var configurationVector = VirtioState.noVector
        var interruptStatus: InterruptStatus = []
        /// The guest memory there was when the driver had the device run: what is begun before a reset never sees what is
        /// there after it.
        var memory: GuestMemory?
    }

    struct QueueState {
        var setup: QueueSetup
        var vector = VirtioState.noVector
        var isEnabled = false
        /// Whether the driver waits for the worker to let go of it.
        var isResetting = false
    }

    /// What no reset rebuilds.
    struct Work {
        /// Counts resets: what was begun under another number is void.
        var epoch = 0
        var configurationGeneration: UInt8 = 0
        /// By queue: somebody wants it to be looked at.
        var kicked: UInt64 = 0
        /// Whether the device is to be started.
        var isStarting = false
        /// Whether the device was started since it was last reset.
        var isStarted = false
        /// The reset that the worker has yet to carry out, and whether it is at one.
        var reset: VirtioReset?
        var isResetting = false
        /// What the status was before, which the driver reads until the device is reset.
        var statusBeforeReset: DeviceStatus = []
        /// The queue that was processed last, for the next one to have its turn.
        var lastQueue = 0
        /// Whether the worker is asleep, so that it has to be woken.
        var isWaiting = false
        var isEnding = false
    }

    /// "Mapped to no vector". `VIRTIO_MSI_NO_VECTOR`
    static let noVector: UInt16 = 0xffff

    init(_ description: VirtioDescription) {
        self.description = description
        queues = Self.initialQueues(description)
    }

    private static func initialQueues(_ description: VirtioDescription) -> [QueueState] {
        description.queueSizes.map { QueueState(setup: QueueSetup(size: $0)) }
    }

    var features: VirtioFeatures { VirtioFeatures(rawValue: registers.driverFeatures) }

    /// Whether the driver has the device work.
    var isLive: Bool {
        registers.status.contains(.driverOK) && registers.status.isDisjoint(with: [.needsReset, .failed])
    }

    var isResetting: Bool { work.reset != nil || work.isResetting }
}

/// The interrupt status register. Virtio 1.2, 4.1.4.5
struct InterruptStatus: OptionSet {
    let rawValue: UInt8

    static let queue = InterruptStatus(rawValue: 1)
    static let configuration = InterruptStatus(rawValue: 2)
}

/// The common configuration structure.
extension VirtioState {
    mutating func readCommon(at offset: Int, byteCount: Int) -> UInt64 {
        var bank = registers.bank
        let value = bank.read(at: offset, byteCount: byteCount, live: value)
        registers.bank = bank
        return value
    }

    /// - Parameter memory: what the function has of guest memory.
    mutating func writeCommon(_ value: UInt64, at offset: Int, byteCount: Int, _ memory: GuestMemory?) {
        let wasRunning = registers.status.contains(.driverOK)
        // A write to a part of a register leaves the rest of it as it was.
        for register in CommonRegister.map.declarations where register.hooks.contains([.read, .write]) {
            registers.bank[register.id] = self.value(of: register.id)
        }
        for write in registers.bank.write(value, at: offset, byteCount: byteCount) { act(on: write) }
        if !wasRunning, registers.status.contains(.driverOK) { registers.memory = memory }
    }

    /// The value of a register that is filled in.
    private func value(of register: CommonRegister) -> UInt64 {
        switch register {
        case .deviceFeature: word(of: description.offeredFeatures.rawValue, selectedBy: .deviceFeatureSelect)
        case .driverFeature: word(of: registers.driverFeatures, selectedBy: .driverFeatureSelect)
        case .configurationVector: UInt64(registers.configurationVector)
        case .queueCount: UInt64(queues.count)
        case .deviceStatus: UInt64(shownStatus.rawValue)
        case .configurationGeneration: UInt64(work.configurationGeneration)
        case .deviceFeatureSelect, .driverFeatureSelect, .queueSelect: registers.bank[register]
        case .queueSize, .queueVector, .queueEnable, .queueNotifyOffset, .queueDescriptors, .queueDriver,
            .queueDevice, .queueNotifyData, .queueReset:
            selectedQueue.map { value(of: register, queue: $0) } ?? 0
        }
    }

    private func value(of register: CommonRegister, queue number: Int) -> UInt64 {
        let queue = queues[number]
        return switch register {
        case .queueSize: UInt64(queue.setup.size)
        case .queueVector: UInt64(queue.vector)
        case .queueEnable: queue.isEnabled ? 1 : 0
        case .queueNotifyOffset, .queueNotifyData: UInt64(number)
        case .queueDescriptors: queue.setup.descriptors
        case .queueDriver: queue.setup.driver
        case .queueDevice: queue.setup.device
        case .queueReset: queue.isResetting ? 1 : 0
        default: 0
        }
    }

    /// 32 feature bits; there are none past the first 64.
    private func word(of features: UInt64, selectedBy selector: CommonRegister) -> UInt64 {
        switch registers.bank[selector] {
        case 0: features & 0xffff_ffff
        case 1: features >> 32
        default: 0
        }
    }

    private var selectedQueue: Int? {
        let number = Int(registers.bank[.queueSelect])
        return number < queues.count ? number : nil
    }

    /// Until the device is reset the driver sees that it is not, unless it goes on without waiting, as some firmware does.
    private var shownStatus: DeviceStatus {
        registers.status.isEmpty && isResetting ? work.statusBeforeReset : registers.status
    }
}

/// What the driver does by writing.
extension VirtioState {
    private mutating func act(on write: RegisterWrite<CommonRegister>) {
        switch write.id {
        case .deviceStatus: setStatus(DeviceStatus(rawValue: UInt8(truncatingIfNeeded: write.written)))
        case .driverFeature: accept(write.new)
        case .configurationVector: registers.configurationVector = vector(write.new)
        default:
            guard let number = selectedQueue else { return }
            act(on: write, queue: number)
        }
    }

    private mutating func act(on write: RegisterWrite<CommonRegister>, queue number: Int) {
        if write.id == .queueVector {
            queues[number].vector = vector(write.new)
            return
        }
        if write.id == .queueReset {
            if write.new & 1 != 0 { resetQueue(number) }
            return
        }
        // What an enabled queue is made of holds still until a reset.
        guard !queues[number].isEnabled, !queues[number].isResetting else { return }
        switch write.id {
        case .queueSize:
            let size = Int(write.new)
            if size.nonzeroBitCount == 1, size <= description.queueSizes[number] { queues[number].setup.size = size }
        case .queueDescriptors: queues[number].setup.descriptors = write.new
        case .queueDriver: queues[number].setup.driver = write.new
        case .queueDevice: queues[number].setup.device = write.new
        case .queueEnable:
            queues[number].isEnabled = write.new == 1
            // A queue that comes late may have buffers in it already.
            if queues[number].isEnabled, isLive { work.kicked |= 1 << UInt64(number) }
        default: break
        }
    }

    /// A vector of the table, or none: the driver reads back which it was.
    private func vector(_ value: UInt64) -> UInt16 {
        value < UInt64(description.vectorCount) ? UInt16(value) : Self.noVector
    }

    private mutating func accept(_ word: UInt64) {
        guard !registers.status.contains(.featuresOK) else { return }
        switch registers.bank[.driverFeatureSelect] {
        case 0: registers.driverFeatures = registers.driverFeatures & ~0xffff_ffff | word
        case 1: registers.driverFeatures = registers.driverFeatures & 0xffff_ffff | word << 32
        default: break
        }
    }

    private mutating func setStatus(_ written: DeviceStatus) {
        guard written.rawValue != 0 else {
            resetByDriver()
            return
        }
        // Bits are only ever added, and only in their order.
        var added = written.intersection(.ofDriver).subtracting(registers.status)
        if added.contains(.featuresOK), !mayAgree { added.remove(.featuresOK) }
        if !registers.status.union(added).contains(.featuresOK) { added.remove(.driverOK) }
        registers.status.formUnion(added)
        if added.contains(.driverOK) {
            work.isStarting = true
            work.kicked = 0
            for number in queues.indices where queues[number].isEnabled { work.kicked |= 1 << UInt64(number) }
        }
    }

    /// Whether the features are some that were offered, and the one without which nothing works is among them.
    private var mayAgree: Bool { features.isSubset(of: description.offeredFeatures) && features.contains(.version1) }
}

/// Resets.
extension VirtioState {
    /// The driver sees its zero when the device is reset. One that was never started needs none.
    private mutating func resetByDriver() {
        if !isResetting { work.statusBeforeReset = registers.status }
        rebuild()
        if work.isStarted, work.reset == nil { work.reset = .driver }
    }

    /// Nothing is wanted any more.
    mutating func end() {
        rebuild()
        work.isEnding = true
    }

    mutating func resetByFunction() {
        if !isResetting { work.statusBeforeReset = registers.status }
        rebuild()
        work.reset = .function
    }

    private mutating func rebuild() {
        registers = Registers()
        queues = Self.initialQueues(description)
        work.epoch += 1
        work.kicked = 0
        work.isStarting = false
    }

    private mutating func resetQueue(_ number: Int) {
        guard features.contains(.ringReset), registers.status.contains(.featuresOK), queues[number].isEnabled else {
            return
        }
        queues[number].isResetting = true
        // A start that a reset is going to end is none.
        let isStarted = work.isStarted && work.reset == nil
        if !isStarted && !work.isStarting { finishReset(ofQueue: number) }
    }

    /// The worker has let go of a queue, which is as after power-on.
    mutating func finishReset(ofQueue number: Int) {
        guard queues[number].isResetting else { return }
        queues[number] = QueueState(setup: QueueSetup(size: description.queueSizes[number]))
    }
}

/// What the device does.
extension VirtioState {
    /// Whether the driver is to be interrupted because the device gives up.
    mutating func needReset() -> Bool {
        guard registers.status.contains(.driverOK), !registers.status.contains(.needsReset) else { return false }
        registers.status.insert(.needsReset)
        return true
    }

    mutating func raise(_ status: InterruptStatus) { registers.interruptStatus.formUnion(status) }

    mutating func takeInterruptStatus() -> UInt8 {
        defer { registers.interruptStatus = [] }
        return registers.interruptStatus.rawValue
    }
}
