/// What a program tells of the locks that are no monitors, and of what only counts as a lock.
///
/// Each operation is free to call always: it does nothing unless somebody watches. What is told is of the calling thread,
/// so a lock is released on the thread that took it. An instance tells locks of one class apart; without one it stands
/// for all of them.
extension LockChecker {
    /// Tells that the thread is about to take a lock. Call it before taking it, so that it is reported before it hangs.
    @inlinable
    public static func acquire(
        _ lockClass: @autoclosure () -> LockClass, instance: ObjectIdentifier? = nil, mode: Mode = .exclusive,
        file: StaticString = #fileID, line: UInt32 = #line
    ) {
        if isOn { begin(lockClass(), instance, mode, SourcePlace(file: file, line: line)) }
    }

    /// Tells that the thread gives back a lock. One whose taking nobody watched is fine.
    @inlinable
    public static func release(_ lockClass: @autoclosure () -> LockClass, instance: ObjectIdentifier? = nil) {
        if isOn { end(lockClass(), instance) }
    }

    /// Runs `body` with a lock told to be held.
    @inlinable
    public static func holding<Result: ~Copyable, Failure: Error>(
        _ lockClass: @autoclosure () -> LockClass, instance: ObjectIdentifier? = nil, mode: Mode = .exclusive,
        file: StaticString = #fileID, line: UInt32 = #line, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        guard isOn else { return try body() }
        let held = lockClass()
        begin(held, instance, mode, SourcePlace(file: file, line: line))
        defer { end(held, instance) }
        return try body()
    }

    /// Tells that the thread is about to wait until nobody holds a lock, without taking it; also when nobody does.
    @inlinable
    public static func passes(
        through lockClass: @autoclosure () -> LockClass, instance: ObjectIdentifier? = nil,
        file: StaticString = #fileID, line: UInt32 = #line
    ) {
        if isOn { pass(through: lockClass(), instance, SourcePlace(file: file, line: line)) }
    }

    /// Tells that the thread may wait here for something, known or unknown: an answer, a device, a condition.
    @inlinable
    public static func waits(file: StaticString = #fileID, line: UInt32 = #line) {
        if isOn { wait(at: SourcePlace(file: file, line: line)) }
    }

    /// Tells that the thread is about to call what a user has handed in.
    @inlinable
    public static func callsBack(file: StaticString = #fileID, line: UInt32 = #line) {
        if isOn { callBack(at: SourcePlace(file: file, line: line)) }
    }

    /// Reports what the caller has found by itself, unless a report of the kind was made of the same classes and places.
    ///
    /// - Parameter places: where it happened; the place of the call when there are none.
    @inlinable
    public static func report(
        _ kind: Report.Kind, _ text: @autoclosure () -> String, classes: @autoclosure () -> [LockClass] = [],
        places: @autoclosure () -> [SourcePlace] = [], file: StaticString = #fileID, line: UInt32 = #line
    ) {
        if isOn { raise(kind, text(), classes(), places(), SourcePlace(file: file, line: line)) }
    }

    /// Runs `body` and reports when it took longer than it may, or warns when it took longer than it should.
    ///
    /// - Parameter what: what took that long, as the beginning of a sentence.
    @inlinable
    public static func withBudget<Result: ~Copyable, Failure: Error>(
        _ budget: Duration, warning: Duration? = nil, for what: @autoclosure () -> String,
        file: StaticString = #fileID, line: UInt32 = #line, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        guard isOn else { return try body() }
        let start = MonotonicInstant.now
        defer { compare(start, budget, warning, what, SourcePlace(file: file, line: line)) }
        return try body()
    }
}

extension LockChecker {
    /// Whether the thread is watched: what is begun then has to be ended.
    @usableFromInline
    @inline(never)
    @discardableResult
    static func begin(
        _ lockClass: LockClass, _ instance: ObjectIdentifier?, _ mode: Mode, _ place: SourcePlace
    ) -> Bool {
        guard let thread = CheckedThread.current else { return false }
        thread.acquire(HeldLock(lockClass: lockClass, instance: instance, mode: mode, place: place))
        return true
    }

    @usableFromInline
    @inline(never)
    static func end(_ lockClass: LockClass, _ instance: ObjectIdentifier?) {
        CheckedThread.current?.release(lockClass, instance)
    }

    @usableFromInline
    @inline(never)
    static func pass(through lockClass: LockClass, _ instance: ObjectIdentifier?, _ place: SourcePlace) {
        CheckedThread.current?.pass(
            through: HeldLock(lockClass: lockClass, instance: instance, mode: .exclusive, place: place))
    }

    @usableFromInline
    @inline(never)
    static func wait(at place: SourcePlace) {
        CheckedThread.current?.wait(at: place, for: nil)
    }

    @usableFromInline
    @inline(never)
    static func callBack(at place: SourcePlace) {
        CheckedThread.current?.callBack(at: place)
    }

    @usableFromInline
    @inline(never)
    static func raise(
        _ kind: Report.Kind, _ text: String, _ classes: [LockClass], _ places: [SourcePlace], _ caller: SourcePlace
    ) {
        guard let thread = CheckedThread.current else { return }
        let places = places.isEmpty ? [caller] : places
        let lines = places.map { "\n    at \($0)" }.joined()
        thread.checker.raise(Report(kind: kind, classes: classes, places: places, text: text + lines))
    }

    @usableFromInline
    @inline(never)
    static func compare(
        _ start: MonotonicInstant, _ budget: Duration, _ warning: Duration?, _ what: () -> String, _ place: SourcePlace
    ) {
        guard let thread = CheckedThread.current else { return }
        let taken = Duration.nanoseconds(MonotonicInstant.now.nanoseconds - start.nanoseconds)
        if taken > budget {
            thread.checker.raise(.overrun(of: what(), taken, budget: budget, .overBudget, at: place))
        } else if let warning, taken > warning {
            thread.checker.raise(.overrun(of: what(), taken, budget: warning, .slow, at: place))
        }
    }
}
