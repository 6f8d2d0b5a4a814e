import DMA
import DeviceModel
import LinuxHost
import PCI
import Virtio
import VirtioEcho

/// A function with guest memory and a client's event counters, driven through the face that a session uses.
final class VirtioDriver<Device: VirtioDevice> {
    let function: PCIFunction<VirtioFunction<Device>>
    let space = IOAddressSpace()
    let memory: MemoryObject
    let failures: FailureLog
    /// Where guest memory begins in the address space.
    let base: UInt64 = 0x4000_0000
    private(set) var counters: [EventCounter] = []

    var device: Device { function.model.device }

    /// Bus mastering is on; no interrupts are connected.
    init(_ make: (@escaping @Sendable (VirtioFailure) -> Void) throws -> PCIFunction<VirtioFunction<Device>>) throws {
        let failures = FailureLog()
        self.failures = failures
        function = try make { failures.add($0) }
        memory = try MemoryObject.anonymous(byteCount: 1 << 20)
        try space.map(.file(memory, offset: 0), at: IOVA(base), byteCount: 1 << 20, rights: [.read, .write])
        try function.attach(to: space)
        configure(0x04, 2, 0x0006)
    }

    /// What the client does when it goes.
    func leave() { function.detach() }

    deinit { function.detach() }
}

/// What a function has reported.
final class FailureLog: Sendable {
    private let log = Monitor<[VirtioFailure]>([])

    func add(_ failure: VirtioFailure) { log.update { $0.append(failure) } }

    var all: [VirtioFailure] { log.withLock { $0 } }
}

/// Registers.
extension VirtioDriver {
    func bytes(_ region: Int, _ offset: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xa5, count: count)
        var span = bytes.mutableSpan
        function.readRegion(region, at: offset, into: &span)
        return bytes
    }

    func read(_ region: Int, _ offset: UInt64, _ byteCount: Int) -> UInt64 {
        bytes(region, offset, byteCount).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func write(_ region: Int, _ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        function.writeRegion(region, at: offset, from: bytes.span)
    }

    func configuration(_ offset: UInt64, _ byteCount: Int) -> UInt64 {
        read(PCIRegion.configuration, offset, byteCount)
    }

    func configure(_ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        write(PCIRegion.configuration, offset, byteCount, value)
    }

    func common(_ register: Common) -> UInt64 { read(4, register.offset, register.byteCount) }

    func setCommon(_ register: Common, _ value: UInt64) { write(4, register.offset, register.byteCount, value) }

    func queue(_ number: Int, _ register: Common) -> UInt64 {
        setCommon(.queueSelect, UInt64(number))
        return common(register)
    }

    func setQueue(_ number: Int, _ register: Common, _ value: UInt64) {
        setCommon(.queueSelect, UInt64(number))
        setCommon(register, value)
    }

    var status: UInt64 { common(.deviceStatus) }

    func kick(_ queue: Int) { write(4, 0x3000 + UInt64(queue) * 4, 2, UInt64(queue)) }

    var interruptStatus: UInt64 { read(4, 0x1000, 1) }

    var offeredFeatures: VirtioFeatures {
        var features: UInt64 = 0
        for word in 0..<2 as Range<UInt64> {
            setCommon(.deviceFeatureSelect, word)
            features |= common(.deviceFeature) << (word * 32)
        }
        return VirtioFeatures(rawValue: features)
    }

    func accept(_ features: VirtioFeatures) {
        for word in 0..<2 as Range<UInt64> {
            setCommon(.driverFeatureSelect, word)
            setCommon(.driverFeature, features.rawValue >> (word * 32) & 0xffff_ffff)
        }
    }
}

/// A register of the common configuration structure, as the standard's table has it.
enum Common {
    case deviceFeatureSelect, deviceFeature, driverFeatureSelect, driverFeature, configurationVector, queueCount
    case deviceStatus, configurationGeneration, queueSelect, queueSize, queueVector, queueEnable, queueNotifyOffset
    case queueDescriptors, queueDriver, queueDevice, queueNotifyData, queueReset

