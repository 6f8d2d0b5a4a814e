import LinuxHost
import Testing
import VFIOUserTransport

private func plan(_ text: String) throws -> FaultPlan { try FaultPlan(parsing: text) }

/// A pair of sockets, one of them behind faults.
private func faultyPair(_ text: String) throws -> (faulty: FaultyTransport, peer: UNIXSocket) {
    let (left, right) = try UNIXSocket.pair()
    return (FaultyTransport(left, try plan(text)), right)
}

@Suite struct `Faults on purpose` {
    @Test func `without faults everything passes as it is`() throws {
        let (faulty, peer) = try faultyPair("seed=1")
        let counter = try EventCounter()
        #expect(try peer.write(text(5000), [counter]) == 5000)
        #expect(faulty.read() == .bytes(text(5000), descriptorCount: 1, hasLost: false))
        #expect(faulty.read() == .failed(.wouldBlock))
        #expect(try faulty.write(text(5000), [counter, counter]) == 5000)
        #expect(peer.read() == .bytes(text(5000), descriptorCount: 2, hasLost: false))
        faulty.shutdown()
        #expect(peer.read() == .bytes([], descriptorCount: 0, hasLost: false))
    }

    @Test(arguments: 1...50 as ClosedRange<UInt64>)
    func `harmless faults change how bytes come and not which`(seed: UInt64) throws {
        let faults = "seed=\(seed),short-reads=40%,short-writes=40%,interruptions=10%,refusals=10%,delay=1us"
        let (faulty, peer) = try faultyPair(faults)
        let bytes = text(20_000)
        #expect(try peer.write(bytes) == bytes.count)
        peer.shutdown()
        #expect(faulty.readAll() == bytes)
        let (other, receiver) = try faultyPair(faults)
        let pieces = other.writeAll(bytes)
        #expect(pieces.count > 20 && pieces.reduce(0, +) == bytes.count)
        other.shutdown()
        #expect(receiver.readAll() == bytes)
    }

    @Test func `the same bytes meet the same faults, however they come`() throws {
        let faults = "seed=99,flipped-bits=30%,short-reads=20%,interruptions=20%,refusals=5%,cut-after=9000"
        let bytes = text(10_000)
        var results: [[UInt8]] = []
        var errorCounts: [Int] = []
        for step in [10_000, 1000, 64, 7] {
            let (faulty, peer) = try faultyPair(faults)
            var received: [UInt8] = []
            var interruptions = 0
            var hasEnded = false
            for first in stride(from: 0, to: bytes.count, by: step) where !hasEnded {
                _ = try peer.write(Array(bytes[first..<min(first + step, bytes.count)]))
                var isDry = 0
                while isDry < 4, !hasEnded {
                    switch faulty.read(atMost: 500) {
                    case .bytes(let part, _, _):
                        received += part
                        hasEnded = part.isEmpty
                        isDry = 0
                    case .failed(.interrupted): interruptions += 1
                    case .failed: isDry += 1
                    }
                }
            }
            results.append(received)
            errorCounts.append(interruptions)
        }
        #expect(results[0].count == 9000 && results[0] != Array(bytes[..<9000]))
        #expect(results.allSatisfy { $0 == results[0] })
        #expect(errorCounts[0] > 10 && errorCounts.allSatisfy { $0 == errorCounts[0] })
    }

