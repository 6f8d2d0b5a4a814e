import Foundation

/// The repository's own files, found from where this one lies.
struct SourceTree {
    struct File: CustomStringConvertible {
        /// Relative to the root of the repository.
        let path: String
        let text: String

        /// For a file under `Sources` or `Tests`, the folder of its target.
        var target: String { path.split(separator: "/").dropFirst().first.map(String.init) ?? "" }
        var name: String { path.split(separator: "/").last.map(String.init) ?? "" }
        var description: String { path }

        /// The lines with their numbers from one on.
        var lines: [(number: Int, text: Substring)] {
            text.split(separator: "\n", omittingEmptySubsequences: false).enumerated().map { ($0 + 1, $1) }
        }
    }

    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    static func read(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    static func write(_ text: String, to path: String) throws {
        try text.write(to: root.appending(path: path), atomically: true, encoding: .utf8)
    }

    static func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: root.appending(path: path).path)
    }

    /// The folders directly in one.
    static func folders(in path: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(
            at: root.appending(path: path), includingPropertiesForKeys: [.isDirectoryKey]
        ).filter { try $0.resourceValues(forKeys: [.isDirectoryKey]).isDirectory == true }
            .map(\.lastPathComponent).sorted()
    }

    /// Every text file under the folders, with the endings given, or with any.
    static func files(in folders: [String], endings: Set<String>? = nil) throws -> [File] {
        var found: [File] = []
        for folder in folders where exists(folder) {
            let start = root.appending(path: folder)
            let enumerator = FileManager.default.enumerator(at: start, includingPropertiesForKeys: [.isRegularFileKey])
            for case let url as URL in enumerator ?? .init() {
                guard try url.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile == true else { continue }
                if let endings, !endings.contains(url.pathExtension) { continue }
                guard let text = try? String(contentsOf: url, encoding: .utf8) else { continue }
                found.append(File(path: String(url.path.dropFirst(root.path.count + 1)), text: text))
            }
        }
        return found.sorted { $0.path < $1.path }
    }

    static func swiftFiles(in folders: String...) throws -> [File] {
        try files(in: folders, endings: ["swift"])
    }
}
