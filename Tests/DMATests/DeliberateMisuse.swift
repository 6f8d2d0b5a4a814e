import LinuxHost
import Testing

/// What a device does wrong on purpose in a test.
enum DeliberateMisuse {
    case lostPin, useAfterDestroy, recursion

    fileprivate var kind: LockChecker.Report.Kind {
        switch self {
        case .lostPin: .lostPin
        case .useAfterDestroy: .useAfterDestroy
        case .recursion: .recursion
        }
    }
}

/// Runs what a device must not do, so that the lock checker that watches the process, if one does, does not hear of it:
/// one of its own may report the misuse, and nothing else.
@discardableResult
func misusing<Result, Failure: Error>(
    _ misuse: DeliberateMisuse, body: () throws(Failure) -> Result
) throws(Failure) -> Result {
    guard LockChecker.isOn else { return try body() }
    let checker = LockChecker()
    defer { #expect(checker.reports.filter { !$0.isMatterOfTime && $0.kind != misuse.kind } == []) }
    return try checker.record(body)
}
