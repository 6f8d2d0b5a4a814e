public import DMA
public import DeviceModel
import LinuxHost

/// A device model behind a PCI function: what is left when configuration space, interrupts and the plumbing of guest
/// memory are the function's.
///
/// `readRegister` and the other calls from the bus come on the connection's thread, one at a time, and must wait neither
/// for a disk nor for guest memory (see `Device`); a model does such work on threads of its own.
public protocol PCIDeviceModel: AnyObject, Sendable {
    /// Reads 1, 2, 4 or 8 bytes, naturally aligned, from a BAR.
    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64

    /// Writes the 1, 2, 4 or 8 low bytes of `value`, naturally aligned, to a BAR.
    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int)

    /// Back to the state after power-on, with the interrupt line released. Guest memory that the port gave out before
    /// has ended already, so what is still being worked on can only come to nothing; it need not be waited for.
    func reset()

    /// Guest memory in `range` is about to go: when this returns, the model holds no pin in it. Any thread may call it,
    /// also several at once. Models whose pins end by themselves soon need not implement it.
    func release(_ range: IOVARange)

    /// The guest has allowed accesses to its memory, which it had not before: work that waited for that may go on.
    /// On the connection's thread, as the accesses.
    func didBecomeBusMaster()

    /// The client is gone, and the guest memory it had with it: what was begun for it is for nobody. On the connection's
    /// thread. The next client resets the device or goes on with it as it is then.
    func didLoseClient()

    /// Whether the device has started accesses to guest memory that have not ended. Shown in the PCI Express device
    /// status register; drivers look at it before they reset the function.
    var hasPendingTransactions: Bool { get }
}

extension PCIDeviceModel {
    public func release(_ range: IOVARange) {}
    public func didBecomeBusMaster() {}
    public func didLoseClient() {}
    public var hasPendingTransactions: Bool { false }
}

/// A PCI function: configuration space, BARs and interrupts around a device model.
public final class PCIFunction<Model: PCIDeviceModel>: Device {
    public let model: Model
    public let regions: [Region]
    let port: PCIPort
    /// By region.
    let memory: [BarMemory?]

    public var interrupts: InterruptSet { port.interrupts }

    public var doorbells: [Doorbell] { port.description.doorbells }

    /// Makes the model, which may keep the port it is given, and puts it behind a new function.
    ///
    /// - Parameter route: where its accesses to memory go; for this function alone.
    /// - Precondition: the description is one that a function can have.
    public init<Failure: Error>(
        _ description: PCIDescription, route: any DMARoute = DirectRoute(),
        model makeModel: (PCIPort) throws(Failure) -> Model
    ) throws(Failure) {
        let relay = UnmapRelay<Model>()
        port = PCIPort(description, route: route) { relay.model?.release($0) }
        model = try makeModel(port)
        relay.model = model
        let regions = description.regions
        memory = regions.indices.map { index in description.memory.first { $0.bar == index } }
        self.regions = regions
    }

    public func reset() {
        // Memory goes first, so that what the model is still doing gets no further. What it raised until its own reset
        // was done goes with the second time.
        port.update { $0.reset() }
        port.renewMemory()
        model.reset()
        port.update { $0.reset() }
        interrupts.forgetPending()
    }

    public func attach(to space: IOAddressSpace) throws(DMAError) { try port.attach(to: space) }

    public func detach() {
        port.detach()
        model.didLoseClient()
    }
}

/// Leads unmap notices to a model that does not exist yet when the port that sends them is made, and does not keep it.
private final class UnmapRelay<Model: PCIDeviceModel>: Sendable {
    private struct Holder {
        weak var model: Model?
    }

    private let holder = Monitor(Holder())

    var model: Model? {
        get { holder.withLock { $0.model } }
        set { holder.withLock { $0.model = newValue } }
    }
}
