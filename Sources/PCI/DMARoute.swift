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

/// The route without an IOMMU of this process: addresses are the client's.
public final class DirectRoute: DMARoute {
    private struct State {
        var memory: IOAddressSpace?
        /// Whether the client in question has been told of.
        var isReported = false
    }

    private let state = Monitor(State())
    private let onNothingMapped: @Sendable () -> Void

    /// - Parameter onNothingMapped: told once for each client, on the thread of an access that fails while the client shows
    ///   no memory at all: it is then most likely the guest's IOMMU, or a client that does not pass on what that maps.
    public init(onNothingMapped: @escaping @Sendable () -> Void = {}) {
        self.onNothingMapped = onNothingMapped
    }

    public func connect(to memory: IOAddressSpace) { state.withLock { $0 = State(memory: memory) } }

    public func disconnect() { state.withLock { $0 = State() } }

    public func add(_ access: DMAAccess) throws(DMAError) {
        guard let memory = state.withLock({ $0.memory }) else { throw .notFound }
        try access.attach(to: memory)
    }

    public func remove(_ access: DMAAccess) throws(DMAError) { try access.detach() }

    public func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights) {
        let memory = state.withLock { $0.isReported ? nil : $0.memory }
        guard let memory, memory.isEmpty else { return }
        let isFirst = state.withLock { state in
            defer { state.isReported = true }
            return !state.isReported && state.memory === memory
        }
        if isFirst { onNothingMapped() }
    }
}
