import DMA
import DeviceModel
import Edu
import LinuxHost
import Testing
import VFIOUserNegotiation
import VFIOUserServer
import VFIOUserSession
import VFIOUserWire
import VFIOUserCheck

private let base: UInt64 = 0x10_0000

@Suite struct Limits {
    @Test func `what is offered by default is what the limits say`() {
        let (limits, offer) = (SessionLimits(), ServerOffer())
        #expect(offer.maximumMessageDescriptors == limits.messageDescriptors)
        #expect(offer.maximumTransferSize == limits.transferSize)
        #expect(offer.maximumDMAMappings == limits.mappings)
        #expect(MessageFramer.defaultMaximumMessageSize == limits.messageSize)
    }

    @Test func `S37 S45 a map too many is refused, and one more fits when another is gone`() throws {
        var limits = SessionLimits()
        limits.mappings = 3
        try withPeer(of: Edu.makeFunction(), limits: limits) { peer in
            for page in 0..<3 as Range<UInt64> {
                try peer.succeed(Number.mapDMA, Payload.map(at: page << 12, size: 0x1000))
            }
            // ENOSPC
            #expect(try peer.call(Number.mapDMA, Payload.map(at: 3 << 12, size: 0x1000)).error == 28)
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0x1000))
            try peer.succeed(Number.mapDMA, Payload.map(at: 3 << 12, size: 0x1000))
        }
    }

    @Test func `S92 an access of as many bytes as were agreed on is carried out, one of a byte more is refused`() throws
    {
        var limits = SessionLimits()
        limits.transferSize = 4096
        try withPeer(of: Edu.makeFunction(), limits: limits) { peer in
            #expect(try peer.read(0, at: 0, count: 4096).count == 4096)
            #expect(try peer.call(Number.readRegion, Payload.read(0, at: 0, count: 4097)).error == invalid)
            try peer.write(0, at: 0x1000, pattern(4096))
            #expect(try peer.call(Number.writeRegion, Payload.write(0, at: 0x1000, pattern(4097))).error == invalid)
        }
    }

    @Test func `S35 a client that was not told of a smaller transfer size may use the standard's`() throws {
        var limits = SessionLimits()
        limits.transferSize = 4096
        try withPeer(of: Edu.makeFunction(), limits: limits, negotiated: false) { peer in
            try peer.negotiate(#"{"capabilities":{}}"#)
            #expect(try peer.read(0, at: 0, count: 1 << 20).count == 1 << 20)
        }
    }

    @Test func `S17 as many descriptors as a message may have are taken, one more is refused`() throws {
        var limits = SessionLimits()
        limits.messageDescriptors = 4
        try withPeer(of: VectorDevice.makeFunction(), limits: limits) { peer in
            let counters = try eventCounters(5)
            try peer.connect(Interrupt.msix, to: Array(counters[..<4]))
            let flags = SetFlags.descriptors | SetFlags.trigger
            let request = Payload.setInterrupts(flags, index: Interrupt.msix, count: 5)
            let reply = try peer.call(Number.setInterrupts, request, counters.map(\.rawDescriptor))
            #expect(reply.error == invalid)
            #expect(try Open.count(like: counters[4].rawDescriptor) == 1)
        }
    }

    @Test func `S17 as many descriptors as may be pending wait for their message, one more ends the connection`() throws
    {
        var limits = SessionLimits()
        limits.pendingDescriptors = 3
        for count in 3...4 {
            try withPeer(of: Edu.makeFunction(), limits: limits) { peer in
                let memory = try ClientMemoryFile(byteCount: 0x1000)
                let request = message(Number.mapDMA, id: 7, Payload.map(at: 0, size: 0x1000))
                for number in 0..<count { try? peer.send([request[number]], [memory.number]) }
                // The connection may be closed by now.
                try? peer.send(Array(request[count...]))
                if count == 3 {
                    // Three descriptors are two too many for this message, but it was read.
                    #expect(try peer.receive().error == invalid)
                } else {
                    #expect(try peer.isClosed())
                }
                try eventually { try Open.count(like: memory.number) == 1 }
            }
        }
    }

    @Test func `S57 the client is asked for no more bytes at once than the limit`() throws {
        var limits = SessionLimits()
        limits.bytesAsked = 1000
        try withRemotePage(limits) { peer, memory in
            try peer.startEduRead(from: base, count: 4096)
            let reads = try memory.serve(peer, until: .reads(5))
            #expect(reads.map(\.count) == [1000, 1000, 1000, 1000, 96])
            try peer.waitForEdu()
        }
    }

    @Test func `S57 the client is sent no more bytes in one message than the limit, whatever it takes`() throws {
        var limits = SessionLimits()
        limits.transferSize = 1000
        try withRemotePage(limits) { peer, memory in
            try peer.startEduWrite(to: base, count: 4096)
            let writes = try memory.serve(peer, until: .writes(5))
            #expect(writes.map(\.count) == [1000, 1000, 1000, 1000, 96])
            try peer.waitForEdu()
        }
    }

    @Test func `S62 a client that does not answer in time has failed the transfer, and its late answer is ignored`()
        throws
    {
        var limits = SessionLimits()
        // Long enough for the request to be sent on any machine; a transfer whose time is over before that sends none.
        limits.answerWait = .milliseconds(500)
        try withRemotePage(limits) { peer, memory in
            try peer.startEduRead(from: base, count: 64)
            let request = try memory.nextRequest(peer)
            try peer.waitForEdu()
            try memory.answer(request, peer)
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test
    func `S54 an unmap that a device does not let go for is refused when the wait is over, and may be tried again`()
        throws
    {
        var limits = SessionLimits()
        limits.unmapWait = .milliseconds(1)
        let device = Clinging()
        func holdOn() throws {
            try withPeer(of: device, limits: limits) { peer in
                let memory = try ClientMemoryFile(byteCount: 0x1000)
                try peer.succeed(Number.mapDMA, Payload.map(at: 0, size: 0x1000), [memory.number])
                try device.pin()
                // EDEADLOCK
                #expect(try peer.call(Number.unmapDMA, Payload.unmap(at: 0, size: 0x1000)).error == 35)
                device.unpin()
                try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0x1000))
            }
        }
        // A lock checker that watches the process would report the pin that stays, which is on purpose here.
        guard LockChecker.isOn else { return try holdOn() }
        let checker = LockChecker()
        try checker.record(holdOn)
        #expect(checker.reports.allSatisfy { $0.isMatterOfTime || $0.kind == .lostPin })
    }

    private func withRemotePage(_ limits: SessionLimits, _ body: (RawPeer, PeerMemory) throws -> Void) throws {
        try withPeer(of: Edu.makeFunction(), limits: limits) { peer in
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000))
            try peer.enableBusMaster()
            try body(peer, PeerMemory(byteCount: 0x1000, at: base))
        }
    }
}

