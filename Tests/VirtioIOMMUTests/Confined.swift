import DMA
import DeviceModel
import IOMMUTestDriver
import LinuxHost
import PCI
import VirtioIOMMU

/// A device behind an IOMMU, with a client of its own that shows it the same guest memory.
final class Confined {
    let endpoint: IOMMUEndpoint
    let function: PCIFunction<Requester>
    let space = IOAddressSpace()
    private let memory: MemoryObject
    private(set) var isConnected = false

    var model: Requester { function.model }
    var id: UInt32 { endpoint.id.rawValue }

    init(_ driver: IOMMUDriver, id: UInt32 = 0x20, reserved: [ReservedRegion]? = nil, isConnected: Bool = true) throws {
        endpoint = driver.iommu.endpoint(id: EndpointID(id), reserved: reserved)
        memory = driver.memory
        let description = PCIDescription(
            vendorID: 0x1234, deviceID: 0x5678, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
            bars: [BaseAddressRegister(0, .memory32, byteCount: 0x1000)])
        function = PCIFunction(description, route: endpoint) { Requester(port: $0) }
        if isConnected { try connect() }
    }

    deinit { leave() }

    func connect() throws {
        if space.mappings().isEmpty {
            try space.map(
                .file(memory, offset: 0), at: IOVA(0), byteCount: UInt64(memory.byteCount), rights: [.read, .write])
        }
        try function.attach(to: space)
        isConnected = true
        becomeBusMaster()
    }

    func becomeBusMaster() {
        let bytes: [UInt8] = [6, 0]
        function.writeRegion(PCIRegion.configuration, at: 4, from: bytes.span)
    }

    func leave() {
        if isConnected { function.detach() }
        isConnected = false
    }

    /// Reads bytes by DMA.
    func read(_ address: UInt64, _ byteCount: Int = 1) throws -> [UInt8] {
        guard let memory = model.port.memory else { throw DMAError.noDevice }
        var bytes = [UInt8](repeating: 0, count: byteCount)
        let range = try IOVARange(first: IOVA(address), byteCount: UInt64(byteCount))
        var failure: DMAError?
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(DMAError) {
                unsafe try memory.read(range, into: buffer)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Writes bytes by DMA.
    func write(_ bytes: [UInt8], to address: UInt64) throws {
        guard let memory = model.port.memory else { throw DMAError.noDevice }
        var failure: DMAError?
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(DMAError) {
                unsafe try memory.write(buffer, to: IOVA(address))
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    /// Whether a byte can be read there.
    func reaches(_ address: UInt64) -> Bool { (try? read(address)) != nil }
}

extension IOMMUDriver {
    /// Guest memory by its address.
    subscript(_ address: UInt64) -> UInt8 {
        get { unsafe memory.bytes[Int(address)] }
        set { unsafe memory.bytes[Int(address)] = newValue }
    }

    /// Waits until nobody can have anything on the worker's list.
    func settle() {
        _ = send(RequestBytes.unmap(0xffff_fff0, 0, 0))
    }
}

/// The statuses of requests, by the standard's names.
enum Status {
    static let ok: UInt8 = 0
    static let notSupported: UInt8 = 2
    static let deviceError: UInt8 = 3
    static let invalid: UInt8 = 4
    static let outOfRange: UInt8 = 5
    static let notFound: UInt8 = 6
    static let outOfMemory: UInt8 = 8
}

/// What an IOMMU has reported.
final class EventLog: Sendable {
    private let log = Monitor<[IOMMUEvent]>([])

    func add(_ event: IOMMUEvent) { log.update { $0.append(event) } }

    var faults: [IOMMUFault] {
        log.withLock { events in
            events.compactMap { event in
                if case .fault(let fault) = event { fault } else { nil }
            }
        }
    }

    var rejections: [RejectedRequest] {
        log.withLock { events in
            events.compactMap { event in
                if case .rejected(let rejected) = event { rejected } else { nil }
            }
        }
    }

    var waits: Int {
        log.withLock { events in
            events.count { event in
                switch event {
                case .unmapWaits, .moveWaits: true
                case .fault, .rejected: false
                }
            }
        }
    }

    /// Waits until there are so many faults.
    func waitForFaults(_ count: Int) -> [IOMMUFault] {
        log.wait { events -> [IOMMUFault]? in
            let faults = events.compactMap { event -> IOMMUFault? in
                if case .fault(let fault) = event { fault } else { nil }
            }
            return faults.count >= count ? faults : nil
        }
    }
}

let page: UInt64 = 0x1000
let data = IOMMUDriver.data
