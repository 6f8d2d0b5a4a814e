import DMA
import DeviceModel
import LinuxHost

/// A device with one register of 64 bits in region 0, which its state consists of, and a record of what it was told to do.
final class MigratingDevice: MigratableDevice {
    let regions = [DeviceModel.Region(byteCount: 8)] + [DeviceModel.Region](repeating: .absent, count: 8)
    let interrupts = InterruptSet(counts: [:])
    private let state: Monitor<State>
    private let name: String

    private struct State {
        var register: UInt64 = 0
        var calls: [String] = []
        var stopFailure: StopFailure?
    }

    init(name: String = "register") {
        self.name = name
        state = Monitor(State())
    }

    /// What it was told since it was asked last.
    func takeCalls() -> [String] {
        state.withLock { state in
            defer { state.calls = [] }
            return state.calls
        }
    }

    /// Has it fail to stop, for as long as there is a failure.
    func failStops(with failure: StopFailure?) { state.withLock { $0.stopFailure = failure } }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        let value = state.withLock { $0.register }
        for place in 0..<bytes.count {
            bytes[place] = UInt8(truncatingIfNeeded: value >> UInt64((Int(offset) + place) * 8))
        }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        state.withLock { state in
            for place in 0..<bytes.count {
                let shift = UInt64((Int(offset) + place) * 8)
                state.register = state.register & ~(0xff << shift) | UInt64(bytes[place]) << shift
            }
        }
    }

    func reset() {
        state.withLock { state in
            state.register = 0
            state.calls.append("reset")
        }
    }

    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}

    var stateIdentity: StateIdentity { StateIdentity(device: name, version: 7) }

    func beginStop() { state.withLock { $0.calls.append("begin") } }

    func finishStop(by deadline: MonotonicInstant) throws(StopFailure) {
        let failure = state.withLock { state in
            state.calls.append("stop")
            return state.stopFailure
        }
        if let failure { throw failure }
    }

    func resume() { state.withLock { $0.calls.append("resume") } }

    func saveState(into writer: inout StateWriter) {
        state.withLock { state in
            state.calls.append("save")
            writer.append(state.register)
        }
    }

    /// Numbers with all bits set are no state of this device.
    func restoreState(from reader: inout StateReader) throws(StateError) {
        let value = try reader.integer(UInt64.self)
        try reader.finish()
        try reader.require(value != .max, "register")
        state.withLock { state in
            state.register = value
            state.calls.append("restore")
        }
    }
}
