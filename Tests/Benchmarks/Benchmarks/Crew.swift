import Glibc
import LinuxHost
import Synchronization

/// Threads that do the same work over and over until they are told to stop.
final class Crew {
    private let state = CrewState()
    private var threads: [OSThread] = []

    /// Starts the threads, which wait for `begin`.
    ///
    /// - Parameter work: a piece of it, short against what is measured; returns how many operations that were.
    init(_ name: String, count: Int, _ work: @escaping @Sendable (_ number: Int, _ turn: Int) -> Int) throws(Errno) {
        for number in 0..<count {
            threads.append(
                try OSThread(name: "\(name) \(number)") { [state] in
                    state.waitForBeginning()
                    var turn = 0
                    var done = 0
                    while !state.isOver {
                        done += work(number, turn)
                        turn += 1
                    }
                    state.finish(done)
                })
        }
    }

    func begin() { state.begin() }

    /// Tells the threads to stop, waits for them, and returns the number of operations of all.
    func end() -> Int {
        state.end()
        for thread in threads { thread.join() }
        return state.total
    }
}

private final class CrewState: Sendable {
    private let phase = Monitor(false)
    private let over = Atomic(false)
    private let done = Atomic(0)

    func waitForBeginning() { phase.wait { $0 ? () : nil } }

    func begin() { phase.update { $0 = true } }

    var isOver: Bool { over.load(ordering: .relaxed) }

    func end() { over.store(true, ordering: .relaxed) }

    func finish(_ count: Int) { done.add(count, ordering: .relaxed) }

    var total: Int { done.load(ordering: .relaxed) }
}

extension Crew {
    /// Lets the threads work for a while. Returns the number of operations for each nanosecond of it.
    func rate(during duration: Duration, _ meanwhile: () -> Void = {}) -> Double {
        let start = MonotonicInstant.now
        begin()
        meanwhile()
        pause(MonotonicInstant.after(duration).remaining)
        let end = MonotonicInstant.now
        return Double(self.end()) / Double(end.nanoseconds - start.nanoseconds)
    }
}

/// Lets the calling thread sleep.
func pause(_ duration: Duration) {
    let (seconds, attoseconds) = duration.components
    var time = timespec(tv_sec: Int(seconds), tv_nsec: Int(attoseconds / 1_000_000_000))
    unsafe nanosleep(&time, nil)
}

/// Work that touches no memory, for as long as asked for at the speed that the processor had at the start.
struct OtherWork {
    private let stepsPerMicrosecond: Double

    init() {
        let steps = 1 << 22
        var result: UInt64 = 1
        let times = (0..<5).map { _ in
            nanosecondsPerOperation(for: .zero, count: steps) { _ in result = OtherWork.compute(result, steps: steps) }
        }
        precondition(result != 0, "an odd number times odd numbers is odd")
        stepsPerMicrosecond = 1000 / Figures(times).median
    }

    /// Returns a number that depends on every step, for the caller to use.
    func spend(microseconds: Double, _ seed: UInt64) -> UInt64 {
        OtherWork.compute(seed | 1, steps: Int(microseconds * stepsPerMicrosecond))
    }

    /// Each step is a multiplication that needs the one before.
    @inline(never)
    private static func compute(_ seed: UInt64, steps: Int) -> UInt64 {
        var value = seed
        for _ in 0..<steps { value = value &* 6_364_136_223_846_793_005 &+ 2 }
        return value
    }
}
