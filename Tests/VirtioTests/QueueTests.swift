import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing
import VirtioEcho

@testable import Virtio

@Suite struct `Virtqueues` {
    let driver: VirtioDriver<EchoDevice>

    init() throws {
        driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
    }

    private let text = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }

    @Test(arguments: [1, 2, 8, 256])
    func `a queue of any size carries buffers round and round`(size: Int) {
        let queue = driver.start(size: size)
        // A queue of one entry has room for a table only.
        let isSmall = size == 1
        if isSmall { return }
        for round in 0..<(size * 2 + 3) {
            #expect(queue.echo([UInt8(truncatingIfNeeded: round), 7]) == [UInt8(truncatingIfNeeded: round), 7])
        }
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `a queue of one entry carries tables`() {
        let queue = driver.start([.version1, .indirectDescriptors], size: 1)
        let table = queue.data + 0x4000
        for round in 0..<5 as Range<UInt8> {
            driver[queue.data, 3] = [round, 2, 3]
            queue.setChain(
                [
                    Descriptor(address: queue.data, byteCount: 3),
                    Descriptor(address: queue.data + 64, byteCount: 8, flags: Descriptor.write),
                ], table: table)
            queue.set(0, Descriptor(address: table, byteCount: 32, flags: Descriptor.indirect))
            queue.offer([0])
            queue.kick()
            #expect(queue.nextUsed() == (0, 3))
            #expect(driver[queue.data + 64, 3] == [round, 2, 3])
        }
    }

    /// Every way to cut a text into two readable and two writable pieces, some of them at odd addresses.
    @Test func `how bytes are split over descriptors makes no difference`() {
        let queue = driver.start(size: 16)
        let count = 40
        let bytes = Array(text[..<count])
        for cut in 1..<count {
            driver[queue.data, cut] = Array(bytes[..<cut])
            driver[queue.data + 0x101, count - cut] = Array(bytes[cut...])
            let other = count - cut
            queue.setChain([
                Descriptor(address: queue.data, byteCount: UInt32(cut)),
                Descriptor(address: queue.data + 0x101, byteCount: UInt32(count - cut)),
                Descriptor(address: queue.data + 0x200, byteCount: UInt32(other), flags: Descriptor.write),
                Descriptor(address: queue.data + 0x301, byteCount: UInt32(cut), flags: Descriptor.write),
            ])
            queue.offer([0])
            queue.kick()
            #expect(queue.nextUsed() == (0, count))
            #expect(driver[queue.data + 0x200, other] + driver[queue.data + 0x301, cut] == bytes)
        }
    }

    @Test(arguments: [1, 5, 40, 256])
    func `a chain may have as many descriptors as the queue`(length: Int) {
        let queue = driver.start(size: 256)
        driver[queue.data, length] = Array(text[..<length])
        var chain = (0..<length).map { Descriptor(address: queue.data + UInt64($0), byteCount: 1) }
        if length > 1 {
            chain[length - 1] = Descriptor(
                address: queue.data + 0x1000, byteCount: 1000, flags: Descriptor.write)
        }
        queue.setChain(chain)
        queue.offer([0])
        queue.kick()
        #expect(queue.nextUsed() == (0, length > 1 ? length - 1 : 0))
        if length > 1 { #expect(driver[queue.data + 0x1000, length - 1] == Array(text[..<(length - 1)])) }
        #expect(driver.failures.all.isEmpty)
    }

    @Test(arguments: [1, 2, 3, 1000, 1024])
    func `a table may have more descriptors than the queue`(length: Int) {
        let queue = driver.start([.version1, .indirectDescriptors], size: 4)
        let table = queue.data + 0x4000
        driver[queue.data, 1000] = text
        var chain = (0..<length).map { Descriptor(address: queue.data + UInt64($0 % 1000), byteCount: 1) }
        chain[length - 1] = Descriptor(address: queue.data + 0x1000, byteCount: 2000, flags: Descriptor.write)
        queue.setChain(chain, table: table)
        // That the descriptor of the table is called writable means nothing.
        let flags = Descriptor.indirect | (length % 2 == 0 ? Descriptor.write : 0)
        queue.set(2, Descriptor(address: table, byteCount: UInt32(length * 16), flags: flags))
        queue.offer([2])
        queue.kick()
        #expect(queue.nextUsed() == (2, length - 1))
        #expect(driver[queue.data + 0x1000, min(length - 1, 1000)] == Array(text.prefix(length - 1)))
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `a table may follow ordinary descriptors, and may be in any order`() {
        let queue = driver.start([.version1, .indirectDescriptors], size: 8)
        let table = queue.data + 0x4000
        driver[queue.data, 6] = [1, 2, 3, 4, 5, 6]
        queue.set(5, Descriptor(address: queue.data, byteCount: 2, flags: Descriptor.next, next: 3))
        queue.set(3, Descriptor(address: table, byteCount: 48, flags: Descriptor.indirect))
        queue.set(0, Descriptor(address: queue.data + 2, byteCount: 2, flags: Descriptor.next, next: 2), table: table)
        queue.set(2, Descriptor(address: queue.data + 4, byteCount: 2, flags: Descriptor.next, next: 1), table: table)
        queue.set(1, Descriptor(address: queue.data + 64, byteCount: 6, flags: Descriptor.write), table: table)
        queue.offer([5])
        queue.kick()
        #expect(queue.nextUsed() == (5, 6))
        #expect(driver[queue.data + 64, 6] == [1, 2, 3, 4, 5, 6])
    }

    @Test func `what is read twice or written twice is the driver's affair`() {
        let queue = driver.start(size: 8)
        driver[queue.data, 4] = [1, 2, 3, 4]
        queue.setChain([
            Descriptor(address: queue.data, byteCount: 4), Descriptor(address: queue.data, byteCount: 4),
            Descriptor(address: queue.data + 64, byteCount: 4, flags: Descriptor.write),
            Descriptor(address: queue.data + 64, byteCount: 4, flags: Descriptor.write),
        ])
        queue.offer([0])
        queue.kick()
        #expect(queue.nextUsed() == (0, 8))
        #expect(driver[queue.data + 64, 4] == [1, 2, 3, 4])
    }

    @Test func `buffers that are available before the driver has finished are taken up`() {
        driver.negotiate()
        let queue = DriverQueue(driver, number: 0, size: 8, features: .version1)
        queue.enable()
        queue.set(3, Descriptor(address: queue.data, byteCount: 1))
        queue.offer([3])
        queue.kick()
        #expect(queue.seenUsedIndex == 0)
        driver.setCommon(.deviceStatus, 15)
        #expect(queue.nextUsed() == (3, 0))
    }

    @Test func `a batch is completed in the device's order, at once`() {
        let queue = driver.start(queue: EchoDevice.reversingQueue, size: 16)
        for head in 0..<12 { queue.set(head, Descriptor(address: queue.data, byteCount: 1)) }
        for _ in 0..<5 {
            queue.offer(Array(0..<12))
            queue.kick()
            #expect((0..<12).map { _ in queue.nextUsed().head } == (0..<12).reversed())
        }
    }

    @Test func `events go into the buffers that the driver has left`() {
        let queue = driver.start([.version1, .eventIndex], queue: EchoDevice.eventQueue, size: 8)
        for head in 0..<8 {
            queue.set(head, Descriptor(address: queue.data + UInt64(head * 16), byteCount: 16, flags: Descriptor.write))
        }
        queue.offer(Array(0..<4))
        queue.kick()
        driver.device.send([1, 2, 3])
        #expect(queue.nextUsed() == (0, 3))
        #expect(driver[queue.data, 3] == [1, 2, 3])
        driver.device.send([UInt8](repeating: 9, count: 17))
        driver.device.send([4])
        #expect(queue.nextUsed() == (1, 1), "a buffer that is too small was left where it was")
        for number in 0..<6 as Range<UInt8> { driver.device.send([number]) }
        #expect((0..<2).map { _ in queue.nextUsed().head } == [2, 3])
        queue.offer([4, 5, 6, 7])
        queue.kick()
        #expect((0..<4).map { _ in queue.nextUsed().head } == [4, 5, 6, 7])
        #expect(driver[queue.data + 7 * 16, 1] == [5])
    }

    @Test(arguments: [[.version1], [.version1, .eventIndex, .indirectDescriptors]] as [VirtioFeatures])
    func `memory that only messages reach is reached by messages`(features: VirtioFeatures) throws {
        _ = try driver.space.unmap(.everything)
        let remote = MessageMemory(of: driver.memory, from: driver.base)
        try driver.space.map(.remote(remote), at: IOVA(driver.base), byteCount: 1 << 20, rights: [.read, .write])
        let queue = driver.start(features)
        for round in 0..<20 as Range<UInt8> { #expect(queue.echo([round, 2, 3]) == [round, 2, 3]) }
        if features.contains(.indirectDescriptors) {
            queue.set(4, Descriptor(address: queue.data, byteCount: 3), table: queue.data + 0x4000)
            queue.set(
                0, Descriptor(address: queue.data + 0x4040, byteCount: 16, flags: Descriptor.indirect))
            queue.offer([0])
            queue.kick()
            #expect(queue.nextUsed() == (0, 0))
        }
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `nothing is touched before the driver allows it`() {
        driver.configure(0x04, 2, 2)
        let queue = driver.start()
        queue.set(0, Descriptor(address: queue.data, byteCount: 1))
        queue.offer([0])
        queue.kick()
        #expect(queue.seenUsedIndex == 0)
        #expect(driver.status == 15)
        driver.configure(0x04, 2, 6)
        #expect(queue.nextUsed() == (0, 0))
        #expect(driver.failures.all.isEmpty)
    }
}

@Suite struct `Notifications of virtqueues` {
    let driver: VirtioDriver<EchoDevice>

    init() throws {
        driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
        try driver.connectVectors(5)
    }

    private func start(_ features: VirtioFeatures, queue number: Int = 0, size: Int = 8) -> DriverQueue<EchoDevice> {
        driver.negotiate(features)
        driver.setVectors(queues: 4)
        let queue = DriverQueue(driver, number: number, size: size, features: features)
        queue.enable()
        for head in 0..<size { queue.set(head, Descriptor(address: queue.data, byteCount: 1)) }
        driver.setCommon(.deviceStatus, 15)
        return queue
    }

    /// Has the worker look at a queue, so that whatever it did before is done.
    private func settle(_ number: Int = 0) {
        let calls = driver.device.record.withLock { $0.processCalls }
        driver.device.port.schedule(number)
        driver.wait { driver.device.record.withLock { $0.processCalls } > calls }
        let again = driver.device.record.withLock { $0.processCalls }
        driver.device.port.schedule(number)
        driver.wait { driver.device.record.withLock { $0.processCalls } > again }
    }

    @Test func `each batch interrupts once, on the queue's vector`() {
        let queue = start([.version1])
        queue.offer([0, 1, 2])
        queue.kick()
        for head in 0..<3 { #expect(queue.nextUsed().head == head) }
        settle()
        #expect(driver.counters.map { $0.drain() } == [0, 1, 0, 0, 0])
        #expect(driver.interruptStatus == 0, "only the line needs the status")
    }

    @Test func `a driver that wants no interrupts gets none`() {
        let queue = start([.version1])
        queue.availableFlags = 1
        queue.offer([0])
        queue.kick()
        _ = queue.nextUsed()
        settle()
        #expect(driver.counters[1].drain() == 0)
        queue.availableFlags = 0
        queue.offer([1])
        queue.kick()
        _ = queue.nextUsed()
        settle()
        #expect(driver.counters[1].drain() == 1)
    }

    @Test func `with an event index the driver is interrupted at the entry that it named`() {
        let queue = start([.version1, .eventIndex])
        queue.availableFlags = 1  // Of no meaning now.
        queue.usedEvent = 2
        for (number, isTold) in [(0, false), (1, false), (2, true), (3, false), (4, false)] {
            queue.offer([number])
            queue.kick()
            _ = queue.nextUsed()
            settle()
            #expect(driver.counters[1].drain() == (isTold ? 1 : 0), "entry \(number)")
        }
    }

    @Test func `the device says whether it wants to be told`() {
        let queue = start([.version1], queue: EchoDevice.gatedQueue)
        settle(queue.number)
        #expect(queue.usedFlags == 0)
        driver.device.record.update { $0.isGateOpen = false }
        queue.offer([0])
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        #expect(queue.usedFlags == 1, "it works and will look by itself")
        queue.offer([1])
        driver.device.record.update { $0.isGateOpen = true }
        #expect(queue.nextUsed().head == 0)
        #expect(queue.nextUsed().head == 1, "without a kick")
        settle(queue.number)
        #expect(queue.usedFlags == 0)
    }

    @Test func `with an event index the device names the entry from which on it wants to be told`() {
        let queue = start([.version1, .eventIndex], queue: EchoDevice.gatedQueue)
        settle(queue.number)
        #expect(queue.availableEvent == 0)
        driver.device.record.update { $0.isGateOpen = false }
        queue.offer([0])
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        #expect(queue.availableEvent == 0)
        queue.offer([1, 2])
        driver.device.record.update { $0.isGateOpen = true }
        for head in 0..<3 { #expect(queue.nextUsed().head == head) }
        settle(queue.number)
        #expect(queue.availableEvent == 3)
        #expect(queue.usedFlags == 0)
    }

    /// 65 536 buffers and some more, so that all indices wrap; the driver asks to be told of each batch's last entry.
    @Test func `indices wrap, and events with them`() {
        let queue = start([.version1, .eventIndex], size: 256)
        let heads = Array(0..<200)
        var told: UInt64 = 0
        for _ in 0..<340 {
            queue.usedEvent = queue.usedIndex &+ 199
            queue.offer(heads)
            if SplitArithmetic.isTold(
                event: queue.availableEvent, old: queue.availableIndex &- 200, new: queue.availableIndex)
            {
                queue.kick()
            }
            for head in heads { #expect(queue.nextUsed().head == head) }
            driver.wait {
                told += driver.counters[1].drain()
                return told > 0
            }
            settle()
            told += driver.counters[1].drain()
            #expect(told == 1)
            told = 0
            #expect(queue.availableEvent == queue.availableIndex)
        }
        #expect(queue.availableIndex == UInt16(truncatingIfNeeded: 340 * 200))
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `without a vector nobody is told, and nothing breaks`() {
        let queue = start([.version1])
        driver.setQueue(0, .queueVector, 0xffff)
        queue.offer([0])
        queue.kick()
        #expect(queue.nextUsed().head == 0)
        settle()
        #expect(driver.counters.allSatisfy { $0.drain() == 0 })
    }
}

/// Which entries events mean, by counting them one by one.
enum SplitArithmetic {
    static func isTold(event: UInt16, old: UInt16, new: UInt16) -> Bool {
        var index = old
        while index != new {
            if index == event { return true }
            index &+= 1
        }
        return false
    }
}

@Suite struct `The arithmetic of event indices` {
    @Test(arguments: [0, 1, 100, 0x7ff0, 0x7fff, 0x8000, 0xfff0, 0xfffe, 0xffff] as [UInt16])
    func `an event lies in a step exactly when counting meets it`(old: UInt16) {
        for count in 0...40 as ClosedRange<UInt16> {
            for distance in 0...80 as ClosedRange<UInt16> {
                let event = old &+ distance &- 20
                #expect(
                    SplitRing.passes(event: event, from: old, to: old &+ count)
                        == SplitArithmetic.isTold(event: event, old: old, new: old &+ count))
            }
        }
    }
}

/// Guest memory that is reached by messages, which come to the same bytes as the driver's.
private final class MessageMemory: RemoteMemory {
    private let memory: MemoryObject
    private let base: UInt64

    init(of memory: MemoryObject, from base: UInt64) {
        self.memory = memory
        self.base = base
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        let place = Int(iova.rawValue - base)
        unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory.bytes[place..<place + buffer.count]))
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        let place = Int(iova.rawValue - base)
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory.bytes[place..<place + bytes.count]).copyMemory(
            from: bytes)
    }
}
