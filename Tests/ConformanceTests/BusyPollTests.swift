import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

/// A client that asks without end, on a thread of its own, until it is told to stop or the connection ends.
private func withFlood(_ peer: RawPeer, _ body: () throws -> Void) throws {
    let stops = Monitor(false)
    let thread = try OSThread(name: "flood") {
        while !stops.withLock({ $0 }) {
            guard (try? peer.read(0, at: 0, count: 4)) != nil else { return }
        }
    }
    defer {
        stops.withLock { $0 = true }
        thread.join()
    }
    try body()
}

@Suite struct BusyPolling {
    @Test(arguments: [Duration.microseconds(1), .milliseconds(1), .seconds(1)])
    func `a conversation is the same, polled busily or not`(time: Duration) throws {
        let memory = try ClientMemoryFile(byteCount: 0x2000)
        try withPeer(of: Edu.makeFunction(), busyPoll: time) { peer in
            for round in 0..<50 as Range<UInt64> {
                try peer.succeed(Number.mapDMA, Payload.map(at: 0x1000 * round, size: 0x1000), [memory.number])
                #expect(try peer.read(0, at: 0, count: 4).number == 0x0100_00ed)
            }
            try peer.succeed(Number.mapDMA, Payload.map(at: 0x10_0000, size: 0x1000))
            try peer.enableBusMaster()
            let messages = PeerMemory(byteCount: 0x1000, at: 0x10_0000)
            try peer.startEduRead(from: 0x10_0000, count: 512)
            _ = try messages.serve(peer, until: .reads(1))
            try peer.waitForEdu()
            try peer.eduWrite(to: 0x800, count: 512)
            #expect(memory[0x800..<0xa00] == Array(messages.bytes[0..<512]))
        }
    }

    @Test func `the order to stop is heard while a client never stops asking`() throws {
        var thread: OSThread?
        try withPeer(of: Edu.makeFunction(), busyPoll: .seconds(1)) { peer in
            let asked = try EventCounter()
            thread = try OSThread(name: "flood") {
                while (try? peer.read(0, at: 0, count: 4)) != nil { asked.signal() }
            }
            _ = try asked.waitForSignal()
        }
        // The server has ended, which ended the client.
        thread?.join()
    }

    @Test func `an interrupt is let through again while a client never stops asking`() throws {
        try withPeer(of: Edu.makeFunction(), busyPoll: .seconds(1)) { peer in
            let counters = try eventCounters(2)
            try peer.connect(Interrupt.intx, to: [counters[0]])
            try peer.setInterrupts(
                SetFlags.descriptors | SetFlags.unmask, index: Interrupt.intx, count: 1, [counters[1]])
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(try counters[0].waitForSignal() == 1)
            try withFlood(peer) { () throws in
                for _ in 0..<100 {
                    // The line is still asserted.
                    counters[1].signal()
                    #expect(try counters[0].waitForSignal() == 1)
                }
            }
        }
    }
}
