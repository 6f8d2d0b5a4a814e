import BlockStorage
import LinuxHost

/// A store in a file in memory, whose operations a test can hold up or fail as a bad disk would.
final class TestStore: BlockStore {
    private struct State {
        var isHeld = false
        var waiting = 0
        var fails = false
        var failsFlushes = false
        var flushes = 0
    }

    private let file: FileStore
    private let descriptor: OwnedDescriptor
    private let state = Monitor(State())
    let isReadOnly: Bool

    init(blockSize: BlockSize = .bytes512, byteCount: Int = 64 << 20, isReadOnly: Bool = false) throws {
        descriptor = try OwnedDescriptor.anonymousMemory(name: "test-store", byteCount: byteCount)
        file = try FileStore(
            path: "/proc/self/fd/\(descriptor.rawValue)", byteCount: nil, blockSize: blockSize, isReadOnly: isReadOnly)
        self.isReadOnly = isReadOnly
    }

    var blockSize: BlockSize { file.blockSize }
    var blockCount: UInt64 { file.blockCount }
    var deallocatedContents: DeallocatedContents { file.deallocatedContents }
    var allocatedBytes: Int64 { get throws { try file.allocatedBytes } }

    /// Lets every transfer from now on wait until `letGo`.
    func hold() { state.withLock { $0.isHeld = true } }
    func letGo() { state.update { $0.isHeld = false } }
    /// Waits until `count` transfers are held.
    func waitUntilHeld(_ count: Int) { state.wait { $0.waiting >= count ? () : nil } }
    func fail() { state.withLock { $0.fails = true } }
    func failFlushes() { state.withLock { $0.failsFlushes = true } }
    var flushes: Int { state.withLock { $0.flushes } }

    func read(_ range: BlockRange, into segments: [UnsafeMutableRawBufferPointer]) throws(BlockStoreError) {
        try pass()
        unsafe try file.read(range, into: segments)
    }

    func write(_ range: BlockRange, from segments: [UnsafeMutableRawBufferPointer]) throws(BlockStoreError) {
        try pass()
        unsafe try file.write(range, from: segments)
    }

    func flush() throws(BlockStoreError) {
        state.withLock { $0.flushes += 1 }
        if state.withLock({ $0.fails || $0.failsFlushes }) { throw .failed(.inputOutput) }
        try file.flush()
    }

    func deallocate(_ range: BlockRange) throws(BlockStoreError) { try file.deallocate(range) }

    func writeZeroes(_ range: BlockRange, deallocating: Bool) throws(BlockStoreError) {
        try file.writeZeroes(range, deallocating: deallocating)
    }

    /// Blocks as they are in the file, past every hold.
    func contents(_ first: UInt64, _ count: UInt64 = 1) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: Int(count * blockSize.byteCount))
        let range = BlockRange(first: LogicalBlock(rawValue: first), count: count)
        unsafe try bytes.withUnsafeMutableBytes { unsafe try file.read(range, into: [$0]) }
        return bytes
    }

    func put(_ bytes: [UInt8], at first: UInt64) throws {
        var bytes = bytes
        let count = UInt64(bytes.count) / blockSize.byteCount
        let range = BlockRange(first: LogicalBlock(rawValue: first), count: count)
        unsafe try bytes.withUnsafeMutableBytes { unsafe try file.write(range, from: [$0]) }
    }

    private func pass() throws(BlockStoreError) {
        state.update { $0.waiting += 1 }
        state.wait { $0.isHeld ? nil : () }
        let fails = state.withLock { state in
            state.waiting -= 1
            return state.fails
        }
        if fails { throw .failed(.inputOutput) }
    }
}
