public import CLinuxShims
import Glibc

/// A watch over the order in which threads take locks, call back and wait.
///
/// It reports a possible deadlock on the first run that shows its parts, though no thread hangs: every time a thread
/// takes a lock while it holds another, the checker notes the order between the classes of the two, and a circle of such
/// orders is a deadlock that only timing has avoided. `Monitor` and `OSThread` are watched as they are; a device that has
/// locks of its own, or callbacks and sections that others wait for, tells of them with `acquire`, `release`, `holding`
/// and `passes`.
///
/// The environment variable `OUTBOARD_LOCK_CHECKER` switches it on for the whole process: `report` prints each report
/// once to standard error, `trap` stops the process after the first one as well. Without it every operation costs one
/// load and one branch. A test records what its own threads do with `withRecording`.
public final class LockChecker: Sendable {
    /// How a lock is held: alone, or with others that share it.
    public enum Mode: Hashable, Sendable {
        case exclusive
        case shared
    }

    private enum Reaction { case keep, print, trap }

    /// How long what others wait for may take.
    public struct Limits: Sendable {
        /// A callback that takes longer is reported.
        public var callback: Duration = .seconds(1)
        /// A callback that takes longer is warned of.
        public var callbackWarning: Duration = .milliseconds(10)
        /// A wait that has no end of its own is reported when it has taken this long; it goes on.
        public var wait: Duration = .seconds(10)

        public init() {}
    }

    /// What all threads that it watches have shown so far.
    private struct State {
        var graph = LockGraph()
        var reports: [Report] = []
        var known: Set<ReportKey> = []

        /// The report, if it is the first of its like.
        mutating func keep(_ report: Report, as key: ReportKey) -> Report? {
            guard known.insert(key).inserted else { return nil }
            reports.append(report)
            return report
        }
    }

    /// What makes a report another one than those made. The text does not count: it names threads and times.
    private struct ReportKey: Hashable {
        let kind: Report.Kind
        let classes: [Int]
        let places: [SourcePlace]
    }

    let limits: Limits
    private let reaction: Reaction
    private let state = PlainLock(State())

    /// A checker that only keeps its reports.
    public convenience init(limits: Limits = Limits()) { self.init(reaction: .keep, limits: limits) }

    private init(reaction: Reaction, limits: Limits = Limits()) {
        self.reaction = reaction
        self.limits = limits
    }

    /// What was wrong so far, each thing once.
    public var reports: [Report] { state.withLock { $0.reports } }

    /// Runs `body` with this checker, and no other, watching the calling thread and each `OSThread` that is started
    /// inside, from there on too. What the thread held before is not known to it.
    public func record<Result: ~Copyable, Failure: Error>(
        _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        Self.addRecording()
        let previous = CheckedThread.own
        CheckedThread.own = CheckedThread(checker: self)
        defer {
            CheckedThread.own = previous
            Self.removeRecording()
        }
        return try body()
    }

    /// What a checker of its own has to say of `body`.
    public static func withRecording<Failure: Error>(_ body: () throws(Failure) -> Void) throws(Failure) -> [Report] {
        let checker = LockChecker()
        try checker.record(body)
        return checker.reports
    }

    func number(of lockClass: LockClass) -> Int { state.withLock { $0.graph.number(of: lockClass) } }

    func classesTaken(inside lockClass: LockClass) -> [LockClass] {
        state.withLock { $0.graph.classesTaken(inside: lockClass) }
    }

    func add(_ edge: LockGraph.Edge) {
        let report: Report? = state.withLock { state in
            guard let cycle = state.graph.add(edge) else { return nil }
            // The same circle is found again from its other edges: it is known by its classes, the lowest first.
            let classes = cycle.map(\.key.held)
            let lowest = classes.indices.min { classes[$0] < classes[$1] } ?? 0
            let key = ReportKey(
                kind: .lockOrder, classes: Array(classes[lowest...] + classes[..<lowest]), places: [])
            return state.keep(Report(cycle: cycle, in: state.graph), as: key)
        }
        if let report { react(to: report) }
    }

    func raise(_ report: Report) {
        let isFirst = state.withLock { state in
            let classes = report.classes.map { state.graph.number(of: $0) }
            return state.keep(report, as: ReportKey(kind: report.kind, classes: classes, places: report.places)) != nil
        }
        if isFirst { react(to: report) }
    }

    private func react(to report: Report) {
        if reaction == .keep { return }
        var bytes = Array("lock checker: \(report.text)\n".utf8)[...]
        while !bytes.isEmpty {
            let written = unsafe bytes.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
            if written < 0 && errno != EINTR { break }
            bytes = bytes.dropFirst(max(0, written))
        }
        if reaction == .trap && !report.isMatterOfTime { fatalError("the lock checker was told to stop the process") }
    }
}

extension LockChecker {
    private static let off: UInt8 = 1
    private static let on: UInt8 = 2

    /// Whether any thread of the process is watched.
    @inlinable public static var isOn: Bool {
        let state = shim_lock_checker_switch()
        return state != 1 && (state == 2 || decide())
    }

    /// The checker that the environment asks for; it watches every thread that does not record.
    static let ofProcess: LockChecker? = {
        guard let value = unsafe getenv("OUTBOARD_LOCK_CHECKER") else { return nil }
        return switch unsafe String(cString: value) {
        case "report": LockChecker(reaction: .print)
        case "trap": LockChecker(reaction: .trap)
        default: nil
        }
    }()

    private static let recordings = PlainLock(0)

    @usableFromInline
    @inline(never)
    static func decide() -> Bool {
        recordings.withLock { setSwitch($0) }
        return shim_lock_checker_switch() == on
    }

    private static func addRecording() {
        recordings.withLock { count in
            count += 1
            setSwitch(count)
        }
    }

    private static func removeRecording() {
        recordings.withLock { count in
            count -= 1
            setSwitch(count)
        }
    }

    private static func setSwitch(_ recordings: Int) {
        shim_set_lock_checker_switch(recordings > 0 || ofProcess != nil ? on : off)
    }
}
