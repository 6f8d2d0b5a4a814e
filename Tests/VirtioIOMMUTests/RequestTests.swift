import DMA
import IOMMUTestDriver
import Testing
import VirtioIOMMU

@Suite struct `Requests in buffers` {
    private let driver: IOMMUDriver
    private let device: Confined

    init() throws {
        driver = try IOMMUDriver()
        device = try Confined(driver)
        driver.start()
    }

    @Test func `V9 a request may be split anywhere, over descriptors of either kind`() {
        let bytes = RequestBytes.attach(device.id, to: 1)
        for isIndirect in [false, true] {
            for size in [1, 2, 3, 5, 7, 20] {
                let pieces = stride(from: 0, to: 20, by: size).map { Array(bytes[$0..<min($0 + size, 20)]) }
                let chain = RequestChain(readable: pieces, writable: [1, 1, 2], isIndirect: isIndirect)
                let answer = driver.send([chain]).first
                #expect(answer?.status == Status.ok && answer?.bytes == [0, 0, 0, 0])
            }
        }
    }

    @Test(arguments: 0..<4)
    func `V10 without room for a status, or a head, nothing is written`(count: Int) {
        let bytes = RequestBytes.attach(device.id, to: 1)
        var answer = driver.send([RequestChain(bytes, room: count)]).first
        #expect(answer?.writtenByteCount == 0 && answer?.bytes == [UInt8](repeating: 0xee, count: count))
        answer = driver.send([RequestChain(Array(bytes.prefix(count)))]).first
        #expect(answer?.writtenByteCount == 0 && answer?.bytes == [0xee, 0xee, 0xee, 0xee])
        #expect(driver.detach(device.id, from: 1) == Status.invalid)
    }

    @Test(arguments: [
        RequestBytes.attach(0x20, to: 1), RequestBytes.detach(0x20, from: 1), RequestBytes.map(1, 0, 0xfff, to: 0),
        RequestBytes.unmap(1, 0, 0xfff),
    ])
    func `V11 a request that is too short is invalid, and what follows one is ignored`(bytes: [UInt8]) {
        for count in [4, 5, bytes.count - 1] {
            #expect(driver.send(Array(bytes.prefix(count))) == Status.invalid)
        }
        #expect(driver.send(bytes + [0xff]) != nil)
        let longer = RequestBytes.attach(device.id, to: 1) + [UInt8](repeating: 0xff, count: 100)
        #expect(driver.send(longer) == Status.ok)
    }

    @Test(arguments: [0, 6, 0x20, 0xff] as [UInt8])
    func `V12 an unknown request is not answered`(kind: UInt8) {
        let answer = driver.send([RequestChain([kind, 0, 0, 0] + [UInt8](repeating: 0, count: 68))]).first
        #expect(answer?.writtenByteCount == 0 && answer?.bytes == [0xee, 0xee, 0xee, 0xee])
    }

    @Test func `V12 maps without the feature are unknown`() {
        driver.start(without: VirtioFeatureBits.mapUnmap)
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(driver.map(1, 0...0xfff, to: 0) == nil)
        #expect(driver.unmap(1, 0...0xfff) == nil)
    }

    @Test func `V13, V16 what is reserved in the head is ignored, and in the tail zero`() {
        var bytes = RequestBytes.attach(device.id, to: 1)
        bytes.replaceSubrange(1..<4, with: [1, 2, 3])
        let answer = driver.send([RequestChain(bytes, room: 9)]).first
        #expect(answer?.bytes == [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee, 0xee])
    }

    @Test func `V14 the used length is what was written`() {
        let answers = driver.send([
            RequestChain(RequestBytes.attach(device.id, to: 1), room: 100),
            RequestChain(RequestBytes.probe(device.id), room: 700),
            RequestChain(RequestBytes.probe(0x99), room: 700),
        ])
        #expect(answers.map(\.writtenByteCount) == [4, 516, 516])
    }