    @Test func `seeds, directions and transports of one plan differ`() throws {
        let plans = try [plan("seed=1,flipped-bits=50%"), plan("seed=2,flipped-bits=50%")]
        var seen: Set<[UInt8]> = []
        for (plan, number) in [(plans[0], 0), (plans[0], 1), (plans[1], 0)] as [(FaultPlan, UInt64)] {
            let (left, right) = try UNIXSocket.pair()
            let transport = FaultyTransport(left, plan, number: number)
            _ = try right.write(text(4000))
            right.shutdown()
            seen.insert(transport.readAll())
            let (third, fourth) = try UNIXSocket.pair()
            _ = FaultyTransport(third, plan, number: number).writeAll(text(4000))
            third.shutdown()
            seen.insert(fourth.readAll())
        }
        #expect(seen.count == 6)
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `a header leaves in one piece, and descriptors with its first byte`(seed: UInt64) throws {
        let (faulty, peer) = try faultyPair("seed=\(seed),short-writes=100%")
        let counter = try EventCounter()
        for _ in 0..<50 {
            var rest = text(200)[...]
            var first = try faulty.write(Array(rest), [counter])
            #expect(first >= 16 && first < 200)
            #expect(peer.read() == .bytes(Array(rest.prefix(first)), descriptorCount: 1, hasLost: false))
            rest = rest.dropFirst(first)
            while !rest.isEmpty {
                first = try faulty.write(Array(rest))
                #expect(first > 0)
                rest = rest.dropFirst(first)
            }
            while case .bytes = peer.read() {}
        }
    }

    @Test func `descriptors are lost as the kernel would lose them, and closed`() throws {
        let (faulty, peer) = try faultyPair("seed=3,lost-descriptors=50%")
        let counters = [try EventCounter(), try EventCounter()]
        var counts: Set<Int> = []
        for _ in 0..<100 {
            _ = try peer.write([1], counters)
            guard case .bytes([1], let count, let hasLost) = faulty.read() else {
                Issue.record("no byte came")
                return
            }
            #expect(hasLost == (count < 2))
            counts.insert(count)
        }
        #expect(counts == [0, 1, 2])
        counts = []
        for _ in 0..<100 {
            _ = try faulty.write([1], counters)
            guard case .bytes([1], let count, hasLost: false) = peer.read() else {
                Issue.record("no byte came")
                return
            }
            counts.insert(count)
        }
        #expect(counts == [0, 1, 2])
    }

    @Test func `swapped descriptors are all there in another order`() throws {
        let (left, right) = try UNIXSocket.pair()
        let faulty = FaultyTransport(left, try plan("swapped-descriptors=100%"))
        let counters = [try EventCounter(), try EventCounter(), try EventCounter()]
        _ = try right.write([1], counters)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1, alignment: 1)
        defer { unsafe buffer.deallocate() }
        var received = unsafe try faulty.receive(into: buffer, waiting: false)
        let count = received.descriptors.count
        #expect(count == 3)
        for number in [1, 2, 0] {
            guard let descriptor = received.descriptors.takeFirst() else { break }
            let counter = try EventCounter(adopting: descriptor)
            #expect(counters.map { $0.drain() } == [0, 0, 0])
            counter.signal()
            #expect(counters[number].drain() == 1)
        }
    }

    @Test(arguments: [0, 1, 63, 64, 100, 5000])
    func `a connection that is cut after so many bytes ends there, for both sides`(count: Int) throws {
        let (faulty, peer) = try faultyPair("cut-after=\(count)")
        _ = try peer.write(text(6000))
        #expect(faulty.readAll() == Array(text(6000).prefix(count)))
        #expect(peer.read() == .bytes([], descriptorCount: 0, hasLost: false))
        let (other, receiver) = try faultyPair("cut-after=\(count)")
        #expect(other.writeAll(text(6000)).reduce(0, +) == count)
        #expect(receiver.readAll() == Array(text(6000).prefix(count)))
    }

    @Test func `somebody who waits is not told that nothing is there`() throws {
        let (faulty, peer) = try faultyPair("refusals=100%")
        _ = try peer.write(text(100))
        for _ in 0..<3 {
            let outcome = faulty.read(waiting: true)
            if case .bytes = outcome { return }
            #expect(outcome == .failed(.interrupted))
        }
        #expect(faulty.read(waiting: true) == .bytes(Array(text(64)), descriptorCount: 0, hasLost: false))
    }

    @Test func `ending a connection ends a delay`() throws {
        let (faulty, peer) = try faultyPair("delays=100%,delay=1s")
        _ = try peer.write(text(1 << 14))
        let thread = try OSThread(name: "shutdown") { faulty.shutdown() }
        // A second for each 64 bytes otherwise: minutes.
        #expect(faulty.readAll().count <= 1 << 14)
        thread.join()
    }
}
