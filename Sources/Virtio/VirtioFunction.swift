public import LinuxHost
public import PCI

/// A virtio device as a PCI function: the modern transport, without what legacy drivers need. Virtio 1.2, 4.1
///
///     driver ── registers ──▶ VirtioTransport ── tasks ──▶ worker ──▶ device ◀──▶ Virtqueue ◀── guest memory ── driver
///
/// Registers are touched on the connection's thread; the device works on a thread of its own, one call at a time.
public final class VirtioFunction<Device: VirtioDevice>: PCIDeviceModel {
    public let device: Device
    private let transport: VirtioTransport
    private let configurationByteCount: Int
    private let worker: OSThread

    /// A function with a device behind it.
    ///
    /// - Parameters:
    ///   - route: where its accesses to memory go.
    ///   - report: told why the device needs a reset, on any thread.
    ///   - makeDevice: makes the device, which may keep the port.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public static func make(
        _ description: VirtioDescription, route: any DMARoute = DirectRoute(),
        report: @escaping @Sendable (VirtioFailure) -> Void = { _ in },
        _ makeDevice: (VirtioPort) throws(Errno) -> Device
    ) throws(Errno) -> PCIFunction<VirtioFunction<Device>> {
        try PCIFunction(PCIDescription(description), route: route) { (port) throws(Errno) in
            let transport = VirtioTransport(description, port, report: report)
            return try VirtioFunction(transport, description, try makeDevice(VirtioPort(transport)))
        }
    }

    private init(_ transport: VirtioTransport, _ description: VirtioDescription, _ device: Device) throws(Errno) {
        self.transport = transport
        self.device = device
        configurationByteCount = description.configurationByteCount
        worker = try OSThread(name: "virtio") { [lingering = description.lingering] in
            VirtioWorker(transport: transport, device: device, lingering: lingering).run()
        }
    }

    deinit {
        transport.update { $0.end() }
        worker.join()
    }

    public func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        guard bar == StructureLayout.bar else { return 0 }
        switch StructureAccess(at: offset) {
        case .common(let place): return transport.state.withLock { $0.readCommon(at: place, byteCount: byteCount) }
        case .interruptStatus:
            return offset == StructureLayout.interruptStatus.offset ? transport.readInterruptStatus() : 0
        case .device(let place):
            guard place + byteCount <= configurationByteCount else { return 0 }
            return device.readConfiguration(at: place, byteCount: byteCount)
        case .notify, nil: return 0
        }
    }

    public func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        guard bar == StructureLayout.bar else { return }
        switch StructureAccess(at: offset) {
        case .common(let place): transport.writeCommon(value, at: place, byteCount: byteCount)
        case .device(let place):
            guard place + byteCount <= configurationByteCount else { return }
            device.writeConfiguration(value, at: place, byteCount: byteCount)
        case .notify(let queue): transport.schedule(queue)
        case .interruptStatus, nil: break
        }
    }

    public func reset() { transport.reset() }

    public func didBecomeBusMaster() { transport.update { _ in } }
}
