import ArgumentParser
import JSONText
import VFIOUserCheck

/// `outboard check`
struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Hold the protocol's checklist against a vfio-user server.",
        discussion: """
            Works with any server, ours or not, that takes one client after another. The device is reset and written to \
            as a guest would. The last line counts; the status is 0 when nothing fails.
            """)

    @Option(help: .init("The socket where the server listens.", valueName: "path"))
    var socketPath: String?

    @Option(
        parsing: .upToNextOption, help: .init("Only these, such as S12.", valueName: "S1..S108"),
        transform: { text in
            guard text.first == "S", let number = Int(text.dropFirst()),
                let item = CheckItem.all.first(where: { $0.number == number })
            else { throw ValidationError("no such item: \(text)") }
            return item.number
        })
    var item: [Int] = []

    @Option(help: .init("How long an answer may take.", valueName: "seconds"))
    var timeout = 5.0

    @Flag(help: "Print JSON.")
    var json = false

    @Flag(help: "Print the checklist and check nothing.")
    var list = false

    func validate() throws {
        if list && socketPath != nil { throw ValidationError("--list takes no --socket-path") }
        if !list && socketPath == nil { throw ValidationError("--socket-path is needed, or --list") }
        try validateTimeout(timeout)
    }

    func run() throws {
        let items = CheckItem.all.filter { item.isEmpty || item.contains($0.number) }
        guard let socketPath else {
            try printList(items)
            return
        }
        let checker = Checker(path: socketPath, patience: .seconds(timeout))
        if let obstacle = checker.obstacle { throw Failure(message: "socket \(socketPath): \(obstacle)") }
        let results = checker.run(items) { result in
            if !json { FileOutput.standardOutput.write(result.text + "\n") }
        }
        let count = OutcomeCount(results)
        if json {
            let document = JSONValue.object([
                .init("items", .array(results.map(\.json))), .init("summary", count.json),
            ])
            try printJSON(document)
        } else {
            FileOutput.standardOutput.write(count.text + "\n")
        }
        if count.failing > 0 { throw ExitStatus(rawValue: 1) }
    }

    private func printList(_ items: [CheckItem]) throws {
        if json {
            try printJSON(.object([.init("items", .array(items.map { .object($0.members) }))]))
            return
        }
        for item in items {
            let audiences = item.audiences.map(\.rawValue).joined(separator: ", ")
            var text = "\(item.name)  \(item.demand)\n      \(item.source); matters to \(audiences)\n"
            if let reason = item.reasonWithoutCheck { text += "      not checked: \(reason)\n" }
            FileOutput.standardOutput.write(text)
        }
    }
}

/// Refuses a time that is none.
func validateTimeout(_ seconds: Double) throws {
    guard seconds > 0, seconds <= 86400 else { throw ValidationError("--timeout takes seconds, up to a day") }
}

/// Prints a document and a newline.
func printJSON(_ document: JSONValue) throws {
    do throws(JSONError) {
        FileOutput.standardOutput.write(String(decoding: try document.text(), as: UTF8.self) + "\n")
    } catch {
        throw Failure(message: "JSON: \(error)")
    }
}

/// How many items came to what.
private struct OutcomeCount {
    private(set) var holding = 0
    private(set) var failing = 0
    private(set) var inapplicable = 0
    private(set) var unjudged = 0

    init(_ results: [CheckResult]) {
        for result in results {
            switch result.outcome {
            case .holds: holding += 1
            case .fails: failing += 1
            case .notApplicable: inapplicable += 1
            case .notJudged: unjudged += 1
            }
        }
    }

    var text: String {
        "\(holding) hold, \(failing) fail, \(inapplicable) not applicable, \(unjudged) not judged"
    }

    var json: JSONValue {
        .object([
            .init("hold", .integer(Int128(holding))), .init("fail", .integer(Int128(failing))),
            .init("not_applicable", .integer(Int128(inapplicable))),
            .init("not_judged", .integer(Int128(unjudged))),
        ])
    }
}

extension CheckItem {
    fileprivate var members: [JSONValue.Member] {
        var members: [JSONValue.Member] = [
            .init("item", .string(name)), .init("demand", .string(demand)), .init("source", .string(source)),
            .init("matters_to", .array(audiences.map { .string($0.rawValue) })),
        ]
        if let reason = reasonWithoutCheck { members.append(.init("not_checked", .string(reason))) }
        return members
    }
}

extension CheckResult {
    fileprivate var text: String {
        switch outcome {
        case .holds: "holds           \(item.name)  \(item.demand)"
        case .fails(let finding):
            "FAILS           \(item.name)  \(item.demand)\n"
                + "    \(item.source); matters to \(item.audiences.map(\.rawValue).joined(separator: ", "))\n"
                + "    sent \(printable(finding.sent))\n"
                + "    expected \(printable(finding.expected)); got \(printable(finding.received))"
        case .notApplicable(let reason): "not applicable  \(item.name)  \(printable(reason))"
        case .notJudged(let reason): "not judged      \(item.name)  \(printable(reason))"
        }
    }

    /// A text that may repeat what a server sent, fit for a terminal.
    private func printable(_ text: String) -> String {
        let limit = 1000
        let scalars = text.unicodeScalars.prefix(limit).map { scalar in
            scalar.properties.generalCategory == .control || scalar.properties.generalCategory == .format
                ? "?" : Character(scalar)
        }
        return String(scalars)
    }

    fileprivate var json: JSONValue {
        let verdict: [JSONValue.Member]
        switch outcome {
        case .holds: verdict = [.init("outcome", .string("holds"))]
        case .fails(let finding):
            verdict = [
                .init("outcome", .string("fails")), .init("sent", .string(finding.sent)),
                .init("expected", .string(finding.expected)), .init("received", .string(finding.received)),
            ]
        case .notApplicable(let reason):
            verdict = [.init("outcome", .string("not applicable")), .init("reason", .string(reason))]
        case .notJudged(let reason):
            verdict = [.init("outcome", .string("not judged")), .init("reason", .string(reason))]
        }
        return .object(
            [
                .init("item", .string(item.name)), .init("demand", .string(item.demand)),
                .init("source", .string(item.source)),
                .init("matters_to", .array(item.audiences.map { .string($0.rawValue) })),
            ] + verdict)
    }
}
