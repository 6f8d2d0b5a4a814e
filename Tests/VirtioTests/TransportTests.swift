import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing
import Virtio
import VirtioEcho

@Suite struct `The registers of the virtio transport` {
    let driver: VirtioDriver<EchoDevice>

    init() throws {
        driver = try VirtioDriver { try EchoDevice.makeFunction(report: $0) }
    }

    @Test func `the function is a modern device of its type`() {
        #expect(driver.configuration(0x00, 4) == 0x107f_1af4)
        #expect(driver.configuration(0x08, 1) == 1)
        #expect(driver.configuration(0x2c, 2) == 0x1af4)
    }

    /// The capabilities by which a driver finds everything: type, base address register, offset, length, and a word more.
    @Test func `five capabilities name the structures`() {
        var found: [[UInt64]] = []
        var place = driver.configuration(0x34, 1)
        while place != 0 {
            if driver.configuration(place, 1) == 9 {
                let length = driver.configuration(place + 2, 1)
                found.append([
                    length, driver.configuration(place + 3, 1), driver.configuration(place + 4, 1),
                    driver.configuration(place + 8, 4), driver.configuration(place + 12, 4),
                    length > 16 ? driver.configuration(place + 16, 4) : 0,
                ])
            }
            place = driver.configuration(place + 1, 1)
        }
        #expect(
            found == [
                [16, 1, 4, 0x0000, 0x1000, 0], [16, 3, 4, 0x1000, 0x1000, 0], [16, 4, 4, 0x2000, 0x1000, 0],
                [20, 2, 4, 0x3000, 0x1000, 4], [20, 5, 0, 0, 0, 0],
            ])
    }

    @Test func `the window of configuration space reaches the structures`() throws {
        let place = try window()
        driver.configure(place + 4, 1, 4)
        driver.configure(place + 8, 4, 20)
        driver.configure(place + 12, 4, 1)
        driver.configure(place + 16, 1, 3)
        #expect(driver.status == 3)
        #expect(driver.configuration(place + 16, 1) == 3)
        driver.configure(place + 8, 4, 18)
        driver.configure(place + 12, 4, 2)
        #expect(driver.configuration(place + 16, 2) == 4)
    }

    /// As behind QEMU, whose guest cannot reach the table in the base address register but can move the window there.
    @Test func `a table written through the window masks nothing where the client keeps the table`() throws {
        let counters = try (0..<5).map { _ in try EventCounter() }
        driver.function.interrupts.connect(.msix, from: 0, to: counters)
        let place = try window()
        driver.configure(place + 4, 1, 1)
        driver.configure(place + 8, 4, 0x1c)
        driver.configure(place + 12, 4, 4)
        driver.configure(place + 16, 4, 1)
        #expect(driver.configuration(place + 16, 4) == 1)
        driver.negotiate()
        driver.setVectors(queues: 4)
        let queue = DriverQueue(driver, number: 0, size: 8, features: .version1)
        queue.enable()
        driver.setCommon(.deviceStatus, 15)
        #expect(queue.echo([1]) == [1])
        // The device is reset after it has told of what it did.
        driver.reset()
        #expect(counters[1].drain() == 1)
    }

    /// Where the capability of the window is.
    private func window() throws -> UInt64 {
        var place = driver.configuration(0x34, 1)
        while driver.configuration(place, 1) != 9 || driver.configuration(place + 3, 1) != 5 {
            place = driver.configuration(place + 1, 1)
            try #require(place != 0)
        }
        return place
    }

    @Test func `features come in two words, and there are none behind`() {
        let offered = driver.offeredFeatures
        #expect(
            offered == [
                .version1, .indirectDescriptors, .eventIndex, .ringReset, .accessPlatform, EchoDevice.offered,
            ])
        for word in [2, 3, 0xffff_ffff] as [UInt64] {
            driver.setCommon(.deviceFeatureSelect, word)
            #expect(driver.common(.deviceFeature) == 0)
            driver.setCommon(.driverFeatureSelect, word)
            driver.setCommon(.driverFeature, 0xffff_ffff)
            #expect(driver.common(.driverFeature) == 0)
        }
    }

    @Test func `features that were accepted can be read back`() {
        driver.accept([.version1, .eventIndex])
        driver.setCommon(.driverFeatureSelect, 0)
        #expect(driver.common(.driverFeature) == 1 << 29)
        driver.setCommon(.driverFeatureSelect, 1)
        #expect(driver.common(.driverFeature) == 1)
    }

    @Test(
        arguments: [
            ([.version1], true), ([.version1, EchoDevice.offered], true), ([], false), ([EchoDevice.offered], false),
            ([.version1, EchoDevice.notOffered], false), ([.version1, VirtioFeatures(rawValue: 1 << 34)], false),
            ([.version1, VirtioFeatures(rawValue: 1 << 63)], false),
        ] as [(VirtioFeatures, Bool)])
    func `the device agrees to what it offered, with version 1`(features: VirtioFeatures, agrees: Bool) {
        driver.negotiate(features)
        #expect(driver.status == (agrees ? 11 : 3))
        driver.setCommon(.deviceStatus, 15)
        #expect(driver.status == (agrees ? 15 : 3))
    }

    @Test func `agreed features hold still`() {
        driver.negotiate([.version1])
        driver.accept([.version1, .eventIndex])
        driver.setCommon(.driverFeatureSelect, 0)
        #expect(driver.common(.driverFeature) == 0)
        driver.setCommon(.deviceStatus, 15)
        driver.wait { driver.device.record.withLock { !$0.starts.isEmpty } }
        #expect(driver.device.record.withLock { $0.starts } == [[.version1]])
    }

    @Test func `status bits are added and never taken away`() {
        driver.setCommon(.deviceStatus, 1)
        driver.setCommon(.deviceStatus, 2)
        #expect(driver.status == 3)
        driver.setCommon(.deviceStatus, 64)
        #expect(driver.status == 3, "the device's own bit is not the driver's to set")
        driver.setCommon(.deviceStatus, 4)
        #expect(driver.status == 3, "nothing runs without agreed features")
    }

    @Test func `each queue has its registers`() {
        #expect(driver.common(.queueCount) == 4)
        let sizes = (0..<4).map { driver.queue($0, .queueSize) }
        #expect(sizes == [256, 64, 8, 16])
        driver.setQueue(1, .queueDescriptors, 0x1234_5678_9abc_def0)
        driver.setQueue(2, .queueDescriptors, 0x10)
        #expect(driver.queue(1, .queueDescriptors) == 0x1234_5678_9abc_def0)
        #expect(driver.queue(2, .queueDescriptors) == 0x10)
        #expect((0..<4).map { driver.queue($0, .queueNotifyOffset) } == [0, 1, 2, 3])
    }

    @Test func `a queue's addresses can be written in halves`() {
        driver.setCommon(.queueSelect, 1)
        for (register, offset) in [(Common.queueDescriptors, 32), (.queueDriver, 40), (.queueDevice, 48)]
            as [(Common, UInt64)]
        {
            driver.write(4, offset + 4, 4, 0xaaaa_bbbb)
            driver.write(4, offset, 4, 0xcccc_dddd)
            #expect(driver.common(register) == 0xaaaa_bbbb_cccc_dddd)
            driver.write(4, offset, 4, 0x1111_2222)
            #expect(driver.common(register) == 0xaaaa_bbbb_1111_2222)
        }
    }

    @Test(
        arguments: [(0, 256), (1, 1), (128, 128), (256, 256), (512, 256), (3, 256), (0xffff, 256)] as [(UInt64, UInt64)]
    )
    func `a queue can be made smaller, to powers of two`(size: UInt64, result: UInt64) {
        driver.setQueue(0, .queueSize, size)
        #expect(driver.common(.queueSize) == result)
    }

    @Test func `there is nothing behind the last queue`() {
        driver.setCommon(.queueSelect, 4)
        for register in [
            Common.queueSize, .queueEnable, .queueDescriptors, .queueVector, .queueNotifyOffset, .queueReset,
        ] {
            driver.setCommon(register, 1)
            #expect(driver.common(register) == 0)
        }
        driver.setCommon(.queueSelect, 0xffff)
        #expect(driver.common(.queueSize) == 0)
        driver.kick(4)
        driver.kick(1000)
    }

    @Test func `an enabled queue holds still`() {
        driver.negotiate()
        driver.setQueue(0, .queueSize, 16)
        driver.setQueue(0, .queueDescriptors, 0x1000)
        driver.setQueue(0, .queueEnable, 1)
        for register in [Common.queueSize, .queueDescriptors, .queueDriver, .queueDevice] {
            driver.setCommon(register, 32)
        }
        driver.setCommon(.queueEnable, 0)
        #expect(driver.common(.queueSize) == 16)
        #expect(driver.common(.queueDescriptors) == 0x1000)
        #expect(driver.common(.queueDriver) == 0)
        #expect(driver.common(.queueEnable) == 1)
        driver.reset()
        #expect(driver.queue(0, .queueSize) == 256)
        #expect(driver.common(.queueDescriptors) == 0)
        #expect(driver.common(.queueEnable) == 0)
    }

    @Test func `vectors beyond the table are none`() {
        #expect(driver.common(.configurationVector) == 0xffff)
        #expect(driver.queue(0, .queueVector) == 0xffff)
        driver.setCommon(.configurationVector, 4)
        driver.setQueue(0, .queueVector, 0)
        #expect(driver.common(.configurationVector) == 4)
        #expect(driver.common(.queueVector) == 0)
        driver.setCommon(.configurationVector, 5)
        driver.setCommon(.queueVector, 0x8000)
        #expect(driver.common(.configurationVector) == 0xffff)
        #expect(driver.common(.queueVector) == 0xffff)
    }

    @Test func `the device's configuration is read and written at any width, and ends where it ends`() {
        driver.write(4, 0x2000, 8, 0x8877_6655_4433_2211)
        driver.write(4, 0x2008, 4, 0xccbb_aa99)
        #expect(driver.read(4, 0x2002, 2) == 0x4433)
        #expect(driver.read(4, 0x200b, 1) == 0xcc)
        #expect(driver.read(4, 0x200c, 4) == 0)
        driver.write(4, 0x2008, 8, .max)
        #expect(driver.read(4, 0x2008, 4) == 0xccbb_aa99, "an access that does not fit does nothing")
        driver.write(4, 0x2ff8, 8, .max)
    }

    @Test func `places between the structures are nothing`() {
        for offset in [0x3c, 0x100, 0xff8, 0x1001, 0x1008, 0x3000, 0x3ff8] as [UInt64] {
            let byteCount = offset % 8 == 0 ? 8 : 1
            #expect(driver.read(4, offset, byteCount) == 0)
            driver.write(4, offset, byteCount, .max)
        }
        #expect(driver.status == 0)
    }

    @Test func `a change of the configuration shows in its generation and interrupts a driver that runs`() throws {
        try driver.connectVectors(5)
        let generation = driver.common(.configurationGeneration)
        driver.device.port.configurationDidChange()
        #expect(driver.common(.configurationGeneration) == (generation + 1) & 0xff)
        #expect(driver.counters[0].drain() == 0)
        driver.negotiate()
        driver.setVectors(queues: 4)
        driver.setCommon(.deviceStatus, 15)
        driver.device.port.configurationDidChange()
        #expect(driver.counters[0].drain() == 1)
        #expect(driver.interruptStatus == 2)
        #expect(driver.interruptStatus == 0)
    }

    @Test func `the line follows the interrupt status`() throws {
        let counter = try driver.connectLine()
        let queue = driver.start()
        #expect(queue.echo([1, 2, 3]) == [1, 2, 3])
        driver.wait { driver.configuration(0x06, 2) & 8 != 0 }
        #expect(counter.drain() == 1)
        driver.device.port.configurationDidChange()
        #expect(driver.interruptStatus == 3)
        #expect(driver.configuration(0x06, 2) & 8 == 0)
        #expect(driver.interruptStatus == 0)
        #expect(driver.counters.isEmpty)
    }

    @Test func `a device that gives up says so, and nothing more until it is reset`() throws {
        try driver.connectVectors(5)
        driver.negotiate()
        driver.setVectors(queues: 4)
        let queue = DriverQueue(driver, number: 0, size: 8, features: .version1)
        queue.enable()
        driver.device.port.fail("too early")
        #expect(driver.status == 11 && driver.failures.all.isEmpty)
        driver.setCommon(.deviceStatus, 15)
        #expect(queue.echo([1]) == [1])
        driver.device.port.fail("broken")
        driver.device.port.fail("broken again")
        #expect(driver.status == 15 | 64)
        #expect(driver.counters[0].drain() == 1)
        #expect(driver.failures.all == [.device("broken")])
        let calls = driver.device.record.withLock { $0.processCalls }
        queue.offer([0])
        queue.kick()
        driver.setCommon(.deviceStatus, 15)
        #expect(driver.status == 15 | 64)
        driver.reset()
        #expect(driver.device.record.withLock { $0.processCalls } == calls)
        #expect(driver.start().echo([2]) == [2])
    }

    @Test func `a driver that gives up is left alone`() {
        let queue = driver.start()
        #expect(queue.echo([1]) == [1])
        driver.setCommon(.deviceStatus, 128)
        let calls = driver.device.record.withLock { $0.processCalls }
        queue.offer([0])
        queue.kick()
        driver.reset()
        #expect(driver.device.record.withLock { $0.processCalls } == calls)
    }

    @Test func `the table of the registers has no gaps that matter`() {
        #expect(CommonRegister.map.byteCount == 0x3c)
        #expect(CommonRegister.map.declarations.count == 18)
    }
}
