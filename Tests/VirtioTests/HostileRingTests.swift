import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing
import Virtio
import VirtioEcho

/// A driver that breaks a rule, and what the device calls it.
struct Offence: CustomTestStringConvertible, Sendable {
    let name: String
    var features: VirtioFeatures = [.version1, .indirectDescriptors]
    var error: VirtqueueError
    /// Writes the rings of a queue of 8 entries whose descriptors 0 to 7 name a readable byte each, and then offers.
    let commit: @Sendable (DriverQueue<EchoDevice>) -> Void

    var testDescription: String { name }

    init(
        _ name: String, _ error: VirtqueueError, features: VirtioFeatures = [.version1, .indirectDescriptors],
        _ commit: @escaping @Sendable (DriverQueue<EchoDevice>) -> Void
    ) {
        self.name = name
        self.error = error
        self.features = features
        self.commit = commit
    }

    /// One whose descriptors are wrong; the chain begins at descriptor 0.
    static func chain(
        _ name: String, _ error: VirtqueueError, features: VirtioFeatures = [.version1, .indirectDescriptors],
        _ write: @escaping @Sendable (DriverQueue<EchoDevice>) -> Void
    ) -> Offence {
        Offence(name, error, features: features) { queue in
            write(queue)
            queue.offer([0])
        }
    }

    /// One whose table is wrong; its single descriptor is descriptor 0.
    static func table(
        _ name: String, _ error: VirtqueueError, byteCount: UInt32 = 32,
        _ write: @escaping @Sendable (DriverQueue<EchoDevice>, UInt64) -> Void
    ) -> Offence {
        .chain(name, error) { queue in
            let table = queue.data + 0x4000
            queue.set(0, Descriptor(address: queue.data, byteCount: 1), table: table)
            queue.set(1, Descriptor(address: queue.data, byteCount: 1), table: table)
            write(queue, table)
            queue.set(0, Descriptor(address: table, byteCount: byteCount, flags: Descriptor.indirect))
        }
    }

    static let all: [Offence] = [
        Offence("an available index nine ahead of a queue of eight", .availableIndexTooFar(9)) {
            $0.setAvailableIndex(9)
        },
        Offence("an available index behind", .availableIndexTooFar(0xffff)) { $0.setAvailableIndex(0xffff) },
        Offence("an entry past the table", .noSuchDescriptor(8)) { $0.offer([8]) },
        Offence("an entry far past the table", .noSuchDescriptor(0xffff)) { $0.offer([0xffff]) },
        .chain("a chain that leaves the table", .noSuchDescriptor(8)) {
            $0.set(0, Descriptor(address: $0.data, byteCount: 1, flags: Descriptor.next, next: 8))
        },
        .chain("a descriptor that leads to itself", .endlessChain) {
            $0.set(0, Descriptor(address: $0.data, byteCount: 1, flags: Descriptor.next, next: 0))
        },
        .chain("a loop of all descriptors", .endlessChain) { queue in
            for index in 0..<8 {
                let next = UInt16((index + 1) % 8)
                queue.set(index, Descriptor(address: queue.data, byteCount: 1, flags: Descriptor.next, next: next))
            }
        },
        .chain("a descriptor of no bytes", .emptyDescriptor) { $0.set(0, Descriptor(address: $0.data, byteCount: 0)) },
        .chain("a descriptor past the top of memory", .addressOverflow) {
            $0.set(0, Descriptor(address: .max, byteCount: 2))
        },
        .chain("a buffer of 4 GiB", .bufferTooLarge) {
            $0.setChain([
                Descriptor(address: $0.data, byteCount: .max), Descriptor(address: $0.data, byteCount: 1),
            ])
        },
        .chain("a buffer of 28 GiB", .bufferTooLarge) { queue in
            queue.setChain(
                (0..<7).map { _ in
                    Descriptor(address: queue.data, byteCount: .max, flags: Descriptor.write)
                })
        },
        .chain("something to read behind something to write", .readableAfterWritable) {
            $0.setChain([
                Descriptor(address: $0.data, byteCount: 1, flags: Descriptor.write),
                Descriptor(address: $0.data + 64, byteCount: 1),
            ])
        },
        .chain("a buffer that overlaps itself by a byte", .readableOverlapsWritable) {
            $0.setChain([
                Descriptor(address: $0.data, byteCount: 1), Descriptor(address: $0.data + 64, byteCount: 16),
                Descriptor(address: $0.data + 128, byteCount: 16, flags: Descriptor.write),
                Descriptor(address: $0.data + 79, byteCount: 16, flags: Descriptor.write),
            ])
        },
        .chain("memory that is not there", .memory(.notFound, range(0x1000, 16))) {
            $0.set(0, Descriptor(address: 0x1000, byteCount: 16))
        },
        .chain("memory that ends", .memory(.notFound, range(0x400f_fff0, 32))) {
            $0.set(0, Descriptor(address: 0x400f_fff0, byteCount: 32))
        },
        .chain("an indirect table that was not agreed on", .misplacedIndirectTable, features: .version1) {
            $0.set(0, Descriptor(address: $0.data, byteCount: 16, flags: Descriptor.indirect))
        },
        .chain("a descriptor behind an indirect table", .misplacedIndirectTable) {
            $0.set(
                0,
                Descriptor(address: $0.data, byteCount: 16, flags: Descriptor.indirect | Descriptor.next, next: 1))
        },
        .table("a table in a table", .misplacedIndirectTable) { queue, table in
            queue.set(0, Descriptor(address: table, byteCount: 16, flags: Descriptor.indirect), table: table)
        },
        .table("a table of no descriptors", .indirectTableSize(0), byteCount: 0) { _, _ in },
        .table("a table of less than a descriptor", .indirectTableSize(15), byteCount: 15) { _, _ in },
        .table("a table of a descriptor and a half", .indirectTableSize(24), byteCount: 24) { _, _ in },
        .table("a table of 1025 descriptors", .indirectTableSize(1025 * 16), byteCount: 1025 * 16) { _, _ in },
        .table("a table of 4 GiB", .indirectTableSize(0xffff_fff0), byteCount: 0xffff_fff0) { _, _ in },
        .table("a chain that leaves its table", .noSuchDescriptor(2)) { queue, table in
            queue.set(0, Descriptor(address: queue.data, byteCount: 1, flags: Descriptor.next, next: 2), table: table)
        },
        .table("a loop in a table", .endlessChain) { queue, table in
            queue.set(0, Descriptor(address: queue.data, byteCount: 1, flags: Descriptor.next, next: 1), table: table)
            queue.set(1, Descriptor(address: queue.data, byteCount: 1, flags: Descriptor.next, next: 0), table: table)
        },
        .table("a descriptor of no bytes in a table", .emptyDescriptor) { queue, table in
            queue.set(0, Descriptor(address: queue.data, byteCount: 0), table: table)
        },
        .chain("a table that is not there", .memory(.notFound, range(0x1000, 32))) {
            $0.set(0, Descriptor(address: 0x1000, byteCount: 32, flags: Descriptor.indirect))
        },
        .chain("a table past the top of memory", .addressOverflow) {
            $0.set(0, Descriptor(address: .max - 15, byteCount: 32, flags: Descriptor.indirect))
        },
    ]

