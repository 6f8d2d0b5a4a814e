import LinuxHost

/// The pins that are held, and where they were made: for the lock checker, and only of pins that it saw being made.
enum PinRecords {
    struct Record {
        fileprivate let access: ObjectIdentifier
        let range: IOVARange
        let place: SourcePlace
        let thread: String
        let threadSerial: UInt64
        /// What the thread held when it pinned.
        let held: [LockClass]
    }

    private struct State {
        var records: [UInt64: Record] = [:]
        var count: UInt64 = 0
    }

    private static let state = Monitor(State(), as: .pinRecords)

    /// Adds a pin that the calling thread has just made. Returns the number under which it is removed, never zero.
    @inline(never)
    static func add(_ range: IOVARange, of access: DMAAccess, at place: SourcePlace) -> UInt64 {
        let record = Record(
            access: ObjectIdentifier(access), range: range, place: place, thread: LockChecker.threadName,
            threadSerial: LockChecker.threadSerial, held: LockChecker.heldClasses)
        return state.withLock { state in
            state.count += 1
            state.records[state.count] = record
            return state.count
        }
    }

    @inline(never)
    static func remove(_ number: UInt64) {
        state.withLock { _ = $0.records.removeValue(forKey: number) }
    }

    static func place(of number: UInt64) -> SourcePlace? {
        state.withLock { $0.records[number]?.place }
    }

    /// The pins of an access that touch a range, the oldest first.
    static func pins(of access: DMAAccess, in range: IOVARange) -> [Record] {
        let own = state.withLock { state in
            state.records.filter { $0.value.access == ObjectIdentifier(access) && $0.value.range.overlaps(range) }
        }
        return own.sorted { $0.key < $1.key }.map(\.value)
    }
}

extension DMAAccess {
    /// Reports each pin that is left in a range although the device was told to let go for as long as it may take.
    ///
    /// - Parameter kind: what is wrong about it, beside the pin.
    func tellPinsLeft(_ kind: LockChecker.Report.Kind = .lostPin, in range: IOVARange, at place: SourcePlace) {
        for pin in PinRecords.pins(of: self, in: range) {
            LockChecker.report(
                kind,
                """
                \(kind == .teardownOrder ? "an access is destroyed with a pin left" : "a pin stays that was to go")
                  thread "\(pin.thread)" pinned \(pin.range) at \(pin.place)
                  the callback of the access made at \(self.place) was told of \(range) for \(place)\(remark(on: pin))
                """, classes: [callbackClass], places: [pin.place, place])
        }
    }

    /// What may have gone wrong with a pin that is left, as a line of its own.
    private func remark(on pin: PinRecords.Record) -> String {
        if pin.threadSerial == LockChecker.threadSerial {
            return "\n  that is the thread which pinned: it waits for itself, unless the callback releases the pin"
        }
        let taken = LockChecker.classesTaken(inside: callbackClass).filter { !$0.isOfModule }
        if taken.isEmpty || taken.contains(where: pin.held.contains) { return "" }
        let locks = taken.map(\.description).joined(separator: ", ")
        return """

              the callback takes \(locks), which was not held around the pin: it may have run before the pin was recorded
            """
    }
}

extension PinnedMemory {
    /// Reports a pin that nobody released.
    @inline(never)
    static func tellDropped(_ record: UInt64) {
        guard record != 0, let place = PinRecords.place(of: record) else { return }
        LockChecker.report(.pinMisuse, "a pin was dropped without unpin()", places: [place])
    }
}
