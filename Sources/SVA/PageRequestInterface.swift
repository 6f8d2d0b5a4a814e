import DMA
import LinuxHost

/// A function's ability to ask for pages: who asks, how much at a time, and which answer is whose.
///
///     disabled ── enable ──▶ enabled ── stop ──▶ stopped ── disable ──▶ disabled
///                               │ ▲
///             failure answered  ▼ │ enable
///                              failed
///
/// A thread whose access missed asks for the pages and waits for the one answer to its group. It waits first for a group
/// index that no outstanding group has, and for credits: one for each request that may be outstanding. Both come back with
/// the answer, and with nothing else. Threads: any method on any thread. PCI Express, "Page Request Extended Capability".
public final class PageRequestInterface: Sendable {
    public enum Standing: Hashable, Sendable {
        /// Nobody may ask.
        case disabled
        case enabled
        /// Nobody may ask; answers are still taken.
        case stopped
        /// A group was answered with `failure`: nobody may ask until it is enabled again. "Response Failure"
        case failed
    }

    /// What became of a request.
    enum Outcome: Equatable {
        case answered(PageResponse.Code)
        case notEnabled(Standing)
        case timedOut
    }

    private struct Outstanding {
        let pasid: PASID?
        var answer: PageResponse.Code?
    }

    private struct State {
        var standing = Standing.disabled
        var groups: [PageRequestGroupIndex: Outstanding] = [:]
        var credits: Int
        /// Threads that are sending the requests of a group.
        var senders = 0
        /// Where the search for a free index begins. It goes round, so that an index is used again as late as possible.
        var nextIndex: UInt16 = 0
        var unexpectedAnswers = 0

        mutating func takeIndex() -> PageRequestGroupIndex? {
            for offset in 0..<PageRequestGroupIndex.count {
                let number = (nextIndex + offset) % PageRequestGroupIndex.count
                guard let index = PageRequestGroupIndex(rawValue: number), groups[index] == nil else { continue }
                nextIndex = (number + 1) % PageRequestGroupIndex.count
                return index
            }
            return nil
        }
    }

    private let state: Monitor<State>

    /// - Parameter creditLimit: how many requests may be outstanding. "Outstanding Page Request Allocation"
    init(creditLimit: Int) {
        state = Monitor(State(credits: creditLimit), as: .pageRequests)
    }

    public var standing: Standing { state.withLock { $0.standing } }

    /// The groups that wait for an answer, or whose answer was not taken yet.
    public var outstandingGroupCount: Int { state.withLock { $0.groups.count } }

    /// The answers that came for no outstanding group. "Unexpected Page Request Group Index"
    public var unexpectedAnswerCount: Int { state.withLock { $0.unexpectedAnswers } }

    /// Lets threads ask, also after a failure.
    func enable() { state.update { $0.standing = .enabled } }

    /// Lets threads ask again after a failure. Nothing happens otherwise.
    public func recover() {
        state.update { state in
            if state.standing == .failed { state.standing = .enabled }
        }
    }

    func disable() { state.update { $0.standing = .disabled } }

    /// Lets nobody ask any more, and returns when no thread is sending. Those that wait for a credit are told.
    func stop() {
        LockChecker.passes(through: .requestSending, instance: ObjectIdentifier(self))
        state.update { $0.standing = .stopped }
        state.wait { $0.senders == 0 ? () : nil }
    }

    /// Waits until each thread that had asked has taken its answer.
    func waitUntilQuiet() { state.wait { $0.groups.isEmpty ? () : nil } }

    /// Asks for pages of a PASID, or of none, and waits for the answer.
    ///
    /// - Parameters:
    ///   - pages: an address in each, at least one. When there are credits for only some of them it asks for the first
    ///     ones: who waited for more could wait for ever while others take one at a time.
    ///   - patience: how long to wait for an index and credits.
    ///   - send: takes the requests one after the other, with no lock held.
    func ask(
        for pages: [IOVA], rights: AccessRights, pasid: PASID?, patience: Duration, send: (PageRequest) -> Void
    ) -> Outcome {
        precondition(!pages.isEmpty, "a group has requests")
        precondition(!rights.isEmpty, "a request for no rights is a stop marker, which nobody answers")
        let deadline = MonotonicInstant.after(patience)
        let admitted = state.wait(until: deadline) { state -> Result<Admission, NotEnabled>? in
            guard state.standing == .enabled else { return .failure(NotEnabled(standing: state.standing)) }
            guard state.credits > 0, let index = state.takeIndex() else { return nil }
            let count = min(pages.count, state.credits)
            state.credits -= count
            state.senders += 1
            state.groups[index] = Outstanding(pasid: pasid)
            return .success(Admission(index: index, count: count))
        }
        let index: PageRequestGroupIndex
        let count: Int
        switch admitted {
        case nil: return .timedOut
        case .failure(let refusal): return .notEnabled(refusal.standing)
        case .success(let admission): (index, count) = (admission.index, admission.count)
        }
        LockChecker.holding(.requestSending, instance: ObjectIdentifier(self), mode: .shared) {
            for (number, page) in pages.prefix(count).enumerated() {
                send(
                    PageRequest(
                        pasid: pasid, address: page, rights: rights, group: index, isLast: number == count - 1))
            }
        }
        state.update { $0.senders -= 1 }
        let answer = state.wait { $0.groups[index]?.answer }
        state.update { state in
            state.groups[index] = nil
            state.credits += count
        }
        return .answered(answer)
    }

    private struct Admission {
        let index: PageRequestGroupIndex
        let count: Int
    }

    private struct NotEnabled: Error {
        let standing: Standing
    }

    /// Takes an answer. One for a group that does not wait for any is counted and does nothing.
    func take(_ response: PageResponse) {
        state.update { state in
            guard let group = state.groups[response.group], group.answer == nil,
                response.pasid == nil || response.pasid == group.pasid
            else {
                state.unexpectedAnswers += 1
                return
            }
            state.groups[response.group]?.answer = response.code
            if response.code == .failure && state.standing == .enabled { state.standing = .failed }
        }
    }
}
