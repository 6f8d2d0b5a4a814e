import LinuxHost

/// What the lock checker knows this module's locks by, and what counts as locks. All of it is told while somebody watches
/// and costs one load otherwise.
extension LockClass {
    static let access = LockClass("an access's lock", .forbidsCallbacks)
    static let addressSpace = LockClass("an address space's lock", .forbidsCallbacks)
    static let dirtyLog = LockClass("a dirty log's lock", .forbidsCallbacks)
    static let objectCache = LockClass("a memory object cache's lock", .forbidsCallbacks)
    static let pinRecords = LockClass("the lock of the list of pins", .forbidsCallbacks)

    /// Shared by the threads that are inside a read section of an access. Whoever drains them waits for it.
    static let readSection = LockClass("a read section of an access", .forbidsWaiting)
    /// Shared by the threads that unmap, or end an attachment, and so may call back. Nobody waits for it: it tells who
    /// is inside a callback of an address space.
    static let unmapping = LockClass("an unmap of an address space")
    /// Shared by the threads that tell consumers of a mapping; who attaches or detaches a consumer has it alone.
    static let telling = LockClass("the telling of consumers")

    /// Whether it is one of the above, which no device can hold around what it does.
    var isOfModule: Bool {
        rules.contains(.forbidsCallbacks) || [.readSection, .unmapping, .telling].contains(self)
    }
}

extension DMAAccess {
    /// Shared by the threads that run a callback of the access. There is a class for each place that makes accesses.
    var callbackClass: LockClass { LockClass("a callback of the access", madeAt: place) }

    /// Tells that the attachment begins: not for an access that is destroyed, nor in its own callback.
    func tellAttaching(at place: SourcePlace) {
        tellUse(at: place)
        guard let held = LockChecker.place(ofHeld: callbackClass, instance: ObjectIdentifier(self)) else { return }
        LockChecker.report(
            .recursion, "an access is attached in its own callback", classes: [callbackClass], places: [held, place])
    }

    /// Tells that the attachment is about to end, which waits for callbacks and readers, were there none now.
    func tellEnding(at place: SourcePlace) {
        let (file, line) = (place.file, place.line)
        if canCallBack {
            LockChecker.passes(through: callbackClass, instance: ObjectIdentifier(self), file: file, line: line)
        }
        LockChecker.passes(through: .readSection, instance: ObjectIdentifier(self), file: file, line: line)
    }

    /// As `tellEnding`, of what must not happen to an access that is destroyed.
    func tellUseAndEnding(at place: SourcePlace) {
        tellUse(at: place)
        tellEnding(at: place)
    }

    /// Reports the use of an access whose destruction has begun.
    func tellUse(at place: SourcePlace) {
        guard isDestroyed else { return }
        LockChecker.report(
            .useAfterDestroy, "an access is used after its destruction began; it was made at \(self.place)",
            places: [place])
    }

    /// Tells that a read section begins. The caller tells of its end.
    @inline(never)
    func tellEntering(at place: SourcePlace) {
        LockChecker.acquire(
            .readSection, instance: ObjectIdentifier(self), mode: .shared, file: place.file, line: place.line)
    }

    @inline(never)
    func tellLeaving() {
        LockChecker.release(.readSection, instance: ObjectIdentifier(self))
    }

    /// Tells that remote memory is asked for a transfer, which waits for its answer.
    @inline(never)
    func tellMessage(at place: SourcePlace) {
        LockChecker.callsBack(file: place.file, line: place.line)
        LockChecker.waits(file: place.file, line: place.line)
    }

    /// Runs the callback, inside its class and with an eye on the time that it takes.
    func callBackWatched(_ range: IOVARange, at place: SourcePlace, _ body: (IOVARange) -> Void) {
        LockChecker.callsBack(file: place.file, line: place.line)
        let (limits, made) = (LockChecker.limits, self.place)
        LockChecker.holding(
            callbackClass, instance: ObjectIdentifier(self), mode: .shared, file: place.file, line: place.line
        ) {
            LockChecker.withBudget(
                limits.callback, warning: limits.callbackWarning, for: "a callback of the access made at \(made)",
                file: place.file, line: place.line
            ) {
                body(range)
            }
        }
    }

    /// Reports that a callback runs beside another one, which the access was said not to stand.
    func tellCallingTwice(at place: SourcePlace, beside other: SourcePlace) {
        LockChecker.report(
            .reentrancy, "a callback of the access made at \(self.place), which does not stand it, runs twice at once",
            classes: [callbackClass], places: [other, place].sorted { $0.description < $1.description })
    }

    /// Reports that `destroy` has been waiting for a callback for very long.
    func tellWaitingLong(at place: SourcePlace, for callback: SourcePlace?) {
        LockChecker.report(
            .stalled, "the destruction of the access made at \(self.place) waits and waits for a callback to return",
            classes: [callbackClass], places: [place] + (callback.map { [$0] } ?? []))
    }
}

extension IOAddressSpace {
    /// Tells that mappings or consumers are about to change, which must not happen in a callback of this address space.
    ///
    /// - Returns: whether they do not.
    @discardableResult
    func tellChange(at place: SourcePlace) -> Bool {
        for lockClass in [LockClass.unmapping, .telling] {
            guard let held = LockChecker.place(ofHeld: lockClass, instance: ObjectIdentifier(self)) else { continue }
            LockChecker.report(
                .recursion, "an address space is changed in a callback that it makes itself", classes: [lockClass],
                places: [held, place])
            return false
        }
        for access in state.withLock({ $0.accesses }) {
            LockChecker.passes(
                through: .readSection, instance: ObjectIdentifier(access), file: place.file, line: place.line)
        }
        return true
    }

    /// Tells that mappings are about to go, which waits for the readers and the callbacks of all accesses and for changes
    /// of the consumers, were there none now.
    func tellUnmap(at place: SourcePlace) {
        guard tellChange(at: place) else { return }
        for access in state.withLock({ $0.accesses }) where access.canCallBack {
            LockChecker.passes(
                through: access.callbackClass, instance: ObjectIdentifier(access), file: place.file, line: place.line)
        }
        LockChecker.holding(
            .telling, instance: ObjectIdentifier(self), mode: .shared, file: place.file, line: place.line
        ) {}
    }

    /// Runs `body`, which tells consumers of a mapping.
    func telling(at place: SourcePlace, _ body: () -> Void) {
        LockChecker.callsBack(file: place.file, line: place.line)
        LockChecker.holding(
            .telling, instance: ObjectIdentifier(self), mode: .shared, file: place.file, line: place.line, body)
    }
}
