import Foundation

/// The table of rules in the documentation of a module, and the tests that it names.
///
/// The table is made of the names of all tests of a folder and of a list of rules; it cannot rot when a test asks for its
/// `problems`. With `OUTBOARD_WRITE_CHECKLIST` in the environment it is written anew.
public struct RuleTable {
    private struct Name {
        let rules: [String]
        let suite: String
        let text: String
    }

    private static let head = "| Rule | What it demands | Tests, or why there is none |"
    private static let wordLimit = 12
    private static let root = String(#filePath.dropLast("Tests/Support/RuleTables/RuleTable.swift".count))

    private let rules: [Rule]
    private let folder: String
    private let page: String
    private let isRule: (_ letter: Character, _ number: Int) -> Bool

    /// - Parameters:
    ///   - folder: where the tests are, from the top of the repository.
    ///   - page: the page that has the table.
    ///   - isRule: whether a letter and a number in front of a test's name are one of these rules.
    public init(
        of rules: [Rule], testedIn folder: String, on page: String,
        where isRule: @escaping (_ letter: Character, _ number: Int) -> Bool
    ) {
        self.rules = rules
        self.folder = Self.root + folder
        self.page = Self.root + page
        self.isRule = isRule
    }

    /// What is wrong with the rules, the names of the tests, or the page; nothing if all agree.
    public func problems() throws -> [String] {
        var problems: [String] = []
        let names = try swiftFiles().flatMap(testNames)
        var table = [Self.head, "|---|---|---|"]
        for rule in rules {
            let tests = names.filter { $0.rules.contains(rule.id) }
            let entry: String
            switch rule.standing {
            case .tested:
                if tests.isEmpty { problems.append("\(rule.id) needs a test, or a reason why it has none") }
                entry = tests.map { "\($0.suite): \($0.text)" }.sorted().joined(separator: "<br>")
            case .elsewhere(let reason):
                if !tests.isEmpty { problems.append("\(rule.id) has tests: take the reason away why it has none") }
                entry = reason
            }
            if rule.demand.split(separator: " ").count > Self.wordLimit {
                problems.append("\(rule.id) says what it demands in more than a dozen words")
            }
            table.append("| \(rule.id) | \(rule.demand) | \(entry) |")
        }
        let known = Set(rules.map(\.id))
        for name in names where !known.isSuperset(of: name.rules) {
            problems.append("\(name.suite): \(name.text) names a rule that is not in the list")
        }
        return try problems + compare(table)
    }

    /// Compares the table of the page with what it should be, or puts that in its place.
    private func compare(_ table: [String]) throws -> [String] {
        let lines = try lines(of: page)
        guard let start = lines.firstIndex(of: Self.head) else { return ["\(page) has no table"] }
        let stored = lines[start...].prefix { $0.hasPrefix("|") }
        if ProcessInfo.processInfo.environment["OUTBOARD_WRITE_CHECKLIST"] != nil {
            let text = (lines[..<start] + table + lines[stored.endIndex...]).map { $0 + "\n" }.joined()
            try text.write(toFile: page, atomically: true, encoding: .utf8)
            return []
        }
        return table.difference(from: stored).map { change in
            switch change {
            case .insert(_, let line, _): "missing: " + line
            case .remove(_, let line, _): "outdated, so run with OUTBOARD_WRITE_CHECKLIST=1: " + line
            }
        }
    }

    /// The tests of a file whose names begin with rules: `V46, V47 a domain …`.
    private func testNames(in file: String) throws -> [Name] {
        var suite = ""
        return try lines(of: file).compactMap { line in
            let parts = line.split(separator: "`", omittingEmptySubsequences: false)
            if line.hasPrefix("@Suite") {
                suite = String(parts.count == 3 ? parts[1] : line.split(separator: " ").dropLast().last ?? "")
            }
            guard parts.count == 3, parts[0].hasSuffix("func ") else { return nil }
            let words = parts[1].split(separator: " ").map { $0.hasSuffix(",") ? $0.dropLast() : $0 }
            let rules = words.prefix { word in
                guard let letter = word.first, let number = Int(word.dropFirst()) else { return false }
                return isRule(letter, number)
            }
            return rules.isEmpty ? nil : Name(rules: rules.map(String.init), suite: suite, text: String(parts[1]))
        }
    }

    private func swiftFiles() throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: folder).filter { $0.hasSuffix(".swift") }.sorted()
            .map { folder + "/" + $0 }
    }

    private func lines(of path: String) throws -> [String] {
        var lines = try String(contentsOfFile: path, encoding: .utf8).components(separatedBy: "\n")
        if lines.last == "" { lines.removeLast() }
        return lines
    }
}
