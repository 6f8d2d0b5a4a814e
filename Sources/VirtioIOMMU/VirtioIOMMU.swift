import DMA
public import LinuxHost
public import PCI
public import Virtio

/// An IOMMU that a guest programs through virtio queues, for devices of this process. Virtio 1.2, 5.13
///
///     driver ── requests ──▶ VirtioIOMMU ──▶ Domains ── pieces ──▶ address space of a domain ◀── accesses of devices
///       ▲                                      ▲                                                        │
///       │                                      └── sections of guest memory ◀── its own client          │ what is refused
///       └──────── faults ◀── FaultOutbox ◀── FaultReporter ◀── FaultQueue ◀── IOMMUEndpoint ◀───────────┘
///
/// A domain is an address space of its own, so a mapping of the guest costs no message. The memory that domains show is that
/// of the client of the IOMMU's own function; an endpoint that translates nothing reaches that of its own function's client.
/// All of them are taken to be one guest.
///
/// Requests that the driver makes available together are one batch: each takes effect in its turn, and what was unmapped
/// leaves a domain's address space at once, before anything that could notice and before the driver sees any answer.
///
/// Threads: requests on the function's worker, faults on a thread of their own, the configuration and guest memory on the
/// connection's thread. A write to `bypass` is carried out before it is answered, or, while the worker has requests at hand,
/// before it looks at any that are made available afterwards.
///
/// Not implemented: migration, page tables of the guest, PASIDs and page requests.
public final class VirtioIOMMU: VirtioDevice {
    /// Device type 23, of the class of IOMMUs.
    private static let deviceType: UInt16 = 23
    private static let classCode = PCIClassCode(baseClass: 0x08, subclass: 0x06)
    /// As many as QEMU's has; a batch is no longer.
    static let queueSize = 256

    /// A driver waits for its requests with interrupts off, and one often follows another: a buffer is mapped, used and
    /// unmapped.
    private static let lingering = Duration.microseconds(50)

    /// The numbers of the queues.
    enum Queue {
        static let requests = 0
        static let events = 1
    }

    let domains: Domains
    let port: VirtioPort
    let outbox = FaultOutbox()
    let requests = Monitor(RequestState())
    private let route: IOMMURoute
    private let faults = FaultQueue()
    private let reporter: OSThread

    public var options: Options { domains.options }

    /// A function with an IOMMU behind it.
    ///
    /// - Parameters:
    ///   - report: told what happens, on several threads; must not take long.
    ///   - reportFailure: told why the driver has to reset the IOMMU, on any thread.
    /// - Throws: `EAGAIN` when there is no room for more threads.
    /// - Precondition: the options are ones that an IOMMU can have.
    public static func makeFunction(
        _ options: Options = Options(), report: @escaping @Sendable (IOMMUEvent) -> Void = { _ in },
        reportFailure: @escaping @Sendable (VirtioFailure) -> Void = { _ in }
    ) throws(Errno) -> PCIFunction<VirtioFunction<VirtioIOMMU>> {
        let domains = Domains(options, report: report)
        let route = IOMMURoute(domains)
        var description = VirtioDescription(
            deviceType: deviceType, classCode: classCode,
            features: [.inputRange, .domainRange, .mapUnmap, .probe, .mmio, .bypassConfiguration],
            queueSizes: [queueSize, queueSize], configurationByteCount: ConfigurationLayout.byteCount)
        description.lingering = lingering
        return try VirtioFunction.make(description, route: route, report: reportFailure) { (port) throws(Errno) in
            try VirtioIOMMU(domains, route, port)
        }
    }

    private init(_ domains: Domains, _ route: IOMMURoute, _ port: VirtioPort) throws(Errno) {
        self.domains = domains
        self.route = route
        self.port = port
        let reporter = FaultReporter(faults: faults, domains: domains, outbox: outbox, report: domains.report)
        self.reporter = try OSThread(name: "iommu-faults") { reporter.run { port.schedule(Queue.events) } }
    }

