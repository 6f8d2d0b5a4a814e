import DMA
import IOMMUTestDriver
import PCI
import Testing
import VirtioIOMMU

@Suite struct `Attaching and detaching` {
    private let driver: IOMMUDriver
    private let device: Confined

    init() throws {
        driver = try IOMMUDriver()
        device = try Confined(driver)
        driver.start()
    }

    @Test func `V17, V18 reserved fields and unknown flags are refused`() {
        #expect(driver.send(RequestBytes.attach(device.id, to: 1, reserved: 1)) == Status.invalid)
        #expect(driver.attach(device.id, to: 1, flags: 2) == Status.invalid)
        #expect(driver.attach(device.id, to: 1, flags: 0x8000_0001) == Status.invalid)
        #expect(driver.detach(device.id, from: 1) == Status.invalid)
    }

    @Test func `V19 a bypass domain needs the feature`() {
        driver.start(without: VirtioFeatureBits.bypassConfiguration)
        #expect(driver.attach(device.id, to: 1, flags: 1) == Status.invalid)
        driver.start()
        #expect(driver.attach(device.id, to: 1, flags: 1) == Status.ok)
    }

    @Test func `V20, V29 an endpoint that is not there`() {
        #expect(driver.attach(0x21, to: 1) == Status.notFound)
        #expect(driver.detach(0x21, from: 1) == Status.notFound)
    }

    @Test func `V21 a domain's number outside the range`() throws {
        var options = VirtioIOMMU.Options()
        options.domainRange = 2...5
        let driver = try IOMMUDriver(options)
        let device = try Confined(driver)
        driver.start()
        #expect(driver.attach(device.id, to: 1) == Status.outOfRange)
        #expect(driver.attach(device.id, to: 6) == Status.outOfRange)
        #expect(driver.attach(device.id, to: 2) == Status.ok)
        #expect(driver.attach(device.id, to: 5) == Status.ok)
    }

    @Test func `V22 a domain is made as the flag says`() {
        driver[data] = 0x41
        #expect(driver.attach(device.id, to: 7) == Status.ok)
        #expect(!device.reaches(data))
        #expect(driver.map(7, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(device.id, to: 8, flags: 1) == Status.ok)
        #expect(device.reaches(data))
        #expect(driver.map(8, 0x8000...0x8fff, to: data) == Status.invalid)
    }

    @Test func `V23 a domain of the other kind is refused, and the endpoint stays`() throws {
        let other = try Confined(driver, id: 0x28)
        #expect(driver.attach(other.id, to: 1, flags: 1) == Status.ok)
        #expect(driver.attach(device.id, to: 2) == Status.ok)
        #expect(driver.map(2, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(device.id, to: 1) == Status.invalid)
        #expect(device.reaches(0x8000))
        #expect(driver.attach(other.id, to: 2, flags: 1) == Status.invalid)
        #expect(other.reaches(data))
    }

    @Test func `V24 attaching to the same domain changes nothing`() {
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(device.reaches(0x8000))
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.invalid)
    }

    @Test func `V25, V33 an endpoint moves, and the domain that it leaves alone ends with its mappings`() throws {
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(device.id, to: 2) == Status.ok)
        #expect(!device.reaches(0x8000))
        #expect(driver.unmap(1, 0...UInt64.max) == Status.notFound)
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(!device.reaches(0x8000))
        let other = try Confined(driver, id: 0x28)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(other.id, to: 1) == Status.ok)
        #expect(driver.attach(device.id, to: 3) == Status.ok)
        #expect(other.reaches(0x8000) && !device.reaches(0x8000))
        #expect(driver.detach(other.id, from: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.notFound)
    }

    @Test func `V26 an endpoint whose reserved addresses are mapped is refused, and stays`() throws {
        let region = ReservedRegion(IOVARange(first: IOVA(0x8000), last: IOVA(0x8fff)))
        let picky = try Confined(driver, id: 0x28, reserved: [region])
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(picky.id, to: 2) == Status.ok)
        #expect(driver.map(2, 0x1_0000...0x1_0fff, to: data) == Status.ok)
        #expect(driver.attach(picky.id, to: 1) == Status.notSupported)
        #expect(picky.reaches(0x1_0000))
        #expect(driver.unmap(1, 0x8000...0x8fff) == Status.ok)
        #expect(driver.attach(picky.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.invalid)
        #expect(driver.detach(picky.id, from: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
    }

    @Test func `V27 an endpoint sees what was mapped before it came, also one that has no client yet`() throws {
        let late = try Confined(driver, id: 0x28, isConnected: false)
        driver[data + 5] = 0x42
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        #expect(driver.attach(late.id, to: 1) == Status.ok)
        try late.connect()
        #expect(try late.read(0x8005) == [0x42])
        late.leave()
        try late.connect()
        #expect(try late.read(0x8005) == [0x42])
    }

    @Test func `V28 a device that keeps pins is not attached elsewhere, and keeps what it has`() throws {
        try keepingPins {
            let own = try Self()
            let (driver, device) = (own.driver, own.device)
            try device.model.pin(IOVARange(first: IOVA(data), last: IOVA(data + page - 1)), keeps: true)
            #expect(driver.attach(device.id, to: 1) == Status.deviceError)
            #expect(device.reaches(data))
            #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.notFound)
            device.model.letGo()
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            #expect(!device.reaches(data))
        }
    }

    @Test func `V30, V31 only what is attached there can be detached, whatever the reserved field has`() throws {
        let other = try Confined(driver, id: 0x28)
        #expect(driver.detach(device.id, from: 1) == Status.invalid)
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.detach(device.id, from: 2) == Status.invalid)
        #expect(driver.detach(other.id, from: 1) == Status.invalid)
        #expect(driver.send(RequestBytes.detach(device.id, from: 1, reserved: .max)) == Status.ok)
    }

    @Test func `V32 what is detached reaches nothing of the domain when it is answered`() throws {
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
        try device.model.pin(IOVARange(first: IOVA(0x8000), last: IOVA(0x8fff)))
        #expect(driver.detach(device.id, from: 1) == Status.ok)
        #expect(device.model.releaseCount > 0)
        // In bypass now: the address is guest memory's.
        driver[0x8000] = 0x43
        driver[data] = 0x44
        #expect(try device.read(0x8000) == [0x43])
    }

    @Test func `V66 nothing of a domain is left for the next with its number`() {
        for _ in 0..<100 {
            #expect(driver.attach(device.id, to: 1) == Status.ok)
            #expect(!device.reaches(0x8000))
            #expect(driver.map(1, 0x8000...0x8fff, to: data) == Status.ok)
            #expect(device.reaches(0x8000))
            #expect(driver.detach(device.id, from: 1) == Status.ok)
        }
    }
}
