public import DMA

/// What a session needs of any device: the waist between the protocol and the device models.
///
/// A session calls every method on its connection's thread, one at a time, and owes the client an answer while it does:
/// none of them may wait for a disk, or for guest memory, which may be reachable only by messages that this very thread
/// must deliver. Devices do such work on threads of their own and report it with an interrupt.
public protocol Device: AnyObject, Sendable {
    /// The windows, by their VFIO index; constant. For a PCI device: BARs 0 to 5, ROM, configuration space, VGA.
    var regions: [Region] { get }

    /// The registers that a client may write to without a message; constant, and none unless a device says so.
    var doorbells: [Doorbell] { get }

    /// The interrupts, which the session connects to the client and the device raises.
    var interrupts: InterruptSet { get }

    /// Fills `bytes` from a region.
    ///
    /// The session has checked that the region exists, is readable and holds the whole access.
    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>)

    /// Stores `bytes` into a region; checked as for reads.
    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>)

    /// Puts the device into its state after power-on. When it returns, the device touches no guest memory on account
    /// of anything that was asked of it before. Interrupt connections and guest memory stay. `VFIO_USER_DEVICE_RESET`
    func reset()

    /// Gives the device guest memory to work on, or takes it away.
    ///
    /// A session attaches before it answers the client's first message, and detaches when the client is gone; after
    /// `detach` returns, the device touches no guest memory.
    func attach(to space: IOAddressSpace) throws(DMAError)
    func detach()
}

extension Device {
    public var doorbells: [Doorbell] { [] }
}
