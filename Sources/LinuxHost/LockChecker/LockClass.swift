/// The role that a lock plays in the program, shared by all locks that play it.
///
/// The lock checker learns orders between roles rather than between single locks: one device that is closed under its
/// own lock and another whose callback takes that lock show together what one device could do alone. A role need not be
/// a lock. Whatever a thread can be inside of while another waits for it to come out is one: a callback, a section, the
/// life of a thread.
///
/// A class is known by its name and the place where it was made; make it once, in a `static let`. A `Monitor` that is
/// given none has one of its own for the line that creates it.
public struct LockClass: Hashable, Sendable, CustomStringConvertible {
    /// What is forbidden or allowed while a lock of the class is held.
    public struct Rules: OptionSet, Sendable {
        public let rawValue: UInt8

        public init(rawValue: UInt8) { self.rawValue = rawValue }

        /// Nothing may be waited for: no condition, no thread, no answer. Taking further locks is not meant.
        public static let forbidsWaiting = Rules(rawValue: 1 << 0)
        /// No callback of a user may be called.
        public static let forbidsCallbacks = Rules(rawValue: 1 << 1)
        /// A second lock of the class may be taken, in an order that something else fixes; never the same one.
        public static let allowsNesting = Rules(rawValue: 1 << 2)
        /// Who shares it queues behind who waits for it exclusively, so that even sharing it twice may deadlock.
        public static let queuesFairly = Rules(rawValue: 1 << 3)
    }

    enum Kind { case named, placed, lock, thread }

    public let name: StaticString
    public let rules: Rules
    /// Where it was made.
    public let place: SourcePlace
    let kind: Kind

    /// - Parameter name: what it is in a report, after "holds": a noun with its article, as in "a callback of the disk".
    public init(_ name: StaticString, _ rules: Rules = [], file: StaticString = #fileID, line: UInt32 = #line) {
        self.name = name
        self.rules = rules
        place = SourcePlace(file: file, line: line)
        kind = .named
    }

    /// The class of what objects made at `place` have each, such as the callbacks of one kind of device among many that
    /// use the same library.
    ///
    /// - Parameter name: as above; a report goes on with "made at" and the place.
    public init(_ name: StaticString, _ rules: Rules = [], madeAt place: SourcePlace) {
        self.name = name
        self.rules = rules
        self.place = place
        kind = .placed
    }

    /// The class without a name of the locks or threads that are made at a place. A thread may wait for another of its
    /// class, as one that it has started; for itself it cannot.
    init(_ kind: Kind, madeAt place: SourcePlace) {
        name = ""
        rules = kind == .thread ? .allowsNesting : []
        self.place = place
        self.kind = kind
    }

    public var description: String {
        switch kind {
        case .named: "\(name)"
        case .placed: "\(name) made at \(place)"
        case .lock: "the lock made at \(place)"
        case .thread: "the thread started at \(place)"
        }
    }

    public static func == (left: LockClass, right: LockClass) -> Bool {
        left.place == right.place && left.kind == right.kind && left.name.hasSameText(as: right.name)
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(place)
        name.hashText(into: &hasher)
    }

    /// Whether who takes a lock of the class in one mode can be kept waiting by who holds it in another.
    func conflicts(_ one: LockChecker.Mode, _ other: LockChecker.Mode) -> Bool {
        one == .exclusive || other == .exclusive || rules.contains(.queuesFairly)
    }
}
