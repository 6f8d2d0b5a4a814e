/// What came of one item of the checklist.
///
/// It is what a check throws when it ends early, too.
public enum Outcome: Error, Hashable, Sendable {
    case holds
    case fails(Finding)
    /// The server has nothing that the item is about; the text says what is missing.
    case notApplicable(String)
    /// It takes more than a client to tell: a guest, a particular device, a look inside.
    case notJudged(String)
}

/// What went against the specification.
public struct Finding: Hashable, Sendable, CustomStringConvertible {
    public let sent: String
    public let expected: String
    public let received: String

    public init(sent: String, expected: String, received: String) {
        self.sent = sent
        self.expected = expected
        self.received = received
    }

    public var description: String { "sent \(sent); expected \(expected); got \(received)" }
}
