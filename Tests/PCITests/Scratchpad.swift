import DMA
import LinuxHost
import PCI

/// A device whose BARs are plain memory, and which keeps a record of the accesses that reach it.
final class Scratchpad: PCIDeviceModel {
    enum Access: Equatable {
        case read(bar: Int, offset: UInt64, byteCount: Int)
        case write(UInt64, bar: Int, offset: UInt64, byteCount: Int)
        case reset
        /// And whether there was memory then.
        case clientLost(hadMemory: Bool)
    }

    private struct Place: Hashable {
        let bar: Int
        let offset: UInt64
    }

    private struct State {
        var bytes: [Place: UInt8] = [:]
        var trace: [Access] = []
        var isBusy = false
        var atReset: (@Sendable (PCIPort) -> Void)?
        var released: [IOVARange] = []
    }

    let port: PCIPort
    private let state = Monitor(State())

    init(port: PCIPort) {
        self.port = port
    }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        state.withLock { state in
            state.trace.append(.read(bar: bar, offset: offset, byteCount: byteCount))
            return (0..<UInt64(byteCount)).reduce(0) { value, byte in
                value | UInt64(state.bytes[Place(bar: bar, offset: offset + byte)] ?? 0) << (byte * 8)
            }
        }
    }

    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        state.withLock { state in
            state.trace.append(.write(value, bar: bar, offset: offset, byteCount: byteCount))
            for byte in 0..<UInt64(byteCount) {
                state.bytes[Place(bar: bar, offset: offset + byte)] = UInt8(truncatingIfNeeded: value >> (byte * 8))
            }
        }
    }

    func reset() {
        let atReset = state.withLock { state in
            state.bytes = [:]
            state.trace.append(.reset)
            return state.atReset
        }
        atReset?(port)
        port.setInterruptLine(asserted: false)
    }

    func didLoseClient() {
        state.withLock { $0.trace.append(.clientLost(hadMemory: port.memory != nil)) }
    }

    func release(_ range: IOVARange) {
        state.update { $0.released.append(range) }
    }

    var hasPendingTransactions: Bool { state.withLock { $0.isBusy } }

    /// The accesses since the last call.
    func takeTrace() -> [Access] {
        state.withLock { state in
            defer { state.trace = [] }
            return state.trace
        }
    }

    func setBusy(_ isBusy: Bool) { state.withLock { $0.isBusy = isBusy } }

    /// What the device does while it is being reset, before it is done.
    func duringReset(_ body: @escaping @Sendable (PCIPort) -> Void) { state.withLock { $0.atReset = body } }

    /// The ranges that the device was told to let go of.
    var released: [IOVARange] { state.withLock { $0.released } }

    func waitUntilReleased() { state.wait { $0.released.isEmpty ? nil : () } }
}
