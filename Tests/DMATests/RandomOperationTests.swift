import DMA
import Glibc
import Testing

/// How much a random test does, which the environment can raise.
struct RandomPlan: CustomTestStringConvertible, Sendable {
    let seed: UInt64
    let pageSize: UInt64
    let operationCount: Int

    var testDescription: String { "\(operationCount) operations, seed \(seed), pages of \(pageSize) bytes" }

    static let operationCount = number("OUTBOARD_RANDOM_OPERATIONS") ?? 200_000
    static let firstSeed = UInt64(number("OUTBOARD_RANDOM_SEED") ?? 1)
    /// A run is no longer than this, so that the memory that it touches has a bound.
    private static let longestRun = 100_000

    static let all: [RandomPlan] = {
        let runCount = max(4, (operationCount + longestRun - 1) / longestRun)
        return (0..<runCount).map { index in
            // Small pages bring the parts of pages that a test can fill; large ones are those of the machine.
            RandomPlan(
                seed: firstSeed + UInt64(index), pageSize: index % 2 == 0 ? page : 16,
                operationCount: (operationCount + runCount - 1) / runCount)
        }
    }()

    private static func number(_ variable: String) -> Int? {
        guard let text = unsafe getenv(variable) else { return nil }
        return unsafe Int(String(cString: text)).flatMap { $0 > 0 ? $0 : nil }
    }
}

/// Random operations on two address spaces, each compared with the reference model: answers, callbacks, mappings, bytes.
///
/// 200 000 of them, or as many as `OUTBOARD_RANDOM_OPERATIONS` says, from `OUTBOARD_RANDOM_SEED` on if that is set.
@Suite struct `Random operations` {
    @Test(arguments: RandomPlan.all)
    func `answer as the reference model does`(plan: RandomPlan) throws {
        print("random operations: \(plan.testDescription)")
        var run = try RandomRun(seed: plan.seed, pageSize: plan.pageSize)
        var difference: String?
        // Some of its devices keep their pins.
        misusing(.lostPin) {
            while difference == nil && run.operationCount < plan.operationCount {
                difference = run.step()
                if difference == nil, run.operationCount % 20_000 == 0 { difference = run.checkEverything() }
            }
        }
        if let difference {
            Issue.record(Comment(rawValue: run.report(difference)))
            return run.real.end()
        }
        if let difference = run.end() { Issue.record(Comment(rawValue: run.report(difference))) }
        print("random operations: \(run.summary)")
        guard plan.operationCount >= 20_000 else { return }
        #expect(run.crossings > 20)
        #expect(run.largestCount > 1000)
        for kind in RandomRun.kinds {
            #expect(run.successes[kind, default: 0] > 15, "seed \(plan.seed): \(kind) hardly ever succeeds")
        }
    }

    @Test func `a difference is found and drawn`() throws {
        var run = try RandomRun(seed: 99, pageSize: page)
        for number in 0..<20 as Range<UInt64> {
            let operation = Operation.map(.remote, at: number * 2 * page, byteCount: page, .read, space: 1)
            try #require(run.perform(operation) == nil)
        }
        // Behind the model's back.
        try run.real.spaces[1].unmap(pages(20))
        let difference = try #require(run.checkEverything())
        #expect(difference == "space 1 has other mappings")
        let report = run.report(difference)
        #expect(report.hasPrefix("seed 99, pages of 4096 bytes, operation 0: space 1 has other mappings\n"))
        #expect(report.contains("\n  * -                                               | 0x14000...0x14fff r-\n"))
        #expect(report.contains("\n    0x12000...0x12fff r-                            | 0x12000...0x12fff r-\n"))
        #expect(report.contains("\n    ...\n"))
        #expect(run.perform(.unmap(pages(20), space: 1)) != nil)
    }
}
