/// What is wrong with a configuration, in one line for the person who wrote it.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The member, from the root: `options.queues`; empty for the document itself.
    public let path: String
    public let problem: String

    init(_ path: String, _ problem: String) {
        self.path = path
        self.problem = problem
    }

    public var description: String { path.isEmpty ? problem : "\(path): \(problem)" }
}
