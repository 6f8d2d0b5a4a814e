import ArgumentParser
import Glibc

/// Measures the DMA module and the server beside baselines in C, in the same run.
///
///     swift run -c release Benchmarks [MEASUREMENT...]
///
/// Before anything is measured, all are driven by the same random operations and must answer alike, or the status is 1.
/// Nothing fails on a time. Servers run in processes of their own, which are this program once more.
@main
struct Benchmarks: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "Benchmarks",
        abstract: "Measures the DMA module and the server beside baselines in C.",
        discussion: "Measurements:\n"
            + Measurement.all.map { "  \($0.name): \($0.summary)" }.joined(separator: "\n"))

    @Argument(help: "What to measure; everything if none is named.")
    var measurements: [String] = []

    @Flag(help: "Fewer rounds, shorter samples, at most 100 000 mappings.")
    var quick = false

    @Option(help: "How often each contender is measured.")
    var rounds: Int?

    @Flag(help: "Compare the contenders' answers and measure nothing.")
    var check = false

    @Flag(help: "Write a line of JSON for each figure instead of tables.")
    var json = false

    @Option(
        help: .hidden,
        transform: { text in
            guard let role = ServerRole(argument: text) else { throw ValidationError("there is no server '\(text)'") }
            return role
        })
    var serve: ServerRole?

    func validate() throws {
        for name in measurements where !Measurement.all.contains(where: { $0.name == name }) {
            throw ValidationError("there is no measurement '\(name)'")
        }
        if let rounds, rounds < 1 { throw ValidationError("there must be at least one round") }
    }

    func run() throws {
        if let serve { return try serve.serve() }
        let report = Report(isJSON: json)
        let test = SelfTest(steps: quick ? 20_000 : 200_000)
        let wireTest = WireSelfTest(steps: quick ? 10_000 : 50_000)
        if let difference = try test.run() ?? wireTest.run() {
            Output.write("The contenders differ; nothing is measured.\n\(difference)\n", to: .standardError)
            throw ExitCode(1)
        }
        let verdict = """
            All address spaces answered \(test.steps) random operations alike, and all servers \(wireTest.steps) random
            requests.
            """
        if check { return report.write(verdict) }
        let settings = Settings(isQuick: quick, rounds: rounds ?? (quick ? 3 : 7))
        report.write(
            """
            \(settings.rounds) rounds, in which the contenders take turns; \(Settings.processorCount) processors\(Benchmarks.buildRemark).
            A figure is the median of the rounds, with the lowest and the highest; × says how many times the contender's
            figure Outboard's is, the median over the rounds.
            \(verdict)
            """)
        for measurement in Measurement.all where measurements.isEmpty || measurements.contains(measurement.name) {
            try measurement.run(settings, report)
        }
    }

    private static var buildRemark: String {
        #if DEBUG
            "; NOT OPTIMISED, the numbers mean nothing"
        #else
            ""
        #endif
    }
}

/// The streams of the process.
enum Output: Int32 {
    case standardOutput = 1
    case standardError = 2

    /// Writes at once, so that a long run can be watched.
    static func write(_ text: String, to output: Output = .standardOutput) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(output.rawValue, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            bytes = bytes.dropFirst(count)
        }
    }
}
