import BlockStorage
public import DeviceModel
public import LinuxHost
public import PCI

/// Migration. The store is not part of the state: the controller that goes on has the same one, and this one has written all
/// when it has stopped, and leaves it alone.
extension NVMeController: MigratablePCIDeviceModel {
    /// All that the controller knows beside its store.
    public struct SavedState {
        let controller: ControllerState
    }

    public var stateIdentity: StateIdentity { engine.stateIdentity }

    public func beginStop() { engine.beginStop() }

    public func finishStop(by deadline: MonotonicInstant) throws(StopFailure) { try engine.finishStop(by: deadline) }

    public func resume() { engine.resume() }

    public func saveState(into writer: inout StateWriter) {
        engine.state.withLock { $0.save(into: &writer) }
    }

    public func readState(from reader: inout StateReader) throws(StateError) -> SavedState {
        SavedState(controller: try ControllerState(engine.identity, from: &reader))
    }

    public func adopt(_ state: SavedState) { engine.adopt(state.controller) }
}

extension NVMeEngine {
    /// Everything about the store and the options that the host can tell; how many workers there are it cannot.
    fileprivate var stateIdentity: StateIdentity {
        StateIdentity(
            device: "nvme", version: 1,
            properties: [
                .init("serial number", options.serial.text),
                .init("model", options.model),
                .init("queue pairs", "\(options.queuePairs)"),
                .init("blocks", "\(store.blockCount)"),
                .init("bytes in a block", "\(store.blockSize.rawValue)"),
                .init("write-protected", store.isReadOnly ? "yes" : "no"),
                .init("deallocated blocks read", store.deallocatedContents == .zeroes ? "zeroes" : "anything"),
            ])
    }
}
