import DMA

/// Who is bound to which context, and which numbers that takes.
///
///     (nothing) ── bind ──▶ attaching ──▶ bound ── last unbind ──▶ detaching ──▶ (nothing)
///                               │           ▲                          │
///                               ▼           └── the device keeps pins ─┘
///                           (nothing)
///
/// A value under the lock of a `PASIDSpace`. While a binding is attaching or detaching its thread works without the lock,
/// and whoever wants the same binding waits for it.
struct Bindings {
    struct Key: Hashable {
        let device: ObjectIdentifier
        let context: ObjectIdentifier
    }

    enum Progress: Equatable {
        case attaching
        case bound(users: Int)
        case detaching
    }

    /// What has become of a request to bind.
    enum Step {
        /// The binding was there and has one user more.
        case shared(SVAHandle)
        /// The caller attaches it and then says how that went.
        case new(SVAHandle)
    }

    private struct Binding {
        let handle: SVAHandle
        var progress: Progress
    }

    private struct DomainUse {
        let domain: SVADomain
        /// Devices that are bound, or about to be.
        var users: Int
    }

    private struct ContextEntry {
        var pasid: PASID?
        var hasExited = false
        var domains: [DomainUse] = []
    }

    private var numbers = PASIDSet()
    private var contexts: [ObjectIdentifier: ContextEntry] = [:]
    private var bindings: [Key: Binding] = [:]
    /// How many threads are changing attachments of a device that are no bindings.
    private var changes: [ObjectIdentifier: Int] = [:]

    var pasidCount: Int { numbers.count }

    func pasid(of context: ObjectIdentifier) -> PASID? { contexts[context]?.pasid }

    func domainUsers(of context: ObjectIdentifier) -> [Int] { contexts[context]?.domains.map(\.users) ?? [] }

    func users(of key: Key, _ handle: SVAHandle) -> Int {
        guard let binding = bindings[key], binding.handle === handle else { return 0 }
        return if case .bound(let users) = binding.progress { users } else { 0 }
    }

    // Contexts

    mutating func claim(_ pasid: PASID, for context: ObjectIdentifier) throws(DMAError) {
        guard numbers.insert(pasid) else { throw .busy }
        contexts[context] = ContextEntry(pasid: pasid)
    }

    /// The process is gone. Its number is free once no device is bound.
    mutating func end(_ context: ObjectIdentifier) {
        contexts[context, default: ContextEntry()].hasExited = true
        releaseNumber(of: context)
    }

    /// Nobody refers to it any more, so no device is bound.
    mutating func forget(_ context: ObjectIdentifier) {
        if let pasid = contexts.removeValue(forKey: context)?.pasid { numbers.remove(pasid) }
    }

    private mutating func releaseNumber(of context: ObjectIdentifier) {
        guard let entry = contexts[context], entry.hasExited, entry.domains.isEmpty, let pasid = entry.pasid else {
            return
        }
        numbers.remove(pasid)
        contexts[context]?.pasid = nil
    }

    // Attachments that are no bindings

    /// - Throws: `ENODEV` for a device that was removed; `EBUSY` while it is reset or removed.
    mutating func beginChange(of device: SVADevice) throws(DMAError) {
        try Bindings.checkLife(of: device)
        changes[ObjectIdentifier(device), default: 0] += 1
    }

    mutating func endChange(of device: SVADevice) {
        let id = ObjectIdentifier(device)
        changes[id] = changes[id].flatMap { $0 > 1 ? $0 - 1 : nil }
    }

    func isChanging(_ device: SVADevice) -> Bool { changes[ObjectIdentifier(device)] != nil }

    private static func checkLife(of device: SVADevice) throws(DMAError) {
        switch device.life {
        case .removed: throw .noDevice
        case .stopping: throw .busy
        case .idle, .running: break
        }
    }

    // Binding

