import Glibc
import LinuxHost
import Testing

/// The facts of the protocol by number, S1 to S108, and the tests that hold them: `Checklist.md` beside this file.
///
/// Tests name what they are about by the numbers that open their names. The list is made of those names and of the
/// reasons below, and this suite fails when it is not what they say, so that it cannot rot. With
/// `OUTBOARD_WRITE_CHECKLIST` in the environment it is written anew.
@Suite struct Checklist {
    private static let numbers = 1...108

    /// Why a number has no test here.
    private static let elsewhere: [Int: String] = [
        19: "About time, which no test here judges; that replies do not wait for device work is S60 and S62.",
        105: "Memory is not protected against a client that shrinks it unless it seals it; see `MemoryObject`.",
        107: "The guest tests' work.",
        108: "cloud-hypervisor is not among the machines that the tests start.",
    ]

    @Test func `every number has tests that exist, or a reason why not`() throws {
        let folder = String(#filePath.dropLast("ChecklistTests.swift".count))
        let tests = try testNames(in: folder)
        var text = ["| Fact | Tests, or why there is none |", "|---|---|"]
        for number in Self.numbers {
            let names = tests.filter { $0.numbers.contains(number) }.map(\.text).sorted()
            let reason = Self.elsewhere[number]
            #expect(names.isEmpty == (reason != nil), "S\(number) needs tests, or a reason why it has none")
            text.append("| S\(number) | \(reason ?? names.joined(separator: "<br>")) |")
        }
        #expect(tests.flatMap(\.numbers).allSatisfy(Self.numbers.contains))
        let path = folder + "Checklist.md"
        if unsafe getenv("OUTBOARD_WRITE_CHECKLIST") != nil { try write(text, to: path) }
        let stored = try lines(of: path).filter { $0.hasPrefix("|") }
        let difference = text.difference(from: stored).map { change in
            switch change {
            case .insert(_, let line, _): "missing: " + line
            case .remove(_, let line, _): "outdated: " + line
            }
        }
        #expect(difference.isEmpty, "run the tests once with OUTBOARD_WRITE_CHECKLIST=1 and look at what changed")
    }

    private struct Name {
        let numbers: [Int]
        let text: String
    }

    /// The names of all tests of the folder that begin with numbers.
    private func testNames(in folder: String) throws -> [Name] {
        try swiftFiles(in: folder).flatMap { file in
            try lines(of: folder + file).compactMap { line -> Name? in
                let parts = line.split(separator: "`", omittingEmptySubsequences: false)
                guard parts.count == 3, parts[0].hasSuffix("func ") else { return nil }
                let words = parts[1].split(separator: " ")
                let numbers = words.prefix { $0.first == "S" && Int($0.dropFirst()) != nil }
                guard !numbers.isEmpty else { return nil }
                return Name(numbers: numbers.compactMap { Int($0.dropFirst()) }, text: String(parts[1]))
            }
        }
    }

    private func swiftFiles(in folder: String) throws -> [String] {
        guard let directory = unsafe opendir(folder) else { throw Errno(rawValue: errno) }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".swift") { names.append(name) }
        }
        return names.sorted()
    }

    private func write(_ text: [String], to path: String) throws {
        guard let file = unsafe fopen(path, "we") else { throw Errno(rawValue: errno) }
        defer { unsafe fclose(file) }
        let introduction = [
            "# The protocol's facts and their tests", "",
            "Made of the tests' names by `ChecklistTests.swift`, which also fails when it is out of date.", "",
        ]
        for line in introduction + text { unsafe fputs(line + "\n", file) }
    }
}
