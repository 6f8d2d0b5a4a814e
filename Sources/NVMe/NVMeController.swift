public import BlockStorage
public import LinuxHost
public import PCI

/// An NVMe controller with one namespace, which shows a block store to the guest.
///
/// NVM Express base specification 2.0 and NVM command set specification 1.0, over PCI Express. Registers, doorbells and
/// interrupt vectors are in BAR 0. The target knows nothing of the protocol by which a guest reaches the function, nor what
/// the store is made of.
///
/// Not implemented, and said so to the host: namespace management, Format, firmware download, self-test, sanitize,
/// security, directives, reservations, Write Uncorrectable, Copy, metadata and protection information, scatter-gather
/// lists, controller memory buffer, shadow doorbells, weighted arbitration, keep-alive.
///
/// Every doorbell comes by message. It carries a value, how far its queue has got, and the event counter of a `Doorbell`
/// carries none. Beside a counter the value could lie in a page that is shared with the client, but only somebody who sees
/// the guest's write can put it there: KVM, which has no such page, or a client that traps the write itself, which then is
/// as quick to send it. NVMe's own way is the shadow doorbell buffer, where the guest's driver puts the values; without a
/// trap it leaves nothing for a counter to do.
public final class NVMeController: PCIDeviceModel {
    let engine: NVMeEngine
    private let workers: [OSThread]

    /// A function with the controller behind it.
    ///
    /// - Parameter route: where its transfers go.
    /// - Precondition: the numbers in `options` are within the limits that it names.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public static func makeFunction(
        store: any BlockStore, options: Options, route: any DMARoute = DirectRoute()
    ) throws(Errno) -> PCIFunction<NVMeController> {
        precondition(Options.queuePairLimits.contains(options.queuePairs), "the options have a valid queue number")
        precondition(Options.workerLimits.contains(options.workers), "the options have a valid worker number")
        return try PCIFunction(description(options), route: route) { (port) throws(Errno) in
            try NVMeController(port: port, store: store, options: options)
        }
    }

    /// The registers as a Markdown table, which is how the documentation shows them.
    public static var registerTable: String {
        let capabilities = ControllerCapabilities(maximumQueueEntries: ControllerIdentity.maximumQueueEntries)
        return NVMeRegister.map(capabilities).markdownTable
    }

    /// BAR 0: registers, from 0x1000 on doorbells (of 65 queue pairs at most, 520 bytes), then the MSI-X structures.
    private enum Layout {
        static let byteCount: UInt64 = 0x4000
        static let vectorTable: UInt64 = 0x2000
        static let pendingBits: UInt64 = 0x3000
    }

    private static func description(_ options: Options) -> PCIDescription {
        // One MSI vector for a guest without MSI-X: the queues then share it, as they share the line of one without either.
        PCIDescription(
            vendorID: ControllerIdentity.vendorID, deviceID: ControllerIdentity.deviceID,
            subsystemVendorID: ControllerIdentity.subsystemVendorID, subsystemID: ControllerIdentity.subsystemID,
            classCode: PCIClassCode(baseClass: 0x01, subclass: 0x08, interface: 0x02),
            bars: [BaseAddressRegister(0, .memory64, byteCount: Layout.byteCount)],
            msi: MSIDescription(vectorCount: 1),
            msix: MSIXDescription(
                vectorCount: options.queuePairs + 1, bar: 0, tableOffset: Layout.vectorTable,
                pendingOffset: Layout.pendingBits),
            serialNumber: StableHash(options.serial.text.utf8).value)
    }

    private init(port: PCIPort, store: any BlockStore, options: Options) throws(Errno) {
        let engine = NVMeEngine(port: port, store: store, options: options)
        var workers: [OSThread] = []
        for number in 0..<engine.identity.workerCount {
            do throws(Errno) {
                workers.append(try OSThread(name: "nvme-\(number)") { engine.run(worker: number) })
            } catch {
                engine.stop()
                for worker in workers { worker.join() }
                throw error
            }
        }
        self.engine = engine
        self.workers = workers
    }

    deinit {
        engine.stop()
        for worker in workers { worker.join() }
    }

    public func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        engine.readRegister(at: offset, byteCount: byteCount)
    }

    public func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        engine.writeRegister(value, at: offset, byteCount: byteCount)
    }

    public func reset() {
        engine.reset()
    }

    public func didBecomeBusMaster() {
        engine.update { _ in }
    }

    public var hasPendingTransactions: Bool { engine.isExecuting }
}
