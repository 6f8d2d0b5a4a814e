import LinuxHost

/// The results of the rounds of one measurement.
struct Figures {
    let samples: [Double]
    private let sorted: [Double]

    init(_ samples: [Double]) {
        self.samples = samples
        sorted = samples.sorted()
    }

    /// The middle one; of an even number the upper of the two.
    var median: Double { sorted[sorted.count / 2] }
    var lowest: Double { sorted[0] }
    var highest: Double { sorted[sorted.count - 1] }

    /// The value that this share of the samples does not exceed.
    func percentile(_ share: Double) -> Double {
        sorted[min(sorted.count - 1, Int(share * Double(sorted.count)))]
    }

    /// How many times `other` this is: the median over the rounds, each of which saw the same state of the machine.
    func ratio(to other: Figures) -> Double {
        Figures(zip(samples, other.samples).map { $0 / $1 }).median
    }
}

/// Runs every contender once to warm up and then in rounds, one after the other, so that what disturbs the machine for a
/// while disturbs all alike. Each round begins with another one.
func interleaved<Subject>(
    _ subjects: [Subject], rounds: Int, _ sample: (Subject, _ round: Int) throws -> Double
) rethrows -> [Figures] {
    var samples: [[Double]] = Array(repeating: [], count: subjects.count)
    for round in -1..<rounds {
        for turn in subjects.indices {
            let index = (turn + max(0, round)) % subjects.count
            let result = try sample(subjects[index], max(0, round))
            if round >= 0 { samples[index].append(result) }
        }
    }
    return samples.map(Figures.init)
}

/// Nanoseconds for each operation of a body that does `count` of them and is repeated until `duration` is over, timed by
/// the monotonic clock. `body` is told how often it ran before.
func nanosecondsPerOperation(for duration: Duration, count: Int, _ body: (_ turn: Int) -> Void) -> Double {
    let start = MonotonicInstant.now
    let end = MonotonicInstant.after(duration)
    var turn = 0
    var now = start
    repeat {
        body(turn)
        turn += 1
        now = .now
    } while now < end
    return Double(now.nanoseconds - start.nanoseconds) / (Double(turn) * Double(count))
}

/// Takes the results of measured work, so that the compiler cannot leave it out.
///
/// Used by the main thread alone.
struct Checksum {
    private(set) var value: UInt64 = 0

    mutating func add(_ number: UInt64) { value = value &* 31 &+ number }
}
