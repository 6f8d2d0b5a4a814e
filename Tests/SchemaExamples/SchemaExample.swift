import Foundation

/// One file under `schemas/examples`: a text, and whether its schema accepts it.
///
/// `Tests/schemas.py` holds the same files against the schemas.
public struct SchemaExample: Sendable, CustomStringConvertible {
    public let name: String
    public let isAccepted: Bool
    public let text: [UInt8]

    public var description: String { "\(isAccepted ? "accepted" : "rejected")/\(name)" }

    /// Every example of a schema, by name. Traps without examples: a test over nothing would pass.
    public static func all(of schema: String) -> [SchemaExample] {
        let examples = folder(schema, "accepted", true) + folder(schema, "rejected", false)
        for verdict in [true, false] {
            precondition(examples.contains { $0.isAccepted == verdict }, "examples of \(schema) are missing")
        }
        return examples
    }

    private static func folder(_ schema: String, _ verdict: String, _ isAccepted: Bool) -> [SchemaExample] {
        let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let folder = package.appendingPathComponent("schemas/examples/\(schema)/\(verdict)")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return names.filter { $0.hasSuffix(".json") }.sorted().compactMap { name in
            guard let data = FileManager.default.contents(atPath: folder.appendingPathComponent(name).path) else {
                return nil
            }
            return SchemaExample(name: name, isAccepted: isAccepted, text: [UInt8](data))
        }
    }
}
