import CProcessCounters
import DMA
import DeviceModel
import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

/// A device, and in the place of its VGA window the number of calls to the heap that the thread which reads it has made.
private final class Accounted: Device {
    static let account: UInt32 = 8

    private let inner: any Device
    let regions: [DeviceModel.Region]
    var interrupts: InterruptSet { inner.interrupts }

    init(_ inner: any Device) {
        self.inner = inner
        var regions = inner.regions
        regions[Int(Self.account)] = DeviceModel.Region(byteCount: 8, isWritable: false)
        self.regions = regions
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        guard index == Self.account else { return inner.readRegion(index, at: offset, into: &bytes) }
        let count = count_of_allocations()
        for place in 0..<bytes.count { bytes[place] = UInt8(truncatingIfNeeded: count >> (8 * UInt64(place))) }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        inner.writeRegion(index, at: offset, from: bytes)
    }

    func reset() { inner.reset() }
    func attach(to space: IOAddressSpace) throws(DMAError) { try inner.attach(to: space) }
    func detach() { inner.detach() }
}

/// Under a sanitizer, whose heap is another one, nothing is counted, and the lock checker needs the heap itself.
private func countsAllocations() -> Bool {
    guard unsafe getenv("OUTBOARD_LOCK_CHECKER") == nil else { return false }
    let before = count_of_allocations()
    // An optimiser would do without an allocation that it sees; this one is made inside the C library.
    unsafe free(getcwd(nil, 0))
    return count_of_allocations() > before
}

/// A window of memory and nothing else: what reading and writing it costs is the server's.
private final class Plain: Device {
    let regions: [DeviceModel.Region]
    let interrupts = InterruptSet(counts: [:])
    private let bytes = Monitor([UInt8](repeating: 0, count: 256))

    init() {
        var regions = [DeviceModel.Region](repeating: .absent, count: 9)
        regions[0] = DeviceModel.Region(byteCount: 256)
        self.regions = regions
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        for place in 0..<bytes.count { bytes[place] = self.bytes.withLock { $0[Int(offset) + place] } }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        for place in 0..<bytes.count { self.bytes.withLock { $0[Int(offset) + place] = bytes[place] } }
    }

    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}
}

@Suite(.enabled(if: countsAllocations(), "a sanitizer or the lock checker is on")) struct Costs {
    /// What the first messages of a connection may still cost: buffers that grow to their size.
    private static let slack: UInt64 = 8

    private func allocations(
        of device: any Device, busyPoll: Duration = .zero, _ body: (RawPeer) throws -> Void
    ) throws -> UInt64 {
        var count: UInt64 = 0
        try withPeer(of: Accounted(device), busyPoll: busyPoll) { peer in
            func account() throws -> UInt64 { try peer.read(Accounted.account, at: 0, count: 8).number }
            try body(peer)
            let before = try account()
            try body(peer)
            count = try account() - before
            #expect(before > 0)
        }
        return count
    }

    private func readPipelined(_ peer: RawPeer, _ value: UInt32) throws {
        let request = Payload.read(0, at: 0, count: 4)
        let reply = message(Number.readRegion, flags: HeaderFlags.reply, request + bytes(.u32(value)))
        let pipeline = RequestPipeline(peer, message(Number.readRegion, request), reply: reply)
        unsafe try pipeline.send(0..<10_000) { _, _, _ in }
    }

    @Test func `ten thousand pipelined reads cost no call to the heap`() throws {
        let count = try allocations(of: Plain()) { try readPipelined($0, 0) }
        #expect(count <= Self.slack)
    }

    /// In a build that is not optimised, the standard library's generic functions call the heap.
    @Test(.enabled(if: !_isDebugAssertConfiguration(), "needs an optimised build"), arguments: [0, 1000])
    func `ten thousand pipelined reads of edu's registers cost no call to the heap`(busyMicroseconds: Int) throws {
        let time = Duration.microseconds(busyMicroseconds)
        let count = try allocations(of: Edu.makeFunction(), busyPoll: time) { try readPipelined($0, 0x0100_00ed) }
        #expect(count <= Self.slack)
    }

    @Test func `ten thousand reads one at a time cost no call to the heap`() throws {
        let count = try allocations(of: Plain()) { peer in
            for _ in 0..<10_000 { _ = try peer.read(0, at: 0, count: 4) }
        }
        #expect(count <= Self.slack)
    }

    @Test func `ten thousand writes, posted or not, cost no call to the heap`() throws {
        let count = try allocations(of: Plain()) { peer in
            let payload = Payload.write(0, at: 8, bytes(.u32(5)))
            let reply = message(Number.writeRegion, flags: HeaderFlags.reply, Array(payload.prefix(16)))
            let pipeline = RequestPipeline(peer, message(Number.writeRegion, payload), reply: reply)
            unsafe try pipeline.send(0..<5000) { _, _, _ in }
            let posted = message(Number.writeRegion, flags: HeaderFlags.noReply, payload)
            for _ in 0..<5000 { try peer.send(posted) }
        }
        #expect(count <= Self.slack)
    }

    @Test func `a hundred maps cost the heap something, which shows that the count counts`() throws {
        let count = try allocations(of: Plain()) { peer in
            for number in 0..<100 as Range<UInt64> {
                try peer.succeed(Number.mapDMA, Payload.map(at: number << 12, size: 0x1000))
            }
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
        }
        #expect(count >= 100)
    }
}
