import DMA
import LinuxHost

/// Bytes by address, all 2^64 of them, zero until written: what memory of any size holds at little cost.
struct SparseBytes: Sendable {
    static let chunkSize: UInt64 = 256

    private(set) var chunks: [UInt64: [UInt8]] = [:]

    /// Copies the bytes from `first` on, which goes round at the top of the space.
    func read(at first: UInt64, into buffer: UnsafeMutableRawBufferPointer) {
        Self.forEachPart(of: buffer.count, at: first) { number, place, done, count in
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
            guard let chunk = chunks[number] else {
                _ = unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
                return
            }
            unsafe chunk.withUnsafeBytes { unsafe part.copyMemory(from: .init(rebasing: $0[place..<place + count])) }
        }
    }

    mutating func write(_ bytes: UnsafeRawBufferPointer, at first: UInt64) {
        Self.forEachPart(of: bytes.count, at: first) { number, place, done, count in
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[done..<done + count])
            unsafe chunks[number, default: [UInt8](repeating: 0, count: Int(Self.chunkSize))].withUnsafeMutableBytes {
                unsafe UnsafeMutableRawBufferPointer(rebasing: $0[place..<place + count]).copyMemory(from: part)
            }
        }
    }

    /// Whether the object holds the bytes that were written here.
    func agrees(with object: MemoryObject) -> Bool {
        chunks.allSatisfy { number, chunk in
            let first = Int(number * Self.chunkSize)
            let count = min(chunk.count, object.byteCount - first)
            guard count > 0 else { return false }
            return unsafe chunk.withUnsafeBytes { chunk in
                unsafe chunk.prefix(count).elementsEqual(object.bytes[first..<first + count])
            }
        }
    }

    private static func forEachPart(
        of count: Int, at first: UInt64, _ body: (_ chunk: UInt64, _ place: Int, _ done: Int, _ count: Int) -> Void
    ) {
        var done = 0
        while done < count {
            let address = first &+ UInt64(done)
            let place = Int(address % chunkSize)
            let part = min(Int(chunkSize) - place, count - done)
            body(address / chunkSize, place, done, part)
            done += part
        }
    }
}

/// A peer with memory at every address, which fails once it is revoked.
final class SparsePeer: RemoteMemory {
    private struct State {
        var bytes = SparseBytes()
        var revocations = 0
    }

    private let state = Monitor(State())

    var revocations: Int { state.withLock { $0.revocations } }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            if state.revocations > 0 { throw .cancelled }
            unsafe state.bytes.read(at: iova.rawValue, into: buffer)
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            if state.revocations > 0 { throw .cancelled }
            unsafe state.bytes.write(bytes, at: iova.rawValue)
        }
    }

    func revoke() {
        state.withLock { $0.revocations += 1 }
    }
}