    private static func range(_ first: UInt64, _ byteCount: UInt64) -> IOVARange {
        IOVARange(first: IOVA(first), last: IOVA(first + byteCount - 1))
    }
}

@Suite struct `Drivers that break the rules of virtqueues` {
    let driver: VirtioDriver<EchoDevice>

    init() throws {
        driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
    }

    /// Nothing is processed until a reset, and after that everything is.
    private func expectBroken(_ queue: DriverQueue<EchoDevice>, _ error: VirtqueueError) {
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        #expect(driver.failures.all == [.queue(number: queue.number, error)])
        let used = queue.seenUsedIndex
        let calls = driver.device.record.withLock { $0.processCalls }
        queue.set(7, Descriptor(address: queue.data, byteCount: 1))
        queue.offer([7])
        queue.kick()
        driver.reset()
        #expect(queue.seenUsedIndex == used)
        #expect(driver.device.record.withLock { $0.processCalls } == calls)
        #expect(driver.start().echo([1, 2]) == [1, 2])
    }

    @Test(arguments: Offence.all)
    func `have to reset the device`(offence: Offence) throws {
        let counter = try driver.connectLine()
        let queue = driver.start(offence.features)
        for index in 0..<8 { queue.set(index, Descriptor(address: queue.data, byteCount: 1)) }
        offence.commit(queue)
        queue.kick()
        driver.waitForNeedsReset()
        #expect(counter.drain() == 1)
        #expect(driver.interruptStatus & 2 == 2)
        expectBroken(queue, offence.error)
    }

    @Test func `what was completed before the offence stays completed`() {
        let queue = driver.start()
        #expect(queue.echo([1]) == [1])
        queue.set(3, Descriptor(address: queue.data, byteCount: 0))
        queue.offer([0, 3])
        queue.kick()
        expectBroken(queue, .emptyDescriptor)
        #expect(queue.seenUsedIndex >= 1)
    }

    @Test func `a descriptor that the device has cannot be made available again`() {
        let queue = driver.start(queue: EchoDevice.reversingQueue)
        queue.set(2, Descriptor(address: queue.data, byteCount: 1))
        queue.offer([2, 2])
        queue.kick()
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        #expect(driver.failures.all == [.queue(number: EchoDevice.reversingQueue, .descriptorInUse(2))])
    }

    @Test func `more is available than was used, though never more than fits at a time`() {
        let queue = driver.start(queue: EchoDevice.gatedQueue, size: 8)
        for head in 0..<8 { queue.set(head, Descriptor(address: queue.data, byteCount: 1)) }
        driver.device.record.update { $0.isGateOpen = false }
        queue.offer([0])
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        // Eight entries more, of which the device has one still.
        queue.offer([1, 2, 3, 4, 5, 6, 7, 1])
        driver.device.record.update { $0.isGateOpen = true }
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        #expect(driver.failures.all == [.queue(number: EchoDevice.gatedQueue, .availableIndexTooFar(9))])
    }

