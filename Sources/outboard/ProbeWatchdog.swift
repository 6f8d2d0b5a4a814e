import LinuxHost

/// Ends a connection that is waited on for too long, whatever keeps it: a server that sends nothing, or one that never
/// stops sending. Its thread lives until `stop`.
final class ProbeWatchdog: Sendable {
    private struct State {
        var deadline: MonotonicInstant?
        var hasExpired = false
        var isStopping = false
    }

    private let state = Monitor(State())
    private let thread: OSThread

    init(_ socket: UNIXSocket) throws(Errno) {
        thread = try OSThread(name: "watchdog") { [state] in
            while true {
                guard let deadline = state.wait({ $0.isStopping ? .some(nil) : $0.deadline.map { .some($0) } }) else {
                    return
                }
                let isOver = state.wait(until: deadline) { $0.isStopping || $0.deadline != deadline ? true : nil }
                guard isOver == nil else { continue }
                let hasExpired = state.update { state in
                    // The answer may have come this very moment.
                    guard state.deadline == deadline else { return false }
                    state.hasExpired = true
                    state.deadline = nil
                    return true
                }
                if hasExpired { socket.shutdown() }
            }
        }
    }

    var hasExpired: Bool { state.withLock { $0.hasExpired } }

    /// Watches from now on, for as long as given.
    func begin(_ time: Duration) { state.update { $0.deadline = .after(time) } }

    func end() { state.update { $0.deadline = nil } }

    func stop() {
        state.update { $0.isStopping = true }
        thread.join()
    }
}
