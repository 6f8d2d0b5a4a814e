public import DMA
import Glibc
import LinuxHost
public import PCI
public import Virtio
public import VirtioIOMMU

/// A driver for the IOMMU with guest memory of its own, which does through registers and queues what a guest's driver does.
///
/// Guest memory begins at address zero. Its first mebibyte belongs to the driver:
///
///     +0x00000 request queue    +0x04000 event queue    +0x08000 readable parts    +0x10000 writable parts
///     +0x50000 event buffers    +0x60000 indirect tables
///
/// One thread uses it.
public final class IOMMUDriver {
    public typealias Function = PCIFunction<VirtioFunction<VirtioIOMMU>>

    public let function: Function
    public let space = IOAddressSpace()
    public let memory: MemoryObject
    public let requests: DriverQueue
    public let events: DriverQueue
    /// Where memory begins that the driver leaves alone.
    public static let data: UInt64 = 0x100000

    public var iommu: VirtioIOMMU { function.model.device }

    /// Has guest memory and the bus master bit; the device is not started.
    public init(
        _ options: VirtioIOMMU.Options = .init(), memoryByteCount: Int = 4 << 20,
        report: @escaping @Sendable (IOMMUEvent) -> Void = { _ in },
        reportFailure: @escaping @Sendable (VirtioFailure) -> Void = { _ in }
    ) throws {
        function = try VirtioIOMMU.makeFunction(options, report: report, reportFailure: reportFailure)
        memory = try MemoryObject.anonymous(byteCount: memoryByteCount)
        requests = DriverQueue(memory, number: 0, at: 0)
        events = DriverQueue(memory, number: 1, at: 0x4000)
        try connect()
    }

    deinit { function.detach() }

    /// The client comes with guest memory at address zero, and the guest allows accesses to it.
    public func connect() throws {
        if space.mappings().isEmpty {
            try space.map(
                .file(memory, offset: 0), at: IOVA(0), byteCount: UInt64(memory.byteCount), rights: [.read, .write])
        }
        try function.attach(to: space)
        becomeBusMaster()
    }

    public func becomeBusMaster() { write(PCIRegion.configuration, 0x04, 2, 0x0006) }
}

/// Registers.
extension IOMMUDriver {
    public func read(_ region: Int, _ offset: UInt64, _ byteCount: Int) -> UInt64 {
        var bytes = [UInt8](repeating: 0xa5, count: byteCount)
        var span = bytes.mutableSpan
        function.readRegion(region, at: offset, into: &span)
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    public func write(_ region: Int, _ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        function.writeRegion(region, at: offset, from: bytes.span)
    }

    /// The device's own configuration.
    public func configuration(_ offset: UInt64, _ byteCount: Int) -> UInt64 { read(4, 0x2000 + offset, byteCount) }

    public func configure(_ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        write(4, 0x2000 + offset, byteCount, value)
    }

    public var status: UInt64 {
        get { read(4, 0x14, 1) }
        set { write(4, 0x14, 1, newValue) }
    }

    /// Resets the device, agrees on what it offers but for `without`, and has it run.
    public func start(without: VirtioFeatures = []) {
        reset()
        status = 1
        status = 3
        for word in 0..<2 as Range<UInt64> {
            write(4, 0, 4, word)
            let offered = read(4, 4, 4)
            write(4, 8, 4, word)
            write(4, 12, 4, offered & ~(without.rawValue >> (word * 32)) & 0xffff_ffff)
        }
        status = 11
        for queue in [requests, events] {
            queue.forget()
            write(4, 0x16, 2, UInt64(queue.number))
            write(4, 0x18, 2, UInt64(DriverQueue.size))
            write(4, 0x20, 8, queue.descriptors)
            write(4, 0x28, 8, queue.available)
            write(4, 0x30, 8, queue.used)
            write(4, 0x1c, 2, 1)
        }
        status = 15
    }

    public func reset() {
        status = 0
        wait { status == 0 }
    }

    public func kick(_ queue: DriverQueue) { write(4, 0x3000 + UInt64(queue.number) * 4, 2, UInt64(queue.number)) }

    /// Looks again and again, as this driver's model does with interrupts off.
    public func wait(until isDone: () -> Bool) {
        while !isDone() { sched_yield() }
    }
}

/// Requests.
extension IOMMUDriver {
    /// What the device has done with a request.
    public struct Answer: Hashable {
        public let writtenByteCount: Int
        /// All writable bytes, `0xee` before the device gets them.
        public let bytes: [UInt8]

        /// The status behind what else the device writes; `nil` when it has written nothing.
        public var status: UInt8? { writtenByteCount >= 4 ? bytes[writtenByteCount - 4] : nil }
    }

    /// Makes requests available at once, kicks, and waits for all answers.
    public func send(_ chains: [RequestChain]) -> [Answer] {
        let heads = chains.enumerated().map { requests.lay($1, slot: $0) }
        requests.offer(heads.map(\.head))
        kick(requests)
        var answers = [Answer?](repeating: nil, count: chains.count)
        for _ in chains {
            let (head, byteCount) = waitForUsed(requests)
            guard let slot = heads.firstIndex(where: { $0.head == head }) else { continue }
            answers[slot] = Answer(writtenByteCount: byteCount, bytes: requests.bytes(of: heads[slot].writable))
        }
        return answers.compactMap { $0 }
    }

    public func waitForUsed(_ queue: DriverQueue) -> (head: Int, byteCount: Int) {
        var used: (head: Int, byteCount: Int)?
        wait {
            used = queue.nextUsed()
            return used != nil
        }
        return used ?? (0, 0)
    }

    /// The status of one request.
    public func send(_ bytes: [UInt8]) -> UInt8? { send([RequestChain(bytes)]).first?.status }

    /// The statuses of a batch.
    public func send(batch: [[UInt8]]) -> [UInt8?] { send(batch.map { RequestChain($0) }).map(\.status) }

    public func attach(_ endpoint: UInt32, to domain: UInt32, flags: UInt32 = 0) -> UInt8? {
        send(RequestBytes.attach(endpoint, to: domain, flags: flags))
    }

    public func detach(_ endpoint: UInt32, from domain: UInt32) -> UInt8? {
        send(RequestBytes.detach(endpoint, from: domain))
    }

    public func map(
        _ domain: UInt32, _ range: ClosedRange<UInt64>, to physical: UInt64, flags: UInt32 = 3
    ) -> UInt8? {
        send(RequestBytes.map(domain, range.lowerBound, range.upperBound, to: physical, flags: flags))
    }

    public func unmap(_ domain: UInt32, _ range: ClosedRange<UInt64>) -> UInt8? {
        send(RequestBytes.unmap(domain, range.lowerBound, range.upperBound))
    }

    /// Gives the device buffers for faults.
    public func offerEventBuffers(_ count: Int, byteCount: Int = 24) {
        events.offer((0..<count).map { events.layEventBuffer(slot: $0, byteCount: byteCount) })
        kick(events)
    }

    /// The next fault that the device tells of: its bytes.
    public func nextEvent() -> [UInt8] {
        let (head, byteCount) = waitForUsed(events)
        return Array(events.bytes(ofEventBuffer: head).prefix(byteCount))
    }
}
