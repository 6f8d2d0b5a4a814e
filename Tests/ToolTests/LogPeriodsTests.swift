import Testing

@testable import outboard

@Suite struct `What of many events becomes lines` {
    private let second = IOMMULog.period

    @Test func `the first of a kind in a second are written, and the others counted at its end`() {
        var periods = LogPeriods()
        var written = 0
        for time in 0..<1000 {
            let (isWritten, isNews) = periods.admit(.fault, at: Int64(time))
            if isWritten { written += 1 }
            #expect(isNews == (time == 0))
        }
        #expect(written == IOMMULog.linesPerPeriod)
        #expect(periods.end == second)
        #expect(periods.close(at: second - 1, [:]).isEmpty)
        let untold = periods.close(at: second, [:])
        #expect(untold.map(\.0) == [.fault] && untold.map(\.1) == [1000 - UInt64(IOMMULog.linesPerPeriod)])
        #expect(periods.end == nil)
        #expect(periods.admit(.fault, at: second) == (true, true))
        #expect(periods.close(at: 2 * second, [:]).isEmpty)
    }

    @Test func `kinds do not take each other's lines`() {
        var periods = LogPeriods()
        for _ in 0..<100 { _ = periods.admit(.fault, at: 0) }
        #expect(periods.admit(.rejection, at: 5) == (true, true))
        #expect(periods.admit(.fault, at: 5) == (false, false))
        #expect(periods.close(at: second, [:]).map(\.0) == [.fault])
        #expect(periods.end == second + 5)
    }

    @Test func `events that never came here are counted by who has counted them, once`() {
        var periods = LogPeriods()
        _ = periods.admit(.fault, at: 0)
        #expect(periods.close(at: second, [.fault: 813]).map(\.1) == [812])
        _ = periods.admit(.fault, at: second)
        #expect(periods.close(at: 2 * second, [.fault: 814]).isEmpty)
        // One that is counted after the line about it.
        _ = periods.admit(.fault, at: 2 * second)
        #expect(periods.close(at: 3 * second, [.fault: 814]).isEmpty)
        _ = periods.admit(.fault, at: 3 * second)
        #expect(periods.close(at: 4 * second, [.fault: 816]).isEmpty)
    }

    @Test func `at the end what is left is counted without waiting`() {
        var periods = LogPeriods()
        for _ in 0..<20 { _ = periods.admit(.failure, at: 7) }
        #expect(periods.close(at: .max, [:]).map(\.1) == [20 - UInt64(IOMMULog.linesPerPeriod)])
    }
}
