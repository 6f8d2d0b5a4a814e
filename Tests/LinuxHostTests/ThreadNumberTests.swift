import LinuxHost
import Testing

@Suite struct `Thread numbers` {
    @Test func `a thread keeps its number`() throws {
        let own = ThreadNumber.current
        let thread = try OSThread(name: "another") { _ = ThreadNumber.current }
        thread.join()
        #expect(ThreadNumber.current == own)
    }

    @Test func `threads that live at the same time have different numbers, without holes`() throws {
        // Other threads of the process have numbers too and come and go: enough new ones fill every hole they leave.
        let (own, count) = (ThreadNumber.current, 150)
        let seen = Monitor<(numbers: [Int], mayEnd: Bool)>(([], false))
        let threads = try (0..<count).map { index in
            try OSThread(name: "numbered \(index)") {
                let number = ThreadNumber.current
                seen.update { $0.numbers.append(number) }
                seen.wait { $0.mayEnd ? () : nil }
                seen.update { if ThreadNumber.current != number { $0.numbers.append(-1) } }
            }
        }
        let numbers = seen.wait { $0.numbers.count == count ? $0.numbers : nil }
        seen.update { $0.mayEnd = true }
        for thread in threads { thread.join() }
        #expect(Set(numbers + [own]).count == count + 1)
        #expect((numbers.max() ?? .max) < count + otherThreadsAtMost)
        #expect(seen.withLock { !$0.numbers.contains(-1) })
    }

    @Test func `the number of a thread that has ended is used again`() throws {
        var numbers: Set<Int> = []
        let seen = Monitor(-1)
        for _ in 0..<1000 {
            let thread = try OSThread(name: "short-lived") { seen.update { $0 = ThreadNumber.current } }
            thread.join()
            numbers.insert(seen.withLock { $0 })
        }
        #expect(!numbers.contains(-1))
        #expect(numbers.count <= otherThreadsAtMost)
        #expect((numbers.max() ?? .max) < otherThreadsAtMost)
    }

    @Test func `what a thread wrote at its number is seen by the next thread with that number`() throws {
        // Plain memory, one place for each number, handed from thread to thread by the number alone: the thread
        // sanitizer watches that the hand-over is ordered.
        let counts = PlaceForEachThread(capacity: 256)
        let rounds = 200
        let starters = try (0..<4).map { index in
            try OSThread(name: "starter \(index)") {
                for _ in 0..<rounds {
                    guard let thread = try? OSThread(name: "counter", { counts.increment(ThreadNumber.current) }) else {
                        continue
                    }
                    thread.join()
                }
            }
        }
        for starter in starters { starter.join() }
        #expect(counts.sum == 4 * rounds)
    }
}

/// More threads than the test runner and the runtime have beside those of a test.
private let otherThreadsAtMost = 64

/// A count for each thread number, kept in memory that nothing but the number protects.
@safe
private final class PlaceForEachThread: @unchecked Sendable {  // Only the thread with a number touches its place.
    private let counts: UnsafeMutableBufferPointer<Int>

    init(capacity: Int) {
        unsafe counts = .allocate(capacity: capacity)
        unsafe counts.initialize(repeating: 0)
    }

    deinit { unsafe counts.deallocate() }

    func increment(_ number: Int) { unsafe counts[number] += 1 }

    /// To be asked when all threads were joined.
    var sum: Int { unsafe counts.reduce(0, +) }
}
