import Glibc
import LinuxHost
import Synchronization
import Testing

@Suite struct `An event counter of a peer` {
    @Test func `is drained without waiting although the peer empties it at the same moment`() throws {
        let counter = try EventCounter()
        let peers = try EventCounter(adopting: OwnedDescriptor(adopting: dup(counter.rawDescriptor)))
        // A read waits for it now, through whichever descriptor.
        try #require(fcntl(counter.rawDescriptor, F_SETFL, 0) == 0)
        let sides = [counter, peers].map(Drainer.init)
        let threads = try sides.map { side in
            try OSThread(name: "drain") {
                while !side.isToEnd.load(ordering: .relaxed) {
                    side.counter.drain()
                    side.drained.add(1, ordering: .relaxed)
                }
            }
        }
        for round in 0..<200 {
            let before = sides.map { $0.drained.load(ordering: .relaxed) }
            counter.signal()
            let deadline = MonotonicInstant.after(.seconds(10))
            for (side, count) in zip(sides, before) {
                while side.drained.load(ordering: .relaxed) < count + 2 && MonotonicInstant.now < deadline {
                    sched_yield()
                }
            }
            let isDone = MonotonicInstant.now < deadline
            #expect(isDone, "in round \(round) somebody waits for an empty counter")
            if !isDone { break }
        }
        for side in sides { side.isToEnd.store(true, ordering: .relaxed) }
        // Lets go of whoever hangs.
        for _ in threads { counter.signal() }
        for thread in threads { thread.join() }
    }

    private final class Drainer: Sendable {
        let counter: EventCounter
        let drained = Atomic(0)
        let isToEnd = Atomic(false)

        init(_ counter: EventCounter) {
            self.counter = counter
        }
    }
}
