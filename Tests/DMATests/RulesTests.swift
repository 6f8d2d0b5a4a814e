import DMA
import Glibc
import Testing

/// The table of rules in the documentation of the module, and the tests that it names.
///
/// The table is made of the names of all tests and of `Rule.all`; this suite fails when it is not what they say, so that
/// it cannot rot. With `OUTBOARD_WRITE_CHECKLIST` in the environment it is written anew.
@Suite struct `The rules` {
    private struct Name: Hashable {
        let rules: [String]
        let suite: String
        let text: String
    }

    private static let head = "| Rule | What it demands | Tests, or why there is none |"

    @Test func `every rule has tests that exist, or a reason why not`() throws {
        let root = String(#filePath.dropLast("Tests/DMATests/RulesTests.swift".count))
        let names = try swiftFiles(in: root + "Tests").flatMap(testNames)
        var table = [Self.head, "|---|---|---|"]
        for rule in Rule.all {
            let tests = names.filter { $0.rules.contains(rule.id) }
            let entry: String
            switch rule.standing {
            case .tested:
                #expect(!tests.isEmpty, "\(rule.id) needs a test, or a reason why it has none")
                entry = tests.map { "\($0.suite): \($0.text)" }.sorted().joined(separator: "<br>")
            case .elsewhere(let reason):
                #expect(tests.isEmpty, "\(rule.id) has tests: take the reason away why it has none")
                entry = reason
            }
            table.append("| \(rule.id) | \(rule.demand) | \(entry) |")
        }
        let known = Set(Rule.all.map(\.id))
        for name in names where !known.isSuperset(of: name.rules) {
            Issue.record("\(name.suite): \(name.text) names a rule that is not in the list")
        }
        try compare(table, with: root + "Sources/DMA/DMA.docc/Rules.md")
    }

    @Test func `every number is there once, in order, and says what it demands in a dozen words`() {
        let numbers = (13...92).map { "R\($0)" } + (1...61).map { "M\($0)" } + (1...24).map { "L\($0)" }
        #expect(Rule.all.map(\.id) == ["R1–R12"] + numbers)
        for rule in Rule.all { #expect(rule.demand.split(separator: " ").count <= 12, "\(rule.id)") }
    }

    /// Compares the table of a page with what it should be, or puts that in its place.
    private func compare(_ table: [String], with path: String) throws {
        let page = try lines(of: path)
        let start = try #require(page.firstIndex(of: Self.head), "\(path) has no table")
        let stored = page[start...].prefix { $0.hasPrefix("|") }
        if unsafe getenv("OUTBOARD_WRITE_CHECKLIST") != nil {
            return try write(page[..<start] + table + page[stored.endIndex...], to: path)
        }
        let difference = table.difference(from: stored).map { change in
            switch change {
            case .insert(_, let line, _): "missing: " + line
            case .remove(_, let line, _): "outdated: " + line
            }
        }
        #expect(difference.isEmpty, "run the tests once with OUTBOARD_WRITE_CHECKLIST=1 and look at what changed")
    }

    /// The tests of a file whose names begin with rules: `R23, R42 a replacement …`.
    private func testNames(in file: String) throws -> [Name] {
        var suite = ""
        return try lines(of: file).compactMap { line in
            if line.hasPrefix("@Suite") {
                let parts = line.split(separator: "`", omittingEmptySubsequences: false)
                suite = String(parts.count == 3 ? parts[1] : line.split(separator: " ").dropLast().last ?? "")
            }
            let parts = line.split(separator: "`", omittingEmptySubsequences: false)
            guard parts.count == 3, parts[0].hasSuffix("func ") else { return nil }
            let rules = parts[1].split(separator: " ").map { $0.hasSuffix(",") ? $0.dropLast() : $0 }.prefix(
                while: isRule)
            return rules.isEmpty ? nil : Name(rules: rules.map(String.init), suite: suite, text: String(parts[1]))
        }
    }

    private func isRule(_ word: Substring) -> Bool {
        guard let letter = word.first, "RML".contains(letter), let number = Int(word.dropFirst()) else { return false }
        // The rules of shared address spaces and of faults come after those of accesses, in a module of their own.
        return letter != "R" || number <= 92
    }

    private func swiftFiles(in folder: String) throws -> [String] {
        guard let directory = unsafe opendir(folder) else { throw DMAError(errno: errno) }
        defer { unsafe closedir(directory) }
        var files: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".swift") { files.append(folder + "/" + name) }
            let isFolder = unsafe entry.pointee.d_type == UInt8(DT_DIR)
            if isFolder && !name.hasPrefix(".") { files += try swiftFiles(in: folder + "/" + name) }
        }
        return files.sorted()
    }

    private func write(_ lines: some Sequence<String>, to path: String) throws {
        guard let file = unsafe fopen(path, "we") else { throw DMAError(errno: errno) }
        defer { unsafe fclose(file) }
        for line in lines { unsafe fputs(line + "\n", file) }
    }
}
