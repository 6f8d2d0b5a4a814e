import Glibc
import Logging

/// The log on standard error, a line for each event; a line that nobody has room for is dropped.
struct StandardErrorLog: LogHandler {
    let label: String
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.notice

    init(label: String) {
        self.label = label
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let details = metadata.merging(event.metadata ?? [:]) { _, ofEvent in ofEvent }
        let text = details.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        FileOutput.standardError.offer(line: "\(now()) \(event.level) \(label): \(event.message)\(text)")
    }

    /// Date and time in UTC, as in `2026-01-31T23:59:59Z`.
    private func now() -> String {
        var seconds = Glibc.time(nil)
        var fields = unsafe tm()
        unsafe gmtime_r(&seconds, &fields)
        let date = unsafe [fields.tm_year + 1900, fields.tm_mon + 1, fields.tm_mday]
        let time = unsafe [fields.tm_hour, fields.tm_min, fields.tm_sec]
        func digits(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return date.map(digits).joined(separator: "-") + "T" + time.map(digits).joined(separator: ":") + "Z"
    }
}
