public import DMA
import LinuxHost

/// The way of a function's accesses to memory: straight to what its client shows it, or through an IOMMU.
///
/// A function says when it has a client and when it has none, and adds an access for the work of every time between two
/// resets. The route attaches an access to the address space where accesses go at the moment, and may move all of them to
/// another whenever that changes; nobody else changes the attachment of an access between `add` and `remove`.
///
/// `connect`, `add`, `remove` and `disconnect` come on the thread of the function's connection, one at a time, and must not
/// wait for that client; `didFail` comes on any thread.
public protocol DMARoute: AnyObject, Sendable {
    /// The function has a client, which shows it this memory.
    func connect(to memory: IOAddressSpace)

    /// The client is gone. Every access has been removed before.
    func disconnect()

    /// Takes an access in and attaches it.
    ///
    /// - Throws: as `DMAAccess.attach`.
    func add(_ access: DMAAccess) throws(DMAError)

    /// Detaches an access and lets it go.
    ///
    /// - Throws: `EDEADLOCK` when the device keeps pins though told for as long as an unmap would; then nothing has
    ///   changed. `EINVAL` for one that is not there.
    func remove(_ access: DMAAccess) throws(DMAError)

    /// The device was refused an access because something in the range is not mapped, or not for what it wanted to do.
    ///
    /// Called inside whatever the device does, so it must neither wait nor call the device. An access that comes while the
    /// route moves it is refused as if nothing were mapped.
    func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights)
}

/// The route without an IOMMU: addresses are the client's.
public final class DirectRoute: DMARoute {
    private let memory = Monitor<IOAddressSpace?>(nil)

    public init() {}

    public func connect(to memory: IOAddressSpace) { self.memory.withLock { $0 = memory } }

    public func disconnect() { memory.withLock { $0 = nil } }

    public func add(_ access: DMAAccess) throws(DMAError) {
        guard let memory = memory.withLock({ $0 }) else { throw .notFound }
        try access.attach(to: memory)
    }

    public func remove(_ access: DMAAccess) throws(DMAError) { try access.detach() }

    public func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights) {}
}