    var offset: UInt64 { place.0 }
    var byteCount: Int { place.1 }

    private var place: (UInt64, Int) {
        switch self {
        case .deviceFeatureSelect: (0, 4)
        case .deviceFeature: (4, 4)
        case .driverFeatureSelect: (8, 4)
        case .driverFeature: (12, 4)
        case .configurationVector: (16, 2)
        case .queueCount: (18, 2)
        case .deviceStatus: (20, 1)
        case .configurationGeneration: (21, 1)
        case .queueSelect: (22, 2)
        case .queueSize: (24, 2)
        case .queueVector: (26, 2)
        case .queueEnable: (28, 2)
        case .queueNotifyOffset: (30, 2)
        case .queueDescriptors: (32, 8)
        case .queueDriver: (40, 8)
        case .queueDevice: (48, 8)
        case .queueNotifyData: (56, 2)
        case .queueReset: (58, 2)
        }
    }
}

/// Bits of the device status.
enum DeviceStatusBit {
    static let acknowledge: UInt64 = 1
    static let driver: UInt64 = 2
    static let driverOK: UInt64 = 4
    static let featuresOK: UInt64 = 8
    static let needsReset: UInt64 = 64
    static let failed: UInt64 = 128
    static let running: UInt64 = 15
}

/// What a driver does.
extension VirtioDriver {
    /// Resets the device and agrees on features.
    func negotiate(_ features: VirtioFeatures = [.version1]) {
        reset()
        setCommon(.deviceStatus, DeviceStatusBit.acknowledge)
        setCommon(.deviceStatus, DeviceStatusBit.acknowledge | DeviceStatusBit.driver)
        accept(features)
        setCommon(.deviceStatus, DeviceStatusBit.running & ~DeviceStatusBit.driverOK)
    }

    /// Sets the device up with one queue and has it run.
    func start(_ features: VirtioFeatures = [.version1], queue number: Int = 0, size: Int = 8) -> DriverQueue<Device> {
        negotiate(features)
        let queue = DriverQueue(self, number: number, size: size, features: features)
        queue.enable()
        setCommon(.deviceStatus, DeviceStatusBit.running)
        return queue
    }

    func reset() {
        setCommon(.deviceStatus, 0)
        wait { status == 0 }
    }

    /// Switches MSI-X on, with a counter for each vector; the configuration has vector 0, queue n has n + 1.
    func connectVectors(_ count: Int) throws {
        counters = try (0..<count).map { _ in try EventCounter() }
        function.interrupts.connect(.msix, from: 0, to: counters)
        for vector in 0..<count { write(1, UInt64(vector * 16 + 12), 4, 0) }
    }

    func setVectors(queues: Int) {
        setCommon(.configurationVector, 0)
        for queue in 0..<queues { setQueue(queue, .queueVector, UInt64(queue + 1)) }
    }

    func connectLine() throws -> EventCounter {
        let counter = try EventCounter()
        function.interrupts.connect(.intx, from: 0, to: [counter])
        return counter
    }

    /// Looks again and again, as a driver without interrupts does.
    func wait(until isDone: () -> Bool) {
        let nobody = Monitor(())
        while !isDone() { _ = nobody.wait(until: .after(.microseconds(200))) { _ in nil as Void? } }
    }

    /// Waits until the worker has nothing to do on account of what came before: a queue reset is carried out after that.
    func waitForNeedsReset() { wait { status & DeviceStatusBit.needsReset != 0 } }
}

/// Guest memory by its address.
extension VirtioDriver {
    subscript(address: UInt64, count: Int) -> [UInt8] {
        get {
            let place = Int(address - base)
            return unsafe Array(memory.bytes[place..<place + count])
        }
        set {
            let place = Int(address - base)
            for (number, byte) in newValue.enumerated() { unsafe memory.bytes[place + number] = byte }
        }
    }

    func load(_ address: UInt64, _ byteCount: Int) -> UInt64 {
        self[address, byteCount].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func store(_ value: UInt64, at address: UInt64, _ byteCount: Int) {
        self[address, byteCount] = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }
}
