import DMA
import IOMMUTestDriver
import LinuxHost
import PCI
import Testing
import Virtio
import VirtioIOMMU

@Suite struct `Configuration and resets` {
    private let driver: IOMMUDriver
    private let device: Confined

    init() throws {
        driver = try IOMMUDriver()
        device = try Confined(driver)
        driver[data] = 0x71
    }

    @Test func `V1, V59 the configuration says what the options say`() throws {
        var options = VirtioIOMMU.Options()
        options.pageSizeMask = 0x4020_0000_0001_0000
        options.inputRange = IOVARange(first: IOVA(0x10000), last: IOVA((1 << 39) - 1))
        options.domainRange = 3...77
        options.probeByteCount = 1000
        options.startsInBypass = false
        let driver = try IOMMUDriver(options)
        #expect(driver.configuration(0, 8) == 0x4020_0000_0001_0000)
        #expect(driver.configuration(8, 8) == 0x10000)
        #expect(driver.configuration(16, 8) == (1 << 39) - 1)
        #expect(driver.configuration(24, 4) == 3)
        #expect(driver.configuration(28, 4) == 77)
        #expect(driver.configuration(32, 4) == 1000)
        #expect(driver.configuration(36, 4) == 0)
        #expect(options.granule == 0x10000)
        #expect(self.driver.configuration(0, 8) == ~0xfff && self.driver.configuration(36, 1) == 1)
        // The other bits of the mask are hints.
        let device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 3) == Status.ok)
        #expect(driver.map(3, 0x30000...0x3ffff, to: 0) == Status.ok)
        #expect(driver.map(3, 0x41000...0x4ffff, to: 0) == Status.outOfRange)
    }

    @Test func `V59 offers what a stock driver needs, and not the old bypass`() {
        driver.write(4, 0, 4, 0)
        let low = driver.read(4, 4, 4)
        #expect(low & 0x7f == 0x77 && low & VirtioFeatureBits.bypass.rawValue == 0)
        driver.write(4, 0, 4, 1)
        #expect(driver.read(4, 4, 4) & 1 == 1)
        #expect(driver.read(PCIRegion.configuration, 0, 4) == 0x1057_1af4)
        #expect(driver.read(PCIRegion.configuration, 8, 4) >> 16 == 0x0806)
    }

    @Test func `V2, V5, V7 bypass can be written, and moves what is attached to nothing`() throws {
        driver.start()
        let attached = try Confined(driver, id: 0x28)
        #expect(driver.attach(attached.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(try device.read(data) == [0x71])
        driver.configure(36, 1, 0)
        #expect(driver.configuration(36, 1) == 0)
        driver.settle()
        #expect(!device.reaches(data) && attached.reaches(0x8000))
        driver.configure(36, 1, 1)
        driver.settle()
        #expect(device.reaches(data) && attached.reaches(0x8000))
        // Identity, whatever the IOMMU has for units and ranges.
        #expect(try device.read(data + 1, 3).count == 3)
    }

    @Test func `V2 nothing else can be written`() {
        driver.start()
        let before = (0..<5).map { driver.configuration(UInt64($0) * 8, 8) }
        driver.configure(36, 1, 2)
        driver.configure(36, 2, 0)
        driver.configure(36, 4, 0)
        for offset in [0, 8, 16, 24, 32] as [UInt64] { driver.configure(offset, 8, 0) }
        for offset in [35, 37, 38, 39] as [UInt64] { driver.configure(offset, 1, 0) }
        #expect((0..<5).map { driver.configuration(UInt64($0) * 8, 8) } == before)
        driver.start(without: VirtioFeatureBits.bypassConfiguration)
        driver.configure(36, 1, 0)
        driver.settle()
        #expect(driver.configuration(36, 1) == 1 && device.reaches(data))
    }

    @Test func `V3 bypass survives the driver's reset and not the machine's`() {
        driver.start()
        driver.configure(36, 1, 0)
        driver.reset()
        #expect(driver.configuration(36, 1) == 0 && !device.reaches(data))
        driver.start()
        driver.settle()
        #expect(!device.reaches(data))
        driver.function.reset()
        #expect(driver.configuration(36, 1) == 1 && device.reaches(data))
        driver.becomeBusMaster()
        driver.start()
        driver.configure(36, 1, 0)
        driver.settle()
        driver.function.detach()
        #expect(driver.configuration(36, 1) == 1 && device.reaches(data))
    }

    @Test func `V6 a driver that has not accepted the feature still has bypass as it was`() throws {
        driver.start(without: VirtioFeatureBits.bypassConfiguration)
        #expect(device.reaches(data))
        var options = VirtioIOMMU.Options()
        options.startsInBypass = false
        let strict = try IOMMUDriver(options)
        let confined = try Confined(strict)
        strict.start(without: VirtioFeatureBits.bypassConfiguration)
        #expect(!confined.reaches(data))
        strict.start()
        #expect(strict.attach(confined.id, to: 1, flags: 1) == Status.ok)
        #expect(confined.reaches(data))
    }

    @Test func `V4 a reset forgets domains and mappings, and devices let go before it is over`() throws {
        for resets in [{ driver.reset() }, { driver.function.reset() }, { driver.function.detach() }] {
            try? driver.connect()
            driver.becomeBusMaster()
            driver.start()
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
            try device.model.pin(IOVARange(first: IOVA(0x8000), last: IOVA(0x8fff)))
            let asked = device.model.releaseCount
            resets()
            #expect(device.model.releaseCount > asked)
            #expect(try device.read(data) == [0x71])
            driver[0x8000] = 0x72
            #expect(try device.read(0x8000) == [0x72])
        }
        try driver.connect()
        driver.start()
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.notFound)
        #expect(driver.detach(device.id, from: 1) == Status.invalid)
    }

    /// Maps a page, has the device pin it, and asks for an unmap, which waits until the device lets go.
    private func beginUnmapThatWaits() throws {
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        try device.model.pin(IOVARange(first: IOVA(0x8000), last: IOVA(0x8fff)), keeps: true)
        let (head, _) = driver.requests.lay(RequestChain(RequestBytes.unmap(1, 0x8000, 0x8fff)), slot: 0)
        driver.requests.offer([head])
        driver.kick(driver.requests)
        device.model.waitUntilAsked()
    }

    @Test func `a reset gets through while an unmap waits for a device`() throws {
        try keepingPins {
            let own = try Self()
            let (driver, device) = (own.driver, own.device)
            try own.beginUnmapThatWaits()
            driver.reset()
            #expect(driver.requests.usedCount == 0)
            // What the device keeps is closed to everything new, and it is out of it once it lets go.
            #expect(!device.reaches(data))
            device.model.letGo()
            driver.start()
            driver.settle()
            #expect(try device.read(data) == [0x71])
        }
    }

    @Test func `a client that leaves takes its memory out of every domain, and nobody waits in a circle`() throws {
        let reports = try LockChecker.withRecording { () throws in
            let driver = try IOMMUDriver()
            let device = try Confined(driver)
            driver.start()
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
            driver.function.detach()
            #expect(device.reaches(data))
            try driver.space.unmap(.everything)
            try driver.connect()
            driver.start()
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
            #expect(device.reaches(0x8000))
            driver.function.detach()
            device.leave()
        }
        #expect(!reports.contains { !$0.isMatterOfTime }, "\(reports)")
    }

    @Test func `a client may leave while an unmap waits for a device`() throws {
        // The space of guest memory is told of first and that of a domain inside, never the other way round; the checker knows
        // one kind of both.
        try keepingPins(expecting: .nesting) {
            let own = try Self()
            let (driver, device) = (own.driver, own.device)
            try own.beginUnmapThatWaits()
            let model = device.model
            let releaser = try OSThread(name: "releaser") {
                let nobody = Monitor(())
                _ = nobody.wait(until: .after(.milliseconds(1200))) { _ in nil as Void? }
                model.letGo()
            }
            // Guest memory goes with the client, so this takes until the device has let go.
            driver.function.detach()
            releaser.join()
            device.leave()
            try device.connect()
            #expect(try device.read(data) == [0x71])
        }
    }

    @Test func `an endpoint's device may come, go and be reset while it is attached`() throws {
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        for _ in 0..<20 {
            #expect(try device.read(0x8000) == [0x71])
            device.function.reset()
            device.becomeBusMaster()
            #expect(try device.read(0x8000) == [0x71])
            device.leave()
            try device.connect()
        }
        device.leave()
        #expect(driver.detach(device.id, from: 1) == Status.ok)
        try device.connect()
        #expect(try device.read(data) == [0x71])
    }

    @Test func `guest memory that goes leaves every domain, and what comes appears`() throws {
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        let extra = try MemoryObject.anonymous(byteCount: 0x4000)
        unsafe extra.bytes[0x2000] = 0x77
        let place: UInt64 = 1 << 32
        #expect(driver.map(1, 0x8000...0xbfff, to: place) == Status.ok)
        #expect(driver.map(1, 0x1_0000...0x1_0fff, to: place + 0x2000, flags: 1) == Status.ok)
        #expect(!device.reaches(0xa000))
        for _ in 0..<3 {
            try driver.space.map(.file(extra, offset: 0), at: IOVA(place), byteCount: 0x4000, rights: [.read, .write])
            #expect(try device.read(0xa000) == [0x77])
            #expect(try device.read(0x1_0000) == [0x77])
            #expect(throws: DMAError.notPermitted) { try device.write([1], to: 0x1_0000) }
            try device.model.pin(IOVARange(first: IOVA(0xa000), last: IOVA(0xafff)))
            try driver.space.unmap(IOVARange(first: IOVA(place), byteCount: 0x4000))
            #expect(!device.reaches(0xa000) && !device.reaches(0x1_0000))
        }
        // The guest's mapping is there all the time.
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.invalid)
        // Memory that cannot be written stays so, whatever the guest maps.
        try driver.space.map(.file(extra, offset: 0), at: IOVA(place), byteCount: 0x4000, rights: .read)
        #expect(throws: DMAError.notPermitted) { try device.write([1], to: 0xa000) }
        #expect(try device.read(0xa000) == [0x77])
    }

    @Test(arguments: [true, false])
    func `guest memory that goes waits for a device in a domain that is just ending`(byDetach: Bool) throws {
        try keepingPins {
            let own = try Self()
            let (driver, device) = (own.driver, own.device)
            driver.start()
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            let extra = try MemoryObject.anonymous(byteCount: 0x1000)
            let section = try IOVARange(first: IOVA(1 << 32), byteCount: 0x1000)
            try driver.space.map(
                .file(extra, offset: 0), at: section.first, byteCount: 0x1000, rights: [.read, .write])
            #expect(driver.map(1, 0x8000...0x8fff, to: section.first.rawValue) == Status.ok)
            try device.model.pin(IOVARange(first: IOVA(0x8000), last: IOVA(0x8fff)), keeps: true)
            if byDetach {
                let (head, _) = driver.requests.lay(RequestChain(RequestBytes.detach(device.id, from: 1)), slot: 0)
                driver.requests.offer([head])
                driver.kick(driver.requests)
            } else {
                driver.status = 0
            }
            device.model.waitUntilAsked()
            let model = device.model
            let hasLetGo = Monitor(false)
            let releaser = try OSThread(name: "releaser") {
                let nobody = Monitor(())
                _ = nobody.wait(until: .after(.milliseconds(400))) { _ in nil as Void? }
                hasLetGo.withLock { $0 = true }
                model.letGo()
            }
            try driver.space.unmap(section)
            #expect(hasLetGo.withLock { $0 })
            releaser.join()
            if byDetach { _ = driver.waitForUsed(driver.requests) } else { driver.wait { driver.status == 0 } }
        }
    }

    @Test func `guest memory that only messages reach can be mapped`() throws {
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        let remote = Messages()
        let place: UInt64 = 1 << 32
        try driver.space.map(.remote(remote), at: IOVA(place), byteCount: 0x4000, rights: [.read, .write])
        #expect(driver.map(1, 0x8000...0x8fff, to: place + 0x1000) == Status.ok)
        try device.write([1, 2, 3], to: 0x8010)
        #expect(remote.last == IOVA(place + 0x1010))
        #expect(try device.read(0x8010, 2) == [0x5a, 0x5a])
        #expect(driver.unmap(1, 0x8000...0x8fff) == Status.ok)
        #expect(!device.reaches(0x8010))
        // Others go on having it, and so does the client.
        #expect(driver.map(1, 0x9000...0x9fff, to: place + 0x1000) == Status.ok)
        #expect(device.reaches(0x9000) && !remote.isRevoked)
        try driver.space.unmap(IOVARange(first: IOVA(place), byteCount: 0x4000))
        #expect(!device.reaches(0x9000) && remote.isRevoked)
    }
}

/// Guest memory that messages reach, without anybody who answers them: reads give a pattern.
private final class Messages: RemoteMemory {
    private struct State {
        var last: IOVA?
        var isRevoked = false
    }

    private let state = Monitor(State())

    var last: IOVA? { state.withLock { $0.last } }
    var isRevoked: Bool { state.withLock { $0.isRevoked } }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0x5a)
        state.withLock { $0.last = iova }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        state.withLock { $0.last = iova }
    }

    func revoke() { state.withLock { $0.isRevoked = true } }
}
