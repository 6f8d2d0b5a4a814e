import LinuxHost
import Logging
import Virtio
import VirtioIOMMU

/// What an IOMMU's guest does wrong, in the log: each kind of event some lines a second, and then how many more there were.
///
/// A guest can make faults and requests that are refused as fast as it likes. What it makes must not bury the rest of the log,
/// nor pass without a word. The IOMMU itself reports only so many a second and counts all, so its counts tell what is missing.
///
/// `report` comes on any thread; the rest is for one, which waits for `news` and for the time to sum up.
final class IOMMULog: Sendable {
    /// For how long lines of a kind are counted together.
    static let period: Int64 = 1_000_000_000
    /// How many lines of a kind there are in a period.
    static let linesPerPeriod = 10

    /// Signalled when the first line of a period has been written, so that somebody has to sum up at its end.
    let news: EventCounter
    let logger: Logger
    private let deviceNames: [EndpointID: String]
    private let state = Monitor(LogPeriods())

    init(_ logger: Logger, deviceNames: [EndpointID: String]) throws(Errno) {
        news = try EventCounter()
        self.logger = logger
        self.deviceNames = deviceNames
    }

    var report: @Sendable (IOMMUEvent) -> Void {
        { event in self.take(event) }
    }

    var reportFailure: @Sendable (VirtioFailure) -> Void {
        { failure in
            self.write(.failure) { logger, _ in
                logger.warning("the driver has to reset the device", metadata: ["cause": "\(failure)"])
            }
        }
    }

    private func take(_ event: IOMMUEvent) {
        switch event {
        case .fault(let fault):
            write(.fault) { logger, names in
                let metadata = names[fault.endpoint].map { ["device": "\($0)"] as Logger.Metadata }
                logger.warning("\(event)", metadata: metadata)
            }
        case .rejected: write(.rejection) { logger, _ in logger.notice("\(event)") }
        case .unmapWaits, .moveWaits: write(.wait) { logger, _ in logger.warning("\(event)") }
        }
    }

    private func write(_ kind: LogPeriods.Kind, _ line: (Logger, [EndpointID: String]) -> Void) {
        let (isWritten, isNews) = state.withLock { $0.admit(kind, at: MonotonicInstant.now.nanoseconds) }
        if isNews { news.signal() }
        if isWritten { line(logger, deviceNames) }
    }

    /// How long it is until a period ends; `nil` while there is none.
    var timeToSummary: Duration? {
        state.withLock { $0.end }.map { .nanoseconds(max(0, $0 - MonotonicInstant.now.nanoseconds)) }
    }

    /// Says what there were no lines for in the periods that are over, or in all.
    func summarize(_ statistics: IOMMUStatistics, isLast: Bool = false) {
        let counts: [LogPeriods.Kind: UInt64] = [
            .fault: statistics.faultCount + statistics.suppressedFaultCount, .rejection: statistics.rejectedCount,
        ]
        let time = isLast ? Int64.max : MonotonicInstant.now.nanoseconds
        for (kind, count) in state.withLock({ $0.close(at: time, counts) }) {
            logger.log(level: kind == .rejection ? .notice : .warning, "… and \(count) more \(kind.plural)")
        }
    }
}

/// Which events of a kind become lines. Times are nanoseconds of a clock that does not go back.
struct LogPeriods {
    enum Kind: CaseIterable {
        case fault, rejection, wait, failure

        var plural: String {
            switch self {
            case .fault: "faults"
            case .rejection: "requests refused"
            case .wait: "waits for devices"
            case .failure: "failures"
            }
        }
    }

    private struct Period {
        /// When it ends; `nil` between periods.
        var end: Int64?
        /// In this period.
        var lineCount = 0
        /// Since the beginning: events that came, and those that were written or summed up.
        var seenCount: UInt64 = 0
        var toldCount: UInt64 = 0
    }

    private var periods: [Kind: Period] = [:]

    /// When the first of the periods ends; `nil` if there is none.
    var end: Int64? { periods.values.compactMap(\.end).min() }

    /// Takes note of an event.
    ///
    /// - Returns: whether it is to be written, and whether it has begun a period.
    mutating func admit(_ kind: Kind, at time: Int64) -> (isWritten: Bool, isNews: Bool) {
        var period = periods[kind] ?? Period()
        defer { periods[kind] = period }
        let isNews = period.end == nil
        if isNews {
            period.end = time + IOMMULog.period
            period.lineCount = 0
        }
        period.seenCount += 1
        guard period.lineCount < IOMMULog.linesPerPeriod else { return (false, isNews) }
        period.lineCount += 1
        period.toldCount += 1
        return (true, isNews)
    }

    /// Ends the periods that are over.
    ///
    /// - Parameter counts: how many events of a kind there have been in all, where somebody has counted those too that did
    ///   not come here.
    /// - Returns: the events that there was no line for, by kind, in the order of kinds.
    mutating func close(at time: Int64, _ counts: [Kind: UInt64]) -> [(Kind, UInt64)] {
        var untold: [(Kind, UInt64)] = []
        for kind in Kind.allCases {
            guard var period = periods[kind], let end = period.end, end <= time else { continue }
            let all = max(period.seenCount, counts[kind] ?? 0)
            if all > period.toldCount {
                untold.append((kind, all - period.toldCount))
                period.toldCount = all
            }
            period.end = nil
            periods[kind] = period
        }
        return untold
    }
}