    @Test(
        arguments: [
            (0x4000_0008, 0x4000_8000, 0x4000_9000, .misplacedRing),
            (0x4000_0000, 0x4000_8001, 0x4000_9000, .misplacedRing),
            (0x4000_0000, 0x4000_8000, 0x4000_9002, .misplacedRing),
            (.max - 15, 0x4000_8000, 0x4000_9000, .misplacedRing), (0x4000_0000, .max - 1, 0x4000_9000, .misplacedRing),
            (0x4000_0000, 0x4000_8000, .max - 3, .misplacedRing),
            (0x4000_0000, 0x4000_8000, 0x4000_0070, .overlappingRings),
            (0x4000_0000, 0x4000_8000, 0x4000_8000, .overlappingRings),
            (0x4000_0000, 0x1000, 0x4000_9000, .memory(.notFound, IOVARange(first: IOVA(0x1002), last: IOVA(0x1003)))),
        ] as [(UInt64, UInt64, UInt64, VirtqueueError)])
    func `rings where there can be none`(place: (UInt64, UInt64, UInt64, VirtqueueError)) {
        driver.negotiate()
        driver.setQueue(0, .queueSize, 8)
        driver.setQueue(0, .queueDescriptors, place.0)
        driver.setQueue(0, .queueDriver, place.1)
        driver.setQueue(0, .queueDevice, place.2)
        driver.setQueue(0, .queueEnable, 1)
        driver.setCommon(.deviceStatus, 15)
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        #expect(driver.failures.all == [.queue(number: 0, place.3)])
        #expect(driver.start().echo([4]) == [4])
    }

    @Test(arguments: [(0x8000, 0x8002), (0x0000, 0x0000), (0x9000, 0x9002)] as [(UInt64, UInt64)])
    func `memory that goes away under a ring`(page: UInt64, first: UInt64) throws {
        let (space, base) = (driver.space, driver.base)
        _ = try space.unmap(.everything)
        let (low, rest) = (page, page + 0x1000)
        if low > 0 {
            try space.map(
                .file(driver.memory, offset: 0), at: IOVA(base), byteCount: low, rights: [.read, .write])
        }
        try space.map(
            .file(driver.memory, offset: low), at: IOVA(base + low), byteCount: 0x1000, rights: [.read, .write])
        try space.map(
            .file(driver.memory, offset: rest), at: IOVA(base + rest), byteCount: 1 << 20 - rest,
            rights: [.read, .write])
        let queue = driver.start()
        #expect(queue.echo([1]) == [1])
        _ = try space.unmap(IOVARange(first: IOVA(base + low), byteCount: 0x1000))
        queue.offer([0])
        queue.kick()
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        guard case .queue(0, .memory(.notFound, let range))? = driver.failures.all.first else {
            Issue.record("\(driver.failures.all)")
            return
        }
        #expect((base + low...base + low + 0xfff).contains(range.first.rawValue))
    }

    @Test func `rings that the device may not write`() throws {
        _ = try driver.space.unmap(.everything)
        try driver.space.map(.file(driver.memory, offset: 0), at: IOVA(driver.base), byteCount: 1 << 20, rights: .read)
        let queue = driver.start()
        queue.set(0, Descriptor(address: queue.data, byteCount: 1))
        queue.offer([0])
        queue.kick()
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        guard case .queue(0, .memory(.notPermitted, _))? = driver.failures.all.first else {
            Issue.record("\(driver.failures.all)")
            return
        }
    }

    @Test func `a driver that takes the bus away from a device that works hears of it afterwards`() {
        let queue = driver.start(queue: EchoDevice.gatedQueue)
        queue.set(0, Descriptor(address: queue.data, byteCount: 1))
        driver.device.record.update { $0.isGateOpen = false }
        queue.offer([0])
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        driver.configure(0x04, 2, 2)
        driver.device.record.update { $0.isGateOpen = true }
        driver.device.record.wait { $0.isWorking ? nil : () }
        #expect(driver.status == 15)
        #expect(driver.failures.all.isEmpty)
        driver.configure(0x04, 2, 6)
        driver.waitForNeedsReset()
        driver.wait { !driver.failures.all.isEmpty }
        guard case .queue(EchoDevice.gatedQueue, .memory(.notFound, _))? = driver.failures.all.first else {
            Issue.record("\(driver.failures.all)")
            return
        }
        #expect(driver.start().echo([6]) == [6])
    }

    @Test func `a client that leaves while the device works`() throws {
        let queue = driver.start(queue: EchoDevice.gatedQueue)
        queue.set(0, Descriptor(address: queue.data, byteCount: 1))
        driver.device.record.update { $0.isGateOpen = false }
        queue.offer([0])
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        driver.leave()
        driver.device.record.update { $0.isGateOpen = true }
        driver.function.reset()
        #expect(driver.device.record.withLock { $0.resets } == [.function])
        try driver.function.attach(to: driver.space)
        driver.configure(0x04, 2, 6)
        #expect(driver.start().echo([5]) == [5])
    }
}
