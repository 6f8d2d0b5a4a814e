import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing
import Virtio
import VirtioEcho

@Suite struct `Resets of a virtio device` {
    let driver: VirtioDriver<EchoDevice>

    init() throws {
        driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
    }

    private var resets: [VirtioReset] { driver.device.record.withLock { $0.resets } }

    @Test func `the driver's reset brings the registers back and keeps the configuration`() {
        let queue = driver.start([.version1, .eventIndex])
        #expect(queue.echo([1, 2]) == [1, 2])
        driver.write(4, 0x2000, 4, 0x1234)
        driver.reset()
        #expect(resets == [.driver])
        #expect(driver.read(4, 0x2000, 4) == 0x1234)
        driver.setCommon(.driverFeatureSelect, 1)
        #expect(driver.common(.driverFeature) == 0)
        #expect(driver.queue(0, .queueEnable) == 0)
        #expect(driver.start().echo([3]) == [3])
    }

    @Test func `a device that was never started need not be reset`() {
        driver.reset()
        driver.negotiate()
        driver.reset()
        #expect(resets.isEmpty)
    }

    @Test func `a reset of the function waits for the device and reaches its configuration`() {
        let queue = driver.start()
        #expect(queue.echo([1, 2]) == [1, 2])
        driver.write(4, 0x2000, 4, 0x1234)
        driver.function.reset()
        #expect(resets == [.function])
        #expect(driver.status == 0)
        #expect(driver.read(4, 0x2000, 4) == 0)
        driver.configure(0x04, 2, 6)
        #expect(driver.start().echo([3]) == [3])
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `a function-level reset does the same`() throws {
        #expect(driver.start().echo([1]) == [1])
        var place = driver.configuration(0x34, 1)
        while driver.configuration(place, 1) != 0x10 { place = driver.configuration(place + 1, 1) }
        driver.configure(place + 8, 2, 1 << 15)
        #expect(resets == [.function])
        #expect(driver.status == 0)
        driver.configure(0x04, 2, 6)
        #expect(driver.start().echo([3]) == [3])
    }

    @Test func `the status is zero only when the device has let go`() {
        let queue = driver.start(queue: EchoDevice.gatedQueue)
        driver.device.record.update { $0.isGateOpen = false }
        queue.setChain([Descriptor(address: queue.data, byteCount: 4)])
        queue.offer([0])
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        driver.setCommon(.deviceStatus, 0)
        #expect(driver.status == 15)
        #expect(resets.isEmpty)
        driver.device.record.update { $0.isGateOpen = true }
        driver.wait { driver.status == 0 }
        #expect(resets == [.driver])
        #expect(queue.seenUsedIndex == 0, "what a reset overtook is not completed")
        #expect(driver.failures.all.isEmpty)
    }

    @Test func `a device is given nothing more once its driver resets it`() {
        let queue = driver.start(queue: EchoDevice.gatedQueue)
        driver.device.record.update { $0.isGateOpen = false }
        for head in 0..<8 { queue.set(head, Descriptor(address: queue.data, byteCount: 4)) }
        queue.offer(Array(0..<8))
        queue.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        driver.setCommon(.deviceStatus, 0)
        driver.device.record.update { $0.isGateOpen = true }
        driver.wait { driver.status == 0 }
        #expect(driver.device.record.withLock { $0.completed } == 1)
    }

    @Test func `firmware that does not wait for the zero loses nothing`() {
        #expect(driver.start().echo([1]) == [1])
        driver.device.record.update { $0.mayReset = false }
        driver.setCommon(.deviceStatus, 0)
        driver.setCommon(.deviceStatus, 3)
        driver.accept([.version1])
        driver.setCommon(.deviceStatus, 11)
        #expect(driver.status == 11)
        let queue = DriverQueue(driver, number: 0, size: 8, features: .version1)
        queue.enable()
        driver.setCommon(.deviceStatus, 15)
        queue.setChain([
            Descriptor(address: queue.data, byteCount: 4),
            Descriptor(address: queue.data + 64, byteCount: 4, flags: Descriptor.write),
        ])
        queue.offer([0])
        queue.kick()
        driver.device.record.update { $0.mayReset = true }
        #expect(queue.nextUsed() == (0, 4))
        #expect(resets == [.driver])
    }

    @Test func `a device that does not let go is reported, and starts nothing before it has`() {
        #expect(driver.start().echo([1]) == [1])
        driver.device.record.update { $0.mayReset = false }
        driver.function.reset()
        #expect(driver.failures.all == [.slowReset])
        driver.configure(0x04, 2, 6)
        driver.setCommon(.deviceStatus, 3)
        driver.accept([.version1])
        driver.setCommon(.deviceStatus, 11)
        driver.setCommon(.deviceStatus, 15)
        #expect(driver.device.record.withLock { $0.starts.count } == 1)
        driver.device.record.update { $0.mayReset = true }
        driver.device.record.wait { $0.starts.count == 2 ? () : nil }
    }

    @Test func `one queue can be reset and given back with another size`() {
        let queue = driver.start([.version1, .ringReset], size: 64)
        #expect(queue.echo([1, 2]) == [1, 2])
        driver.setQueue(0, .queueReset, 1)
        driver.wait { driver.queue(0, .queueReset) == 0 && driver.queue(0, .queueEnable) == 0 }
        #expect(driver.device.record.withLock { $0.queueResets } == [0])
        #expect(driver.queue(0, .queueSize) == 256)
        #expect(driver.status == 15)
        let smaller = DriverQueue(driver, number: 0, size: 4, features: [.version1, .ringReset])
        smaller.enable()
        #expect(smaller.echo([3]) == [3])
        #expect(resets.isEmpty)
    }

    @Test func `a device that waits for its reset hears of no queue before it is started again`() {
        #expect(driver.start([.version1, .ringReset]).echo([1]) == [1])
        driver.device.record.update { $0.mayReset = false }
        driver.device.record.update { $0.isGateOpen = false }
        let gated = DriverQueue(driver, number: EchoDevice.gatedQueue, size: 8, features: [.version1, .ringReset])
        gated.enable()
        gated.setChain([Descriptor(address: gated.data, byteCount: 4)])
        gated.offer([0])
        gated.kick()
        driver.device.record.wait { $0.isAtGate ? () : nil }
        driver.setCommon(.deviceStatus, 0)
        driver.setCommon(.deviceStatus, 3)
        driver.accept([.version1, .ringReset])
        driver.setCommon(.deviceStatus, 11)
        driver.setQueue(0, .queueEnable, 1)
        driver.setQueue(0, .queueReset, 1)
        driver.device.record.update { ($0.isGateOpen, $0.mayReset) = (true, true) }
        driver.wait { driver.queue(0, .queueReset) == 0 }
        #expect(driver.queue(0, .queueEnable) == 0)
        driver.setCommon(.deviceStatus, 15)
        driver.device.record.wait { $0.starts.count == 2 ? () : nil }
        #expect(resets == [.driver])
        #expect(driver.device.record.withLock { $0.queueResets }.isEmpty)
    }

    @Test func `a queue is reset only where that was agreed on`() {
        let queue = driver.start([.version1])
        driver.setQueue(0, .queueReset, 1)
        #expect(driver.queue(0, .queueEnable) == 1)
        #expect(driver.queue(0, .queueReset) == 0)
        #expect(queue.echo([1]) == [1])
    }

    @Test func `a reset while buffers keep coming ends`() {
        for _ in 0..<20 {
            let queue = driver.start(size: 8)
            queue.setChain([
                Descriptor(address: queue.data, byteCount: 4),
                Descriptor(address: queue.data + 64, byteCount: 4, flags: Descriptor.write),
            ])
            queue.offer([0])
            queue.kick()
            driver.reset()
        }
        #expect(driver.failures.all.isEmpty)
        #expect(!driver.device.record.withLock { $0.overlapped })
    }

    @Test func `a function that is dropped ends its thread, whatever the driver has left behind`() throws {
        weak var device: EchoDevice?
        do {
            let other = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
            let queue = other.start()
            #expect(queue.echo([1]) == [1])
            device = other.device
            queue.offer([0, 0])
            queue.kick()
        }
        #expect(device == nil)
    }
}
