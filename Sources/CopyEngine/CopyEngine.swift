import DMA
public import LinuxHost
public import PCI
import SVA

/// A device that copies and fills memory in address spaces which its driver makes, and asks the driver for pages that are
/// missing there.
///
/// The smallest device with everything that accelerators with shared virtual addressing have: accesses with PASIDs, address
/// spaces, page requests and the driver's answers, work that goes on when its pages have come, and an orderly end of all that.
/// `DriverGuide` in the documentation says how it is used. Behind an IOMMU it is a device with an MMU of its own.
///
/// Not implemented: migration; page requests to the IOMMU in front of it.
public final class CopyEngine: PCIDeviceModel {
    /// What a user may choose.
    public struct Options: Sendable {
        /// What PASIDs may be below.
        public static let pasidLimits = 2...(1 << 20)
        public static let workerLimits = 1...64
        public static let mappingLimits = 1...(1 << 24)

        /// PASIDs are below. An address space takes about twenty kilobytes, so this bounds what a driver makes the device
        /// take in one session.
        public var pasidLimit = 1 << 10
        /// How many pieces of work are under way at a time, those that wait for pages among them.
        public var workers = 4
        /// How long a page request waits for the driver's answer.
        public var pageTimeout: Duration = .seconds(10)
        /// How many mappings all address spaces may have together. Each takes a few hundred bytes.
        public var maximumMappings = 1 << 20

        public init() {}
    }

    /// What is mapped, and what is asked for at a time.
    static let pageSize: UInt64 = 4096
    /// What is copied at a time; a multiple of eight. A group asks for as many pages at most.
    static let pieceByteCount = 64 << 10
    static let requestsPerGroup = pieceByteCount / Int(pageSize)
    static let outstandingRequests = 256

    private let engine: Engine
    private let faultQueue: FaultQueue
    private let threads: [OSThread]

    /// A function with the device behind it.
    ///
    /// - Parameter route: where its accesses to memory go.
    /// - Precondition: the numbers in `options` are within the limits that it names.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public static func makeFunction(
        _ options: Options = Options(), route: any DMARoute = DirectRoute()
    ) throws(Errno) -> PCIFunction<CopyEngine> {
        precondition(Options.pasidLimits.contains(options.pasidLimit), "PASIDs have at most 20 bits")
        precondition(Options.workerLimits.contains(options.workers), "the options have a valid worker number")
        precondition(Options.mappingLimits.contains(options.maximumMappings), "the options have a valid mapping number")
        return try PCIFunction(description, route: route) { (port) throws(Errno) in
            try CopyEngine(port: port, options)
        }
    }

    /// The registers as a Markdown table, which is how the documentation shows them.
    public static var registerTable: String { registers(Options()).markdownTable }

    static func registers(_ options: Options) -> RegisterMap<CopyEngineRegister> {
        CopyEngineRegister.map(
            pasidLimit: options.pasidLimit, requestsPerGroup: requestsPerGroup,
            outstandingRequests: outstandingRequests)
    }

    private static let description = PCIDescription(
        vendorID: 0x1234, deviceID: 0xc0e1, subsystemVendorID: 0x1234, subsystemID: 0xc0e1, revision: 1,
        classCode: PCIClassCode(baseClass: 0x12, subclass: 0x00),
        bars: [BaseAddressRegister(0, .memory64, byteCount: 0x4000)], hasInterruptPin: false,
        msix: MSIXDescription(
            vectorCount: InterruptVector.count, bar: 0, tableOffset: 0x2000, pendingOffset: 0x3000))

    private init(port: PCIPort, _ options: Options) throws(Errno) {
        var configuration = FaultQueue.Configuration()
        // Its threads only look at deadlines: the driver answers.
        configuration.threadCount = 1
        configuration.responseTime = options.pageTimeout
        let faultQueue = try FaultQueue(configuration)
        let engine = Engine(port: port, options, faultQueue)
        var threads: [OSThread] = []
        do throws(Errno) {
            threads.append(try OSThread(name: "copy control") { engine.runControl() })
            for number in 0..<options.workers {
                threads.append(try OSThread(name: "copy-\(number)") { engine.runWorker() })
            }
        } catch {
            engine.stop()
            for thread in threads { thread.join() }
            throw error
        }
        self.engine = engine
        self.faultQueue = faultQueue
        self.threads = threads
    }

    deinit {
        engine.stop()
        for thread in threads { thread.join() }
        faultQueue.stop()
    }

    public func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        engine.readRegister(at: offset, byteCount: byteCount)
    }

    public func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        engine.writeRegister(value, at: offset, byteCount: byteCount)
    }

    public func reset() { engine.reset() }

    public func didLoseClient() { engine.reset() }

    public var hasPendingTransactions: Bool { engine.hasPendingTransactions }
}
