import DMA
import LinuxHost

/// The PASIDs of one system of devices, and the one lock over who is bound to which context.
///
/// Contexts and devices name the space they belong to; only those of the same space are bound to each other. A binding is
/// made in three steps: reserved under the lock, attached to the device without it, and settled under it. So a thread that
/// binds what another is just binding waits for that one, and two threads never attach or detach the same.
public final class PASIDSpace: Sendable {
    let bindings = Monitor(Bindings(), as: .bindings)

    public init() {}

    /// How many PASIDs are taken.
    public var pasidCount: Int { bindings.withLock { $0.pasidCount } }

    func pasid(of context: AddressSpaceContext) -> PASID? {
        bindings.withLock { $0.pasid(of: ObjectIdentifier(context)) }
    }

    func domainUsers(of context: AddressSpaceContext) -> [Int] {
        bindings.withLock { $0.domainUsers(of: ObjectIdentifier(context)) }
    }

    func users(of handle: SVAHandle) -> Int { bindings.withLock { $0.users(of: handle.key, handle) } }

    func claim(_ pasid: PASID, for context: AddressSpaceContext) throws(DMAError) {
        try bindings.withLock { (bindings) throws(DMAError) in
            try bindings.claim(pasid, for: ObjectIdentifier(context))
        }
    }

    func end(_ context: AddressSpaceContext) { bindings.withLock { $0.end(ObjectIdentifier(context)) } }

    func forget(_ context: AddressSpaceContext) { bindings.withLock { $0.forget(ObjectIdentifier(context)) } }

    func bind(_ device: SVADevice, _ context: AddressSpaceContext) throws(DMAError) -> SVAHandle {
        let step = bindings.wait { bindings -> Result<Bindings.Step, DMAError>? in
            do throws(DMAError) {
                return try bindings.beginBind(device, context).map { .success($0) }
            } catch {
                return .failure(error)
            }
        }
        switch try step.get() {
        case .shared(let handle):
            return handle
        case .new(let handle):
            do throws(DMAError) {
                try device.attach(handle)
            } catch {
                _ = bindings.update { $0.remove(handle) }
                throw error
            }
            bindings.update { $0.didAttach(handle) }
            return handle
        }
    }

    func unbind(_ handle: SVAHandle) throws(DMAError) {
        guard bindings.update({ $0.beginUnbind(handle) }) else { return }
        do throws(DMAError) {
            try handle.device.detach(handle)
        } catch {
            bindings.update { $0.didNotDetach(handle) }
            throw error
        }
        finishUnbind(handle)
    }

    /// Undoes all bindings of a device that is being removed, and waits for as long as it keeps pins.
    func unbindAll(of device: SVADevice) {
        while true {
            let next = bindings.wait { bindings -> Bindings.Next? in
                let next = bindings.beginNextForcedUnbind(of: device)
                if case .wait = next { return nil }
                return next
            }
            guard case .detach(let handle) = next else { return }
            while true {
                do throws(DMAError) {
                    try device.detach(handle)
                    break
                } catch {
                    // It keeps pins. Nothing else makes a detachment fail, and it has been told for as long as an unmap.
                    continue
                }
            }
            finishUnbind(handle)
        }
    }

    private func finishUnbind(_ handle: SVAHandle) {
        let isLast = bindings.update { $0.remove(handle) }
        if isLast { handle.device.trace(.domainFreed(handle.number)) }
    }
}
