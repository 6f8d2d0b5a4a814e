import DMA
import IOMMUTestDriver
import LinuxHost
import PCI
import VirtioIOMMU

/// What a guest waits for when it maps and unmaps through an IOMMU of this process.
func guestIOMMU(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "An IOMMU for a guest",
        """
        ns from the kick to the used index, on a driver in this process that looks at the ring all the time, as a guest's does
        with interrupts off. A pair is a map of one page and its unmap, a kick each; of a batch, the 64 unmaps that one kick
        makes available. Beside it nobody or eight busy devices behind the same domain, which read 4 KiB of other pages. In each
        round the median, the 99th percentile and the highest are taken; shown is the median of the rounds. Of the threads
        \(Settings.processorCount) run at once here, and whoever waits for the worker runs too. Aim: 100 µs for a batch.
        """)
    let scene = try IOMMUScene()
    for readerCount in [0, 8] {
        var rounds: [[Answers]] = [[], []]
        for round in -1..<settings.rounds {
            let crew = try scene.crew(readerCount)
            crew.begin()
            let answers = [scene.pairs(settings), scene.batches(settings)]
            _ = crew.end()
            guard round >= 0 else { continue }
            for (index, answer) in answers.enumerated() { rounds[index].append(answer) }
        }
        var table = MarkdownTable(["\(readerCount) readers", "median", "99 % at most", "highest", "above 100 µs, %"])
        for (name, rounds) in zip(["pair", "batch of 64 unmaps"], rounds) {
            let parts: [(String, KeyPath<Answers, Double>)] = [
                ("median", \.median), ("late", \.late), ("highest", \.highest), ("share", \.shareAboveAim),
            ]
            let figures = parts.map { _, part in Figures(rounds.map { $0[keyPath: part] }) }
            for ((column, _), figure) in zip(parts, figures) {
                report.record("viommu, \(readerCount) readers", name, column, column == "share" ? "%" : "ns", figure)
            }
            table.add([name] + figures.map(\.text))
        }
        report.write("\n" + table.text)
    }
}

/// What one round says of its answers, in nanoseconds.
private struct Answers {
    let median, late, highest, shareAboveAim: Double

    init(_ samples: [Double]) {
        let figures = Figures(samples)
        median = figures.median
        late = figures.percentile(0.99)
        highest = figures.highest
        shareAboveAim = Double(samples.count { $0 > 100_000 }) / Double(samples.count) * 100
    }
}

/// An IOMMU with eight devices in one domain.
private struct IOMMUScene {
    private let driver: IOMMUDriver
    private let readers: [PCIFunction<BusyReader>]
    /// What the devices read, and where pages are mapped and unmapped.
    private static let read: UInt64 = 0x100_0000
    private static let mapped: UInt64 = 0x200_0000
    private static let page: UInt64 = 4096
    private static let byteCount = 64

    init() throws {
        let driver = try IOMMUDriver(memoryByteCount: 4 << 20)
        self.driver = driver
        let description = PCIDescription(
            vendorID: 0x1234, deviceID: 0x5678, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
            bars: [BaseAddressRegister(0, .memory32, byteCount: 0x1000)])
        readers = try (0..<8 as Range<UInt32>).map { number in
            let endpoint = driver.iommu.endpoint(id: EndpointID(number + 8))
            let function = PCIFunction(description, route: endpoint) { BusyReader(port: $0) }
            try function.attach(to: IOAddressSpace())
            let enabled: [UInt8] = [6, 0]
            function.writeRegion(PCIRegion.configuration, at: 4, from: enabled.span)
            return function
        }
        driver.start()
        for number in 0..<8 as Range<UInt32> { expect(driver.attach(number + 8, to: 1)) }
        let last = Self.read + Self.byteCount64 - 1
        expect(driver.map(1, Self.read...last, to: IOMMUDriver.data))
    }

    private static var byteCount64: UInt64 { UInt64(byteCount) * page }

    func crew(_ count: Int) throws -> Crew {
        let memories = readers.compactMap(\.model.port.memory)
        return try Crew("reader", count: count) { number, turn in
            var bytes = [UInt8](repeating: 0, count: Int(Self.page))
            let first = Self.read + UInt64(turn % Self.byteCount) * Self.page
            let range = IOVARange(first: IOVA(first), last: IOVA(first + Self.page - 1))
            unsafe bytes.withUnsafeMutableBytes { buffer in
                do throws(DMAError) {
                    unsafe try memories[number].read(range, into: buffer)
                } catch {
                    fail("read", error)
                }
            }
            return 1
        }
    }

    func pairs(_ settings: Settings) -> Answers {
        let map = [RequestChain(RequestBytes.map(1, Self.mapped, Self.mapped + Self.page - 1, to: IOMMUDriver.data))]
        let unmap = [RequestChain(RequestBytes.unmap(1, Self.mapped, Self.mapped + Self.page - 1))]
        return Answers(samples(settings) { time(map) + time(unmap) })
    }

    func batches(_ settings: Settings) -> Answers {
        let places = (0..<64 as Range<UInt64>).map { Self.mapped + $0 * Self.page }
        let maps = places.map {
            RequestChain(RequestBytes.map(1, $0, $0 + Self.page - 1, to: IOMMUDriver.data + $0 - Self.mapped))
        }
        let unmaps = places.map { RequestChain(RequestBytes.unmap(1, $0, $0 + Self.page - 1)) }
        return Answers(
            samples(settings) {
                _ = time(maps)
                return time(unmaps)
            })
    }

    private func samples(_ settings: Settings, _ sample: () -> Double) -> [Double] {
        let wanted = settings.isQuick ? 200 : 2000
        let end = MonotonicInstant.after(settings.isQuick ? .seconds(1) : .seconds(4))
        var samples: [Double] = []
        while samples.count < wanted, samples.count < 20 || .now < end { samples.append(sample()) }
        return samples
    }

    /// The time from when the requests are available to when all are answered.
    private func time(_ chains: [RequestChain]) -> Double {
        let laid = chains.enumerated().map { driver.requests.lay($1, slot: $0) }
        driver.requests.offer(laid.map(\.head))
        let start = MonotonicInstant.now
        driver.kick(driver.requests)
        driver.wait { driver.requests.usedCount == chains.count }
        let nanoseconds = Double(MonotonicInstant.now.nanoseconds - start.nanoseconds)
        for slot in laid {
            _ = driver.requests.nextUsed()
            expect(driver.requests.bytes(of: slot.writable).first)
        }
        return nanoseconds
    }

    private func expect(_ status: UInt8?) {
        precondition(status == 0, "a request is granted")
    }
}

/// A device that reads what it is told to.
private final class BusyReader: PCIDeviceModel {
    let port: PCIPort

    init(port: PCIPort) { self.port = port }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 { 0 }
    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {}
    func reset() {}
}
