import DMA
import LinuxHost

/// A pin that closures can share; released once, by whoever comes first.
final class PinnedBox: Sendable {
    private let monitor: Monitor<Slot>

    private final class Slot: @unchecked Sendable {  // reached only through the monitor
        private var memory: PinnedMemory?

        init(_ memory: consuming PinnedMemory?) { self.memory = memory }

        func release() { memory.take()?.unpin() }

        func forEachSegment(_ body: (UnsafeMutableRawBufferPointer) -> Void) { unsafe memory?.forEachSegment(body) }
    }

    init(_ memory: consuming PinnedMemory?) {
        monitor = Monitor(Slot(memory))
    }

    func unpin() {
        monitor.withLock { $0.release() }
    }

    /// The memory, as long as it is pinned.
    func forEachSegment(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        monitor.withLock { unsafe $0.forEachSegment(body) }
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
        unsafe try pin(range) { segment, _ in unsafe segment[offset] = byte }
    }

    /// As `pin`, and calls `body` with each segment, and the number of bytes before it, while no callback can release
    /// the pin.
    func pin(
        _ range: IOVARange, _ body: (_ segment: UnsafeMutableRawBufferPointer, _ done: Int) -> Void
    ) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            let pinned = try access.pin(range, rights: [.read, .write])
            let box = PinnedBox(pinned)
            unsafe Self.walk(box, body)
            state.pins.append((range, box))
        }
    }

    /// Calls `body` as `pin` does, with the memory of the oldest pin, if there is any, and its range.
    func useOldestPin(_ body: (_ range: IOVARange, _ segment: UnsafeMutableRawBufferPointer, _ done: Int) -> Void) {
        state.withLock { state in
            guard let pin = state.pins.first else { return }
            unsafe Self.walk(pin.box) { segment, done in unsafe body(pin.range, segment, done) }
        }
    }

    private static func walk(
        _ box: PinnedBox, _ body: (_ segment: UnsafeMutableRawBufferPointer, _ done: Int) -> Void
    ) {
        var done = 0
        unsafe box.forEachSegment { segment in
            unsafe body(segment, done)
            done += segment.count
        }
    }

    /// Lets one pin go, if there is any.
    func unpinAny() {
        state.withLock { $0.pins.popLast() }?.box.unpin()
    }
}
