/// A rule that a module keeps: its number, what it demands, and why it has no test here.
///
/// Tests name the rules that they show in front of their names. `RuleTable` makes a table of both for the module's
/// documentation.
public struct Rule: Sendable {
    public enum Standing: Equatable, Sendable {
        /// There are tests whose names begin with it.
        case tested
        /// It says nothing here, for a reason.
        case elsewhere(String)
    }

    public let id: String
    public let demand: String
    public let standing: Standing

    public init(_ id: String, _ demand: String, _ standing: Standing = .tested) {
        self.id = id
        self.demand = demand
        self.standing = standing
    }
}