    deinit {
        faults.end()
        reporter.join()
    }

    /// A place for a function behind the IOMMU, to be its route. Made before a guest runs; there for the IOMMU's life.
    ///
    /// - Parameters:
    ///   - id: the number by which the guest knows it, as the platform's tables say.
    ///   - reserved: where it can have no mappings; `nil` for what the options say.
    /// - Precondition: there is none with this number; the regions do not overlap, and one at most is for messages.
    public func endpoint(id: EndpointID, reserved: [ReservedRegion]? = nil) -> IOMMUEndpoint {
        let reserved = reserved ?? options.reservedRegions
        precondition(reserved.count { $0.kind == .messages } <= 1, "an endpoint has one region for messages at most")
        for (index, region) in reserved.enumerated() {
            precondition(
                !reserved[..<index].contains { $0.range.overlaps(region.range) }, "reserved regions do not overlap")
        }
        let endpoint = IOMMUEndpoint(
            id: id, reserved: reserved, placement: domains.state.withLock { $0.placement(of: id) },
            nowhere: domains.nowhere, faults: faults)
        domains.add(endpoint)
        return endpoint
    }

    /// What has been counted so far.
    public var statistics: IOMMUStatistics {
        var statistics = domains.state.withLock { $0.statistics }
        statistics.suppressedFaultCount = faults.suppressedCount
        statistics.untoldFaultCount = outbox.droppedCount
        return statistics
    }
}

/// The configuration, on the connection's thread.
extension VirtioIOMMU {
    public func readConfiguration(at offset: Int, byteCount: Int) -> UInt64 {
        let bytes = ConfigurationLayout.bytes(options, bypass: domains.state.withLock { $0.wantsBypass })
        return bytes[offset..<offset + byteCount].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Takes a whole write of 0 or 1 to the one field that can be written, if the driver has accepted that it is there; any
    /// other changes nothing.
    public func writeConfiguration(_ value: UInt64, at offset: Int, byteCount: Int) {
        guard offset == ConfigurationLayout.bypassOffset, byteCount == 1, value <= 1,
            port.features.contains(.bypassConfiguration)
        else { return }
        domains.setBypass(value == 1)
    }
}

/// The device's life, on the worker.
extension VirtioIOMMU {
    public func start(features: VirtioFeatures) {
        requests.withLock { $0.features = features }
    }

    public func process(_ queue: inout Virtqueue, number: Int) throws(VirtqueueError) {
        switch number {
        case Queue.requests: try processRequests(&queue)
        default: try tellFaults(&queue)
        }
    }

    /// All endpoints are attached to nothing, and nothing is mapped. What the driver has written to `bypass` survives its own
    /// resets, not those of the machine.
    public func reset(_ kind: VirtioReset) {
        if kind == .function { domains.state.withLock { $0.wantsBypass = options.startsInBypass } }
        outbox.count(dropped: outbox.takeAll().count)
        domains.work { domains.reset() }
    }

    /// As long as nobody wants the device to stop.
    var patience: Patience {
        Patience { [port, route] in port.isResetWanted || route.isEnding }
    }

    /// Tells the driver of faults, one to a buffer. Those for which there is none, or a small one, are dropped: a device's
    /// work must not wait for the driver.
    private func tellFaults(_ queue: inout Virtqueue) throws(VirtqueueError) {
        let records = outbox.takeAll()
        for (index, record) in records.enumerated() {
            guard let buffer = try queue.next() else {
                outbox.count(dropped: records.count - index)
                return
            }
            guard buffer.writableByteCount >= FaultRecord.byteCount else {
                outbox.count(dropped: 1)
                queue.complete(buffer, writtenByteCount: 0)
                continue
            }
            try queue.write(record.bytes.span, to: buffer)
            queue.complete(buffer, writtenByteCount: FaultRecord.byteCount)
        }
    }
}
