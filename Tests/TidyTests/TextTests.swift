import Testing

extension SourceTree.File {
    /// The numbers of the lines that contain a match.
    func lines(matching pattern: some RegexComponent) -> [Int] {
        lines.filter { $0.text.contains(pattern) }.map(\.number)
    }
}

@Suite struct `The text of the sources` {
    private static let folders = ["Sources", "Tests", "qemu", "schemas"]
    private static let endings: Set = ["swift", "c", "h", "md", "py", "json", "modulemap", "sh"]

    /// What is ours to write; recorded bytes and examples of good and bad input are as they are.
    private func texts() throws -> [SourceTree.File] {
        try SourceTree.files(in: Self.folders, endings: Self.endings).filter {
            !$0.path.contains("/Fixtures/") && !$0.path.contains("/examples/") && !$0.path.hasPrefix("Tests/TidyTests/")
        }
    }

    @Test func `the keyword unsafe stands where it may, and each of these places needs it`() throws {
        var found: Set<String> = []
        for file in try SourceTree.swiftFiles(in: "Sources") {
            let lines = file.lines(matching: #/^(?!\s*///?).*\bunsafe\b/#)
            if lines.isEmpty || House.unsafeTargets.contains(file.target) { continue }
            found.insert(file.path)
            #expect(
                House.unsafeFiles.contains(file.path),
                "\(file):\(lines[0]) says unsafe; if it must, name the file in Tests/TidyTests/House.swift")
        }
        for path in House.unsafeFiles.subtracting(found) where SourceTree.exists(path) {
            Issue.record("\(path) needs no unsafe any more")
        }
    }

    @Test func `there are no tabs and no spaces at the ends of lines`() throws {
        for file in try texts() {
            #expect(file.lines(matching: #/\t/#).isEmpty, "\(file)")
            #expect(file.lines(matching: #/ $/#).isEmpty, "\(file)")
        }
    }

    @Test func `nothing is left to be done later`() throws {
        for file in try texts() { #expect(file.lines(matching: #/\b(TODO|FIXME|XXX|HACK)\b/#).isEmpty, "\(file)") }
    }

    @Test func `no file names a place on somebody's machine`() throws {
        for file in try texts() {
            let lines = file.lines(matching: #/(^|["'\s(=])/(home|Users|root|work|tmp/wt)/\w/#)
            #expect(lines.isEmpty, "\(file): lines \(lines)")
        }
    }
}
