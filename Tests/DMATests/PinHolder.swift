import DMA
import LinuxHost

/// A pin that closures can share; released once, by whoever comes first.
final class PinnedBox: Sendable {
    private let monitor: Monitor<Slot>

    private final class Slot: @unchecked Sendable {  // reached only through the monitor
        private var memory: PinnedMemory?

        init(_ memory: consuming PinnedMemory?) { self.memory = memory }

        func release() { memory.take()?.unpin() }
    }

    init(_ memory: consuming PinnedMemory?) {
        monitor = Monitor(Slot(memory))
    }

    func unpin() {
        monitor.withLock { $0.release() }
    }
}

/// A device in small: it pins, writes down what it pinned, and lets go when told.
final class PinHolder: Sendable {
    private struct State {
        var pins: [(range: IOVARange, box: PinnedBox)] = []
        var heard: [IOVARange] = []
        var callsUntilRelease: [IOVARange: Int] = [:]
    }

    private let state: Monitor<State>
    private let patience: Int
    let access: DMAAccess

    /// - Parameter patience: how often it has to be told of a range before it lets go.
    init(patience: Int = 1) {
        let state = Monitor(State())
        self.state = state
        self.patience = patience
        access = DMAAccess(needsPin: true) { range in
            let released = state.withLock { state in
                state.heard.append(range)
                state.callsUntilRelease[range, default: patience] -= 1
                guard state.callsUntilRelease[range] == 0 else { return [PinnedBox]() }
                state.callsUntilRelease[range] = nil
                let boxes = state.pins.filter { $0.range.overlaps(range) }.map(\.box)
                state.pins.removeAll { $0.range.overlaps(range) }
                return boxes
            }
            for box in released { box.unpin() }
        }
    }

    var heard: [IOVARange] { state.withLock { $0.heard } }
    var pinCount: Int { state.withLock { $0.pins.count } }

    /// Pins and records under one lock, which the callback takes too: no unmap sees the one without the other.
    func pin(_ range: IOVARange, rights: AccessRights = [.read, .write]) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            state.pins.append((range, PinnedBox(try access.pin(range, rights: rights))))
        }
    }

    /// As `pin`, and writes one byte through the pin while no callback can release it.
    func pin(_ range: IOVARange, writing byte: UInt8, at offset: Int) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            let pinned = try access.pin(range, rights: .write)
            unsafe pinned.forEachSegment { segment in unsafe segment[offset] = byte }
            state.pins.append((range, PinnedBox(pinned)))
        }
    }

    /// Lets one pin go, if there is any.
    func unpinAny() {
        state.withLock { $0.pins.popLast() }?.box.unpin()
    }
}
