public import DMA
import Synchronization

/// Guest memory as a function reaches it: for work that was begun between one reset and the next, with one client.
///
/// Without the bus master bit every access fails as if nothing were mapped, and so does every access once the memory has
/// ended. Any thread may use it at any time; see `DMAAccess` for what each call asks for and throws.
public final class GuestMemory: Sendable {
    let access: DMAAccess
    private let busMaster: BusMaster
    private let route: any DMARoute
    /// Apart from the attachment, which pins may hold up.
    private let hasEnded = Atomic<Bool>(false)

    init(of busMaster: BusMaster, over route: any DMARoute, _ onUnmap: @escaping @Sendable (IOVARange) -> Void) {
        self.busMaster = busMaster
        self.route = route
        access = DMAAccess(needsPin: true, onUnmap: onUnmap)
    }

    public func read(_ range: IOVARange, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try checkAccess()
        do throws(DMAError) {
            unsafe try access.read(range, into: buffer)
        } catch {
            throw tell(error, range, .read)
        }
    }

    public func write(_ bytes: UnsafeRawBufferPointer, to address: IOVA) throws(DMAError) {
        try checkAccess()
        do throws(DMAError) {
            unsafe try access.write(bytes, to: address)
        } catch {
            let range = try? IOVARange(first: address, byteCount: UInt64(bytes.count))
            throw range.map { tell(error, $0, .write) } ?? error
        }
    }

    /// Calls `body` with guest memory where it is, for a few bytes at a time; see `DMAAccess.withMemory`.
    public func withMemory(
        _ range: IOVARange, rights: AccessRights, _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(DMAError) {
        try checkAccess()
        do throws(DMAError) {
            unsafe try access.withMemory(range, rights: rights, body)
        } catch {
            throw tell(error, range, rights)
        }
    }

    /// Pins guest memory for direct use. Pins hold up unmaps, resets and the end of the client, so they last no longer
    /// than the work that needs them.
    public func pin(_ range: IOVARange, rights: AccessRights) throws(DMAError) -> PinnedMemory {
        try checkAccess()
        do throws(DMAError) {
            return try access.pin(range, rights: rights)
        } catch {
            throw tell(error, range, rights)
        }
    }

    /// Ends the memory: accesses fail from now on. `false` when some that began before have not ended in the time that
    /// an unmap would give them.
    func end() -> Bool {
        hasEnded.store(true, ordering: .releasing)
        do throws(DMAError) {
            try route.remove(access)
            return true
        } catch {
            return error != .deadlock
        }
    }

    /// Has the route hear of a failure that is a fault of translation, unless the memory has ended meanwhile.
    private func tell(_ error: DMAError, _ range: IOVARange, _ rights: AccessRights) -> DMAError {
        if error == .notFound || error == .notPermitted, !hasEnded.load(ordering: .acquiring) {
            route.didFail(access, at: range, wanting: rights)
        }
        return error
    }

    private func checkAccess() throws(DMAError) {
        guard busMaster.isEnabled, !hasEnded.load(ordering: .acquiring) else { throw .notFound }
    }
}

/// Whether a function may start accesses to memory, as its port knows it and the memory that the port has given out asks
/// before every access.
final class BusMaster: Sendable {
    private let state = Atomic<Bool>(false)

    var isEnabled: Bool {
        get { state.load(ordering: .acquiring) }
        set { state.store(newValue, ordering: .releasing) }
    }
}