@Suite struct `Requests to a client` {
    @Test(arguments: [1, 2, 5])
    func `S20 no more are outstanding than the limit, and the others follow as answers come`(limit: Int) throws {
        var limits = SessionLimits()
        limits.requestsOutstanding = limit
        let memory = try ClientMemory(limits: limits)
        let space = IOAddressSpace()
        try space.map(.remote(memory.mapping()), at: IOVA(rawValue: 0), byteCount: 0x1000, rights: [.read, .write])
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        let threads = try (0..<limit + 1).map { number in
            try OSThread(name: "device") {
                guard let range = try? IOVARange(first: IOVA(rawValue: UInt64(number) * 16), byteCount: 16) else {
                    return
                }
                unsafe withUnsafeTemporaryAllocation(byteCount: 16, alignment: 1) { buffer in
                    unsafe try? access.read(range, into: buffer)
                }
            }
        }
        defer {
            memory.close()
            for thread in threads { thread.join() }
            access.destroy()
        }
        // The first request of each is one of no bytes, which finds out the client's layout.
        var sent: [MessageHeader] = []
        func takeRequests() throws {
            var writer = MessageWriter()
            while memory.appendNextRequest(to: &writer) {
                sent.append(try MessageHeader(parsing: writer.bytes.span))
                writer.removeAll()
            }
        }
        try eventually {
            try takeRequests()
            return sent.count >= limit
        }
        // However long one waits, there are not more; the other threads are there by now or not, which does not matter.
        for _ in 0..<100 { try takeRequests() }
        #expect(sent.count == limit)
        var refusal = sent[0]
        (refusal.kind, refusal.isError, refusal.errorNumber) = (.reply, true, 22)
        let isAwaited = memory.receive(refusal, payload: [UInt8]().span)
        #expect(isAwaited)
        try eventually {
            try takeRequests()
            return sent.count > limit
        }
        for _ in 0..<100 { try takeRequests() }
        #expect(sent.count == limit + 1)
    }
}

/// A device that holds on to client memory when it is told that it is about to go.
private final class Clinging: Device {
    let regions = [DeviceModel.Region](repeating: .absent, count: 9)
    let interrupts = InterruptSet(counts: [:])
    private let access = DMAAccess(needsPin: true) { _ in }
    private let held = Monitor(Held())

    private struct Held {
        var pin: Pin?
    }

    /// Holds a value that is not copyable where a copyable one is asked for.
    private final class Pin {
        private var memory: PinnedMemory?

        init(_ memory: consuming PinnedMemory) { self.memory = consume memory }

        func release() { memory.take()?.unpin() }
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {}
    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {}
    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) { try access.attach(to: space) }

    func detach() {
        unpin()
        try? access.detach()
    }

    func pin() throws {
        let range = try IOVARange(first: IOVA(rawValue: 0), byteCount: 0x1000)
        let pin = try Pin(access.pin(range, rights: .read))
        held.withLock { $0.pin = pin }
    }

    func unpin() {
        held.withLock { held in
            held.pin?.release()
            held.pin = nil
        }
    }
}
