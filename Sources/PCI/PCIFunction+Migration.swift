public import DeviceModel
public import LinuxHost

/// A device model whose state can move to another process. Its function then can.
///
/// The function keeps what is its own: configuration space, the MSI-X table, interrupts that were raised and not told, the
/// level of the line. The bytes of a `BarMemory` are the model's, and in its state if it puts them there; a client that has
/// mapped them can write to them while the function is stopped. From `beginStop` to `resume` it closes guest memory to the model, as if nothing were mapped, and keeps
/// interrupts back, so that a model only has to know which failures of its accesses are not the guest's. All that
/// `MigratableDevice` says of these calls holds.
public protocol MigratablePCIDeviceModel: PCIDeviceModel {
    /// A state as it was read: whole, and one that the model can have.
    associatedtype SavedState

    /// What a model must be, elsewhere, to take this one's state; constant.
    var stateIdentity: StateIdentity { get }

    /// Begins nothing more. Accesses to guest memory may fail from the moment that this returns.
    func beginStop()

    /// Returns when nothing is under way any more.
    func finishStop(by deadline: MonotonicInstant) throws(StopFailure)

    /// Goes on; the guest memory there is now is the port's.
    func resume()

    func saveState(into writer: inout StateWriter)

    /// Reads what `saveState` has written, or anything else. Changes nothing.
    func readState(from reader: inout StateReader) throws(StateError) -> SavedState

    /// Puts a state into the place of the present one. The interrupt line is already as it was.
    func adopt(_ state: SavedState)
}

extension PCIFunction: MigratableDevice where Model: MigratablePCIDeviceModel {
    /// The form of the function's own part.
    private static var formVersion: String { "1" }

    private enum Section {
        static var function: String { "function" }
        static var model: String { "model" }
    }

    public var stateIdentity: StateIdentity {
        let model = model.stateIdentity
        return StateIdentity(
            device: model.device, version: model.version,
            properties: [.init("PCI function", Self.formVersion)] + model.properties)
    }

    public func beginStop() {
        // The model first: what fails because memory is closed must find it knowing.
        model.beginStop()
        port.update { $0.isStopped = true }
    }

    public func finishStop(by deadline: MonotonicInstant) throws(StopFailure) {
        try model.finishStop(by: deadline)
    }

    public func resume() {
        port.update { $0.isStopped = false }
        model.resume()
    }

    public func saveState(into writer: inout StateWriter) {
        writer.section(Section.function) { writer in port.update { $0.save(into: &writer, interrupts) } }
        writer.section(Section.model) { model.saveState(into: &$0) }
    }

    public func restoreState(from reader: inout StateReader) throws(StateError) {
        var functionPart = try reader.section(Section.function)
        let function = try PCIFunctionState(port.description, from: &functionPart)
        try functionPart.finish()
        var modelPart = try reader.section(Section.model)
        let state = try model.readState(from: &modelPart)
        try modelPart.finish()
        try reader.finish()
        interrupts.forgetPending()
        port.update { $0 = function }
        model.adopt(state)
    }
}

extension PCIFunctionState {
    /// What was raised and is still on its way to the client counts as not told.
    func save(into writer: inout StateWriter, _ interrupts: InterruptSet) {
        configuration.save(into: &writer)
        msixTable.save(into: &writer) { interrupts.isPending(.msix, $0) }
        var pending = msiPending
        for vector in 0..<(description.msi?.vectorCount ?? 0) where interrupts.isPending(.msi, vector) {
            pending |= 1 << UInt64(vector)
        }
        writer.append(pending)
        writer.append(isLineAsserted)
    }

    /// A stopped function with a state that another has saved.
    init(_ description: PCIDescription, from reader: inout StateReader) throws(StateError) {
        let configuration = try RegisterBank(RegisterMap(description), from: &reader)
        if description.hasPowerManagement {
            let power = configuration[.powerManagementControl] & PowerControl.state
            try reader.require(power == PowerControl.d0 || power == PowerControl.d3hot, "power state")
        }
        let table = try MSIXTable(vectorCount: description.msix?.vectorCount ?? 0, from: &reader)
        self.init(description, configuration, table)
        msiPending = try reader.integer()
        let vectors = UInt64(description.msi?.vectorCount ?? 0)
        try reader.require(msiPending >> vectors == 0, "pending MSI vectors")
        isLineAsserted = try reader.flag("interrupt line")
        try reader.require(description.hasInterruptPin || !isLineAsserted, "interrupt line")
        isStopped = true
    }
}

extension MSIXTable {
    func save(into writer: inout StateWriter, isOnItsWay: (Int) -> Bool) {
        writer.append(isProgrammed)
        writer.append(count: vectorCount)
        for vector in 0..<vectorCount {
            writer.append(bytes: entry(vector))
            writer.append(pending[vector] || isOnItsWay(vector))
        }
    }

    init(vectorCount: Int, from reader: inout StateReader) throws(StateError) {
        let isProgrammed = try reader.flag("MSI-X table")
        try reader.require(try reader.count(atMost: vectorCount, "MSI-X vectors") == vectorCount, "MSI-X vectors")
        self.init(vectorCount: vectorCount, isProgrammed: isProgrammed)
        for vector in 0..<vectorCount {
            let saved = try reader.bytes(Self.entryByteCount)
            try reader.require(setEntry(vector, saved), "MSI-X table entry")
            setPending(vector, try reader.flag("MSI-X pending bit"))
        }
    }
}
