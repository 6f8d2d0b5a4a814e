import DMA
import LinuxHost

/// The memory of a client that gives no descriptor: bytes by address, reached by calls.
///
/// It refuses what a real peer refuses: addresses past its end, and everything once it is revoked.
final class PeerMemory: RemoteMemory {
    private struct State {
        var bytes: [UInt8]
        var revocations = 0
    }

    private let state: Monitor<State>
    /// Called before each transfer, with no lock held.
    private let onTransfer: (@Sendable () -> Void)?

    init(byteCount: Int, onTransfer: (@Sendable () -> Void)? = nil) {
        state = Monitor(State(bytes: [UInt8](repeating: 0, count: byteCount)))
        self.onTransfer = onTransfer
    }

    var bytes: [UInt8] { state.withLock { $0.bytes } }
    var revocations: Int { state.withLock { $0.revocations } }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        onTransfer?()
        try state.withLock { (state) throws(DMAError) in
            let first = try start(of: buffer.count, at: iova, state)
            for index in 0..<buffer.count { unsafe buffer[index] = state.bytes[first + index] }
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        onTransfer?()
        try state.withLock { (state) throws(DMAError) in
            let first = try start(of: bytes.count, at: iova, state)
            for index in 0..<bytes.count { state.bytes[first + index] = unsafe bytes[index] }
        }
    }

    func revoke() {
        state.withLock { $0.revocations += 1 }
    }

    private func start(of count: Int, at iova: IOVA, _ state: State) throws(DMAError) -> Int {
        if state.revocations > 0 { throw .cancelled }
        guard let first = Int(exactly: iova.rawValue), count > 0, count <= state.bytes.count - first else {
            throw .badAddress
        }
        return first
    }
}
