extension LockChecker {
    /// One thing that is wrong with the way the program locks, waits or gives back.
    public struct Report: Hashable, Sendable, CustomStringConvertible {
        public enum Kind: Hashable, Sendable {
            /// Locks are taken in orders that form a circle: threads that do so at the same time wait for each other.
            case lockOrder
            /// A thread takes or waits for what it holds itself.
            case recursion
            /// A second lock of a class is taken, in no order that anything fixes.
            case nesting
            /// Something is waited for inside a class that forbids it.
            case waiting
            /// A callback of a user is called inside a class that forbids it.
            case callback
            /// Something took longer than it should; a warning.
            case slow
            /// Something took longer than it may.
            case overBudget
            /// A wait that has no end of its own goes on and on.
            case stalled
            /// A pin stays though its device was told to let go, as one does that is recorded after the callback came.
            case lostPin
            /// A pin is dropped without being released, released twice, or by another than its owner.
            case pinMisuse
            /// An object is used after its destruction began.
            case useAfterDestroy
            /// A reference to an object is held across a wait for the end of it.
            case heldReference
            /// A callback that is declared serial runs twice at the same time.
            case reentrancy
            /// Parts are taken down in the wrong order.
            case teardownOrder
        }

        public let kind: Kind
        /// The classes it is about, in the order the text names them.
        public let classes: [LockClass]
        /// The places it is about, in the order the text names them.
        public let places: [SourcePlace]
        /// Lines for a person, without a line feed at the end.
        public let text: String

        /// Whether it tells of something that is no fault yet.
        public var isWarning: Bool { kind == .slow }

        /// Whether it depends on the speed of the machine, and so never stops the process.
        public var isMatterOfTime: Bool { kind == .slow || kind == .overBudget }

        public var description: String { text }
    }
}

extension LockChecker.Report {
    /// A circle of edges, each of which waits for the next.
    init(cycle: [LockGraph.Edge], in graph: LockGraph) {
        let steps = cycle.map { edge in
            let (held, taken) = (graph.classes[edge.key.held], graph.classes[edge.key.taken])
            return """
                  thread "\(edge.thread)" \(held.asHeld(edge.key.heldMode, since: edge.heldPlace))
                    and then waits at \(edge.takenPlace) for \(taken.asTaken(edge.key.takenMode))
                """
        }
        self.init(
            kind: .lockOrder, classes: cycle.map { graph.classes[$0.key.held] },
            places: cycle.flatMap { [$0.heldPlace, $0.takenPlace] },
            text: """
                possible deadlock: each of these can keep another waiting, for ever when they meet
                \(steps.joined(separator: "\n"))
                """)
    }

    static func recursion(of held: HeldLock, at place: SourcePlace, thread: String) -> Self {
        Self(
            .recursion, "deadlock: a thread waits for itself", held, "waits at \(place) for the same", place, thread)
    }

    static func nesting(in held: HeldLock, at place: SourcePlace, thread: String) -> Self {
        Self(
            .nesting, "possible deadlock: two of a kind are taken, and nothing fixes which is the first", held,
            "waits at \(place) for another of the kind", place, thread)
    }

    static func waiting(inside held: HeldLock, at place: SourcePlace, thread: String) -> Self {
        Self(.waiting, "a wait where none is allowed", held, "waits at \(place)", place, thread)
    }

    static func callback(inside held: HeldLock, at place: SourcePlace, thread: String) -> Self {
        Self(.callback, "a callback where none is allowed", held, "calls back at \(place)", place, thread)
    }

    /// What one thread does while it holds something.
    private init(
        _ kind: Kind, _ headline: String, _ held: HeldLock, _ act: String, _ place: SourcePlace, _ thread: String
    ) {
        self.init(
            kind: kind, classes: [held.lockClass], places: [held.place, place],
            text: """
                \(headline)
                  thread "\(thread)" \(held.lockClass.asHeld(held.mode, since: held.place))
                    and then \(act)
                """)
    }

    static func overrun(
        of what: String, _ taken: Duration, budget: Duration, _ kind: Kind, at place: SourcePlace
    ) -> Self {
        let verb = kind == .slow ? "should" : "may"
        return Self(
            kind: kind, classes: [], places: [place],
            text: "\(what) took \(taken.inMilliseconds), and \(verb) take \(budget.inMilliseconds), at \(place)")
    }
}

extension LockClass {
    /// What a thread that holds it does, in words.
    fileprivate func asHeld(_ mode: LockChecker.Mode, since place: SourcePlace) -> String {
        switch kind {
        case .thread: "was started at \(self.place)"
        case .named, .placed, .lock: "holds \(self)\(mode.remark) since \(place)"
        }
    }

    /// What a thread that takes it waits for, in words.
    fileprivate func asTaken(_ mode: LockChecker.Mode) -> String {
        switch kind {
        case .thread: "the end of \(self)"
        case .named, .placed, .lock: "\(self)\(mode.remark)"
        }
    }
}

extension LockChecker.Mode {
    fileprivate var remark: String { self == .shared ? " (shared)" : "" }
}

extension Duration {
    /// In milliseconds with one digit after the point.
    fileprivate var inMilliseconds: String {
        let tenths = wholeNanoseconds / 100_000
        return "\(tenths / 10).\(tenths % 10) ms"
    }
}
