import LinuxHost
import SVA

/// How long the device has waited for pages, since the last reset.
final class WaitStatistics: Sendable {
    struct Counts {
        var groupsAnswered: UInt64 = 0
        var groupsRefused: UInt64 = 0
        /// In nanoseconds.
        var waitTotal: UInt64 = 0
        var longestWait: UInt64 = 0
    }

    private struct State {
        var counts = Counts()
        /// When the last request of a group was sent.
        var sent: [PageRequestGroupIndex: MonotonicInstant] = [:]
    }

    private let state = Monitor(State())

    var counts: Counts { state.withLock { $0.counts } }

    /// How many groups wait for an answer.
    var waitingGroups: Int { state.withLock { $0.sent.count } }

    func reset() { state.withLock { $0.counts = Counts() } }

    /// Takes what an `SVADevice` tells.
    func note(_ event: SVAEvent) {
        switch event {
        case .requested(let request) where request.isLast:
            state.withLock { $0.sent[request.group] = .now }
        case .answered(let response):
            state.withLock { state in
                guard let sent = state.sent.removeValue(forKey: response.group) else { return }
                let wait = UInt64(clamping: MonotonicInstant.now.nanoseconds - sent.nanoseconds)
                if response.code == .success {
                    state.counts.groupsAnswered += 1
                } else {
                    state.counts.groupsRefused += 1
                }
                state.counts.waitTotal &+= wait
                state.counts.longestWait = max(state.counts.longestWait, wait)
            }
        default: break
        }
    }
}
