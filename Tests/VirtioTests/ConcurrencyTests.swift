import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing
import Virtio
import VirtioEcho
import VirtioEntropy

@Suite struct `Virtio devices under load` {
    @Test(arguments: [[.version1], [.version1, .eventIndex]] as [VirtioFeatures])
    func `kicks from several threads lose nothing`(features: VirtioFeatures) throws {
        let driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
        let queue = driver.start(features, size: 64)
        for head in 0..<64 { queue.set(head, Descriptor(address: queue.data, byteCount: 1)) }
        let function = driver.function
        let isDone = Monitor(false)
        let kickers = try (0..<3).map { _ in
            try OSThread(name: "kicker") {
                let bytes: [UInt8] = [0, 0]
                while !isDone.withLock({ $0 }) { function.writeRegion(4, at: 0x3000, from: bytes.span) }
            }
        }
        for _ in 0..<200 {
            queue.offer(Array(0..<64))
            queue.kick()
            for head in 0..<64 { #expect(queue.nextUsed().head == head) }
        }
        isDone.update { $0 = true }
        for kicker in kickers { kicker.join() }
        #expect(driver.failures.all.isEmpty)
        #expect(!driver.device.record.withLock { $0.overlapped })
    }

    /// Only the event index keeps the driver from kicking, and only a kick wakes the device: a lost one would hang.
    @Test func `a driver that kicks only when asked is never forgotten`() throws {
        let driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
        let queue = driver.start([.version1, .eventIndex], size: 16)
        for head in 0..<16 { queue.set(head, Descriptor(address: queue.data, byteCount: 1)) }
        var kicks = 0
        for round in 0..<20_000 {
            let old = queue.availableIndex
            queue.offer([round % 16])
            if SplitArithmetic.isTold(event: queue.availableEvent, old: old, new: queue.availableIndex) {
                queue.kick()
                kicks += 1
            }
            #expect(queue.nextUsed().head == round % 16)
        }
        #expect(kicks > 0)
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `resets of the function in the middle of work`() throws {
        let driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
        for _ in 0..<50 {
            driver.configure(0x04, 2, 6)
            let queue = driver.start(size: 64)
            for head in 0..<64 { queue.set(head, Descriptor(address: queue.data, byteCount: 64)) }
            queue.offer(Array(0..<64))
            queue.kick()
            driver.function.reset()
            #expect(driver.status == 0)
        }
        #expect(driver.failures.all.isEmpty, "what a reset cuts short is nobody's fault")
        #expect(driver.device.record.withLock { $0.resets } == [VirtioReset](repeating: .function, count: 50))
        #expect(!driver.device.record.withLock { $0.overlapped })
    }

    @Test func `queues take turns`() throws {
        let driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
        driver.negotiate()
        let queues = [0, 2, 3].map { DriverQueue(driver, number: $0, size: 8, features: .version1) }
        for queue in queues {
            queue.enable()
            for head in 0..<8 { queue.set(head, Descriptor(address: queue.data, byteCount: 1)) }
        }
        driver.setCommon(.deviceStatus, 15)
        for _ in 0..<100 {
            for queue in queues {
                queue.offer([0, 1])
                queue.kick()
            }
            for queue in queues { #expect(Set([queue.nextUsed().head, queue.nextUsed().head]) == [0, 1]) }
        }
    }
}

@Suite struct `The entropy device` {
    let driver: VirtioDriver<Entropy>

    init() throws {
        driver = try VirtioDriver { try Entropy.makeFunction(report: $0) }
    }

    @Test func `is the fourth kind of device, with one queue and no configuration`() {
        #expect(driver.configuration(0x00, 4) == 0x1044_1af4)
        #expect(driver.common(.queueCount) == 1)
        #expect(driver.read(4, 0x2000, 4) == 0)
    }

    @Test(arguments: [1, 64, 4096, 4097, 20000])
    func `fills buffers with bytes that differ`(byteCount: Int) {
        let queue = driver.start()
        queue.set(0, Descriptor(address: queue.data, byteCount: UInt32(byteCount), flags: Descriptor.write))
        var seen: Set<[UInt8]> = []
        for _ in 0..<8 {
            queue.offer([0])
            queue.kick()
            #expect(queue.nextUsed() == (0, byteCount))
            seen.insert(driver[queue.data, byteCount])
        }
        #expect(seen.count >= (byteCount == 1 ? 2 : 8))
        #expect(driver[queue.data + UInt64(byteCount), 64] == [UInt8](repeating: 0, count: 64))
    }

    @Test func `takes what is to be read for nothing, and gives no more than it likes`() throws {
        let queue = driver.start()
        queue.set(0, Descriptor(address: queue.data, byteCount: 16))
        queue.offer([0])
        queue.kick()
        #expect(queue.nextUsed() == (0, 0))
        queue.set(0, Descriptor(address: driver.base + 0x40000, byteCount: 0x30000, flags: Descriptor.write))
        queue.offer([0])
        queue.kick()
        #expect(queue.nextUsed() == (0, Entropy.maximumByteCount))
        #expect(driver.failures.all.isEmpty)
    }
}