    @Test func `V15 requests take effect in their order`() throws {
        let batch: [[UInt8]] = [
            RequestBytes.map(1, 0x8000, 0x8fff, to: data), RequestBytes.attach(device.id, to: 1),
            RequestBytes.map(1, 0x8000, 0x8fff, to: data), RequestBytes.map(1, 0x8000, 0x8fff, to: data),
            RequestBytes.unmap(1, 0x8000, 0x8fff), RequestBytes.map(1, 0x8000, 0x8fff, to: data + page),
            RequestBytes.detach(device.id, from: 1), RequestBytes.unmap(1, 0x8000, 0x8fff),
            RequestBytes.attach(device.id, to: 2), RequestBytes.map(2, 0x8000, 0x8fff, to: data + page),
        ]
        driver[data + page] = 0x61
        #expect(
            driver.send(batch: batch) == [
                Status.notFound, 0, 0, Status.invalid, 0, 0, 0, Status.notFound, 0, 0,
            ])
        #expect(try device.read(0x8000) == [0x61])
    }

    @Test func `V62 what cannot be answered leaves the queue in order`() {
        let answers = driver.send([
            RequestChain([9, 0, 0, 0]), RequestChain(RequestBytes.attach(device.id, to: 1)),
            RequestChain([9, 0, 0, 0]),
        ])
        #expect(answers.map(\.writtenByteCount) == [0, 4, 0])
        #expect(driver.status & 64 == 0)
    }
}

@Suite struct `Probing` {
    private let driver: IOMMUDriver

    init() throws {
        driver = try IOMMUDriver()
        driver.start()
    }

    private func probe(_ driver: IOMMUDriver, _ id: UInt32, room: Int = 516) -> IOMMUDriver.Answer? {
        driver.send([RequestChain(RequestBytes.probe(id), room: room)]).first
    }

    /// A property for a reserved region as the standard lays it out.
    private func property(_ kind: UInt8, _ first: UInt64, _ last: UInt64) -> [UInt8] {
        [1, 0, 20, 0, kind, 0, 0, 0]
            + [first, last].flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
    }

    @Test func `V51 without the feature it is unknown, and so are endpoints that are not there`() throws {
        let device = try Confined(driver)
        let answer = probe(driver, 0x99)
        #expect(answer?.status == Status.notFound)
        #expect(answer?.bytes.prefix(512).allSatisfy { $0 == 0 } == true)
        driver.start(without: VirtioFeatureBits.probe)
        #expect(probe(driver, device.id)?.writtenByteCount == 0)
    }

    @Test func `V16, V52 properties follow each other from the start, then zeros and the status`() throws {
        let regions = [
            ReservedRegion(IOVARange(first: IOVA(0x1000), last: IOVA(0x1fff))), .x86Messages,
        ]
        let device = try Confined(driver, reserved: regions)
        let answer = probe(driver, device.id)
        let wanted = property(0, 0x1000, 0x1fff) + property(1, 0xfee0_0000, 0xfeef_ffff)
        #expect(answer?.bytes == wanted + [UInt8](repeating: 0, count: 516 - wanted.count))
        #expect(probe(driver, device.id, room: 515)?.writtenByteCount == 0)
    }

    @Test func `V52 properties that do not fit are none, and invalid`() throws {
        var options = VirtioIOMMU.Options()
        options.probeByteCount = 24
        let driver = try IOMMUDriver(options)
        let regions = (0..<2 as Range<UInt64>).map {
            ReservedRegion(IOVARange(first: IOVA($0 * page), last: IOVA($0 * page + page - 1)))
        }
        let device = try Confined(driver, reserved: regions)
        let other = try Confined(driver, id: 0x28)
        driver.start()
        let answer = probe(driver, device.id, room: 28)
        #expect(answer?.bytes == [UInt8](repeating: 0, count: 24) + [Status.invalid, 0, 0, 0])
        #expect(probe(driver, other.id, room: 28)?.status == Status.ok)
    }

    @Test func `V53 the window for messages is told unless something else is said`() async throws {
        let device = try Confined(driver)
        #expect(
            probe(driver, device.id)?.bytes.prefix(24) == property(1, 0xfee0_0000, 0xfeef_ffff)[...])
        await #expect(processExitsWith: .failure) {
            let driver = try IOMMUDriver()
            _ = driver.iommu.endpoint(id: EndpointID(1), reserved: [.x86Messages, .x86Messages])
        }
    }

    @Test func `V54, V67 a probe says the same every time, whatever its reserved bytes have`() throws {
        let device = try Confined(driver)
        let first = probe(driver, device.id)
        var bytes = RequestBytes.probe(device.id)
        bytes.replaceSubrange(8..<72, with: repeatElement(0xff, count: 64))
        #expect(driver.send([RequestChain(bytes, room: 516)]).first == first)
        #expect(driver.attach(device.id, to: 1) == Status.ok)
        #expect(probe(driver, device.id) == first)
    }
}
