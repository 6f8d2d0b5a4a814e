import LinuxHost

/// What came of an item.
public struct CheckResult: Sendable {
    public let item: CheckItem
    public let outcome: Outcome
}

/// Holds the checklist against a server, whoever wrote it.
///
/// Each item has connections of its own, one after another but where it is about two. The device is reset and its
/// configuration space written to as a guest would; memory and interrupts go with each connection. The caller's thread
/// does it all.
public struct Checker {
    private let path: String
    private let patience: Duration

    /// - Parameters:
    ///   - path: where the server listens.
    ///   - patience: how long an answer may take.
    public init(path: String, patience: Duration = .seconds(5)) {
        self.path = path
        self.patience = patience
    }

    /// Checks items in order, but those that may end a server after all others. Returns when all have an outcome.
    ///
    /// - Parameter report: is told each result at once.
    /// - Returns: the results in the order of the items.
    public func run(_ items: [CheckItem] = CheckItem.all, report: (CheckResult) -> Void = { _ in }) -> [CheckResult] {
        let survey: Survey
        do throws(Outcome) {
            let server = CheckedServer(path: path, patience: patience, survey: Survey())
            let (connection, version) = try server.sessionAndReply()
            survey = try Survey(connection, version: version)
        } catch {
            return withoutSurvey(items, error.text, report)
        }
        return run(items, CheckedServer(path: path, patience: patience, survey: survey), report)
    }

    private func run(
        _ items: [CheckItem], _ server: CheckedServer, _ report: (CheckResult) -> Void
    ) -> [CheckResult] {
        var results: [CheckResult] = []
        /// Why nothing more can be judged.
        var end: String?
        for item in items.filter({ !$0.mayEndServer }) + items.filter(\.mayEndServer) {
            var outcome = judge(item, server, end)
            if end == nil, item.reasonWithoutCheck == nil, let trouble = server.trouble() {
                end = "the server serves nobody since \(item.name): \(trouble)"
                if !outcome.isFailure {
                    outcome = .fails(
                        Finding(
                            sent: "what \(item.name) says", expected: "the next client to be served",
                            received: trouble))
                }
            }
            let result = CheckResult(item: item, outcome: outcome)
            report(result)
            results.append(result)
        }
        if end == nil { server.reset() }
        return results.sorted { $0.item.number < $1.item.number }
    }

    private func judge(_ item: CheckItem, _ server: CheckedServer, _ end: String?) -> Outcome {
        switch item.judgement {
        case .outOfReach(let reason): return .notJudged(reason)
        case .check(let body):
            if let end { return .notJudged(end) }
            do throws(Outcome) {
                try body(server)
                return .holds
            } catch {
                return error
            }
        }
    }

    /// A server that cannot even be asked what it is. The items about the beginning still tell more than that, and the
    /// one about the device, or the first of those asked for, fails for it.
    private func withoutSurvey(
        _ items: [CheckItem], _ reason: String, _ report: (CheckResult) -> Void
    ) -> [CheckResult] {
        let server = CheckedServer(path: path, patience: patience, survey: Survey())
        let culprit = items.contains { $0.number == 64 } ? 64 : items.first?.number
        return items.map { item in
            var outcome: Outcome =
                item.isAboutTheBeginning && server.isReachable
                ? judge(item, server, nil)
                : .notJudged(item.reasonWithoutCheck ?? "the device cannot be looked at: \(reason)")
            if item.number == culprit, !outcome.isFailure {
                outcome = .fails(
                    Finding(sent: "what clients ask at first", expected: "answers", received: reason))
            }
            let result = CheckResult(item: item, outcome: outcome)
            report(result)
            return result
        }
    }

    /// Why there is nothing to check at all; `nil` when somebody listens.
    public var obstacle: String? {
        do throws(Errno) {
            _ = try UNIXSocket.connect(toPath: path, atMost: patience)
            return nil
        } catch {
            return "\(error)"
        }
    }
}

extension CheckedServer {
    fileprivate var isReachable: Bool { (try? open()) != nil }

    /// Leaves the device as after power-on. Whether that works has been judged.
    fileprivate func reset() { _ = try? session().exchange(Number.resetDevice) }
}

extension Outcome {
    fileprivate var isFailure: Bool {
        if case .fails = self { true } else { false }
    }
}

extension CheckItem {
    /// What QEMU sees first; it is judged even if the server says nothing of its device.
    fileprivate var isAboutTheBeginning: Bool { [21, 23, 25, 29, 30, 64].contains(number) }
}