    /// Begins to bind, or says that it has to wait by `nil`.
    ///
    /// - Throws: as `SVADevice.bind`, before anything has changed but the context's number.
    mutating func beginBind(_ device: SVADevice, _ context: AddressSpaceContext) throws(DMAError) -> Step? {
        let key = Key(device, context)
        try Bindings.checkLife(of: device)
        guard device.maximumPASIDs > 0 else { throw .notSupported }
        if let binding = bindings[key] {
            guard case .bound(let users) = binding.progress else { return nil }
            bindings[key]?.progress = .bound(users: users + 1)
            return .shared(binding.handle)
        }
        let id = ObjectIdentifier(context)
        var entry = contexts[id] ?? ContextEntry()
        guard !entry.hasExited else { throw .invalid }
        let pasid: PASID
        if let own = entry.pasid {
            guard own.rawValue < device.maximumPASIDs else { throw .overflow }
            pasid = own
        } else {
            guard let new = numbers.insertLowest(below: device.maximumPASIDs) else { throw .noSpace }
            entry.pasid = new
            pasid = new
        }
        let domain: SVADomain
        if let index = entry.domains.firstIndex(where: { $0.domain.queue === device.faultQueue }) {
            entry.domains[index].users += 1
            domain = entry.domains[index].domain
        } else {
            domain = SVADomain(of: context, behind: device.faultQueue)
            entry.domains.append(DomainUse(domain: domain, users: 1))
        }
        contexts[id] = entry
        let handle = SVAHandle(of: device, in: domain, as: pasid)
        bindings[key] = Binding(handle: handle, progress: .attaching)
        return .new(handle)
    }

    mutating func didAttach(_ handle: SVAHandle) {
        bindings[handle.key]?.progress = .bound(users: 1)
    }

    /// Begins to undo a bind. Whether it was the last one, and the caller now detaches.
    ///
    /// - Precondition: a bind of the handle is left, or its device was removed.
    mutating func beginUnbind(_ handle: SVAHandle) -> Bool {
        guard let binding = bindings[handle.key], binding.handle === handle,
            case .bound(let users) = binding.progress
        else {
            // A removal of the device undoes all binds, so there may be none left by now.
            let life = handle.device.life
            precondition(life == .stopping || life == .removed, "a handle is unbound once for each bind")
            return false
        }
        bindings[handle.key]?.progress = users > 1 ? .bound(users: users - 1) : .detaching
        return users == 1
    }

    /// The device keeps pins: it is still bound, as before the last unbind.
    mutating func didNotDetach(_ handle: SVAHandle) {
        bindings[handle.key]?.progress = .bound(users: 1)
    }

    /// Strikes the binding out. Whether its domain has no device any more.
    mutating func remove(_ handle: SVAHandle) -> Bool {
        bindings[handle.key] = nil
        let id = handle.key.context
        guard let index = contexts[id]?.domains.firstIndex(where: { $0.domain === handle.domain }) else {
            preconditionFailure("the domain of a binding is listed")
        }
        contexts[id]?.domains[index].users -= 1
        guard contexts[id]?.domains[index].users == 0 else { return false }
        contexts[id]?.domains.remove(at: index)
        releaseNumber(of: id)
        return true
    }

    /// What comes next in undoing all bindings of a device, however many users they have.
    enum Next {
        case wait
        case detach(SVAHandle)
        case done
    }

    mutating func beginNextForcedUnbind(of device: SVADevice) -> Next {
        let own = bindings.values.filter { $0.handle.device === device }
        guard !own.isEmpty else { return .done }
        let bound = own.filter { if case .bound = $0.progress { true } else { false } }
        guard let handle = bound.map(\.handle).min(by: { $0.number < $1.number }) else { return .wait }
        bindings[handle.key]?.progress = .detaching
        return .detach(handle)
    }
}

extension Bindings.Key {
    init(_ device: SVADevice, _ context: AddressSpaceContext) {
        self.init(device: ObjectIdentifier(device), context: ObjectIdentifier(context))
    }
}
