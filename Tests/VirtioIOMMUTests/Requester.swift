import DMA
import DeviceModel
import IOMMUTestDriver
import LinuxHost
import PCI
import Testing
import VirtioIOMMU

/// A function that does to memory what its test says.
final class Requester: PCIDeviceModel {
    let port: PCIPort

    private struct State {
        var releaseCount = 0
        var keepsPins = false
        var holders: [PinHolder] = []
    }

    private let state = Monitor(State())

    init(port: PCIPort) { self.port = port }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 { 0 }
    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {}
    func reset() {}

    func release(_ range: IOVARange) {
        let holders = state.update { state -> [PinHolder] in
            state.releaseCount += 1
            if state.keepsPins { return [] }
            defer { state.holders = [] }
            return state.holders
        }
        for holder in holders { holder.unpin() }
    }

    /// How often it was asked to let go.
    var releaseCount: Int { state.withLock { $0.releaseCount } }

    /// Pins memory until it is asked to let go, or only until `letGo`.
    func pin(_ range: IOVARange, keeps: Bool = false) throws {
        guard let memory = port.memory else { throw DMAError.notFound }
        let holder = PinHolder(try memory.pin(range, rights: [.read, .write]))
        state.withLock { state in
            state.holders.append(holder)
            state.keepsPins = keeps
        }
    }

    func waitUntilAsked() { state.wait { $0.releaseCount > 0 ? () : nil } }

    func letGo() {
        let holders = state.update { state -> [PinHolder] in
            state.keepsPins = false
            defer { state.holders = [] }
            return state.holders
        }
        for holder in holders { holder.unpin() }
    }
}

/// A pin that closures can share; released once, by whoever comes first.
final class PinHolder: Sendable {
    private final class Slot: @unchecked Sendable {  // reached only through the monitor
        private var memory: PinnedMemory?

        init(_ memory: consuming PinnedMemory?) { self.memory = memory }

        func release() { memory.take()?.unpin() }
    }

    private let monitor: Monitor<Slot>

    init(_ memory: consuming PinnedMemory?) { monitor = Monitor(Slot(memory)) }

    func unpin() { monitor.withLock { $0.release() } }
}

/// Runs a test in which a device keeps pins on purpose, which the lock checker would report. Threads that the test starts
/// belong to it, and so what it tries is made inside.
///
/// - Parameter expected: what else it may report.
func keepingPins(expecting expected: LockChecker.Report.Kind? = nil, _ body: () throws -> Void) rethrows {
    let reports = try LockChecker.withRecording(body)
    #expect(reports.filter { !$0.isMatterOfTime && $0.kind != .lostPin && $0.kind != expected } == [])
}
