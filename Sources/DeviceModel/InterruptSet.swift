public import LinuxHost

/// The kinds of interrupt that a PCI device has, by their VFIO index. `VFIO_PCI_*_IRQ_INDEX`
public enum InterruptKind: Int, CaseIterable, Sendable {
    case intx = 0
    case msi = 1
    case msix = 2
    case error = 3
    case request = 4
}

/// Event counters that a client signals instead of sending a message; the server watches them.
public struct InterruptControls: Sendable {
    /// `VFIO_IRQ_SET_ACTION_MASK` with `VFIO_IRQ_SET_DATA_EVENTFD`
    public var mask: EventCounter?
    /// What QEMU and the kernel use as the end of interrupt of a level-triggered line ("resample").
    /// `VFIO_IRQ_SET_ACTION_UNMASK` with `VFIO_IRQ_SET_DATA_EVENTFD`
    public var unmask: EventCounter?

    public init() {}
}

/// A device's interrupts, and the event counters through which a client hears of them.
///
/// The session connects and masks on the client's behalf, the device raises. Both may do so at any time from any thread.
/// A vector that is masked or not connected remembers that it was raised, once, and tells as soon as it can.
public final class InterruptSet: Sendable {
    private let state: Monitor<State>
    private let counts: [Int]

    /// - Parameter counts: how many vectors there are of each kind; kinds left out have none.
    /// - Precondition: at most one of each kind but MSI (32) and MSI-X (2048).
    public init(counts: [InterruptKind: Int]) {
        for (kind, count) in counts {
            let limit =
                switch kind {
                case .msi: 32
                case .msix: 2048
                case .intx, .error, .request: 1
                }
            precondition((0...limit).contains(count), "a PCI function has 0 to \(limit) interrupts of kind \(kind)")
        }
        self.counts = InterruptKind.allCases.map { counts[$0] ?? 0 }
        state = Monitor(State(vectors: self.counts.map { [Vector](repeating: Vector(), count: $0) }))
    }

    public func count(_ kind: InterruptKind) -> Int { counts[kind.rawValue] }
}

/// The session's half.
extension InterruptSet {
    /// Connects vectors `start`, `start + 1`, … to event counters; `nil` disconnects one. An interrupt that was raised
    /// meanwhile is told at once. `VFIO_IRQ_SET_ACTION_TRIGGER` with `VFIO_IRQ_SET_DATA_EVENTFD`
    ///
    /// - Precondition: the vectors exist, as for all methods of this half: the session has checked the client's numbers.
    public func connect(_ kind: InterruptKind, from start: Int, to counters: [EventCounter?]) {
        let observer = state.withLock { state in
            for (number, counter) in counters.enumerated() {
                state.vectors[kind.rawValue][start + number].counter = counter
                if kind == .intx { state.readLine() }
                state.deliver(kind, start + number)
            }
            return state.enable(kind, true)
        }
        observer?()
    }

    /// Disconnects every vector of a kind and forgets what was raised. `VFIO_IRQ_SET_DATA_NONE`, count 0
    public func disable(_ kind: InterruptKind) {
        let observer = state.withLock { state in
            for vector in state.vectors[kind.rawValue].indices { state.vectors[kind.rawValue][vector] = Vector() }
            if kind == .intx { state.controls = InterruptControls() }
            return state.enable(kind, false)
        }
        observer?()
    }

    /// Holds a vector back. `VFIO_IRQ_SET_ACTION_MASK`
    public func mask(_ kind: InterruptKind, _ vector: Int) {
        state.withLock { $0.vectors[kind.rawValue][vector].isMasked = true }
    }

    /// Lets a vector through again; one that was raised meanwhile, or an INTx line that is still asserted, is told at
    /// once. `VFIO_IRQ_SET_ACTION_UNMASK`
    public func unmask(_ kind: InterruptKind, _ vector: Int) {
        state.withLock { state in
            state.vectors[kind.rawValue][vector].isMasked = false
            if kind == .intx { state.readLine() }
            state.deliver(kind, vector)
        }
    }

    /// Tells the client of a vector as if the device had raised it. `VFIO_IRQ_SET_DATA_NONE` or `_BOOL` with
    /// `VFIO_IRQ_SET_ACTION_TRIGGER`
    public func trigger(_ kind: InterruptKind, _ vector: Int) {
        state.withLock { $0.vectors[kind.rawValue][vector].counter?.signal() }
    }

    /// The counters by which the client masks and unmasks INTx without a message.
    public var controls: InterruptControls {
        get { state.withLock { $0.controls } }
        set { state.withLock { $0.controls = newValue } }
    }

    /// Disconnects everything: the client is gone. The level of the INTx line is the device's and stays.
    public func disconnectAll() {
        for kind in InterruptKind.allCases { disable(kind) }
    }
}

/// The device's half.
extension InterruptSet {
    /// Whether the client has connected, or is about to connect, vectors of a kind.
    public func isEnabled(_ kind: InterruptKind) -> Bool {
        state.withLock { $0.isEnabled[kind.rawValue] }
    }

    /// Raises a vector of a message-signalled kind once; a vector that does not exist is a bug of the device.
    public func raise(_ kind: InterruptKind, _ vector: Int) {
        precondition(vector < counts[kind.rawValue], "interrupt \(kind) has no vector \(vector)")
        state.withLock { state in
            state.vectors[kind.rawValue][vector].isPending = true
            state.deliver(kind, vector)
        }
    }

    /// Has `observer` called whenever the client switches a kind on or off, on the client's thread and with no lock held;
    /// it replaces the one before.
    public func onSwitch(_ observer: @escaping @Sendable () -> Void) {
        state.withLock { $0.observer = observer }
    }

    /// How many vectors of a kind the client reaches: one more than the number of the last that is connected.
    public func connectedCount(_ kind: InterruptKind) -> Int {
        state.withLock { state in
            state.vectors[kind.rawValue].lastIndex { $0.counter != nil }.map { $0 + 1 } ?? 0
        }
    }

    /// Whether a vector was raised and the client could not be told yet.
    public func isPending(_ kind: InterruptKind, _ vector: Int) -> Bool {
        state.withLock { $0.vectors[kind.rawValue][vector].isPending }
    }

    /// Forgets what was raised, as a reset of the device does; connections and masks stay.
    public func forgetPending() {
        state.withLock { state in
            for kind in state.vectors.indices {
                for vector in state.vectors[kind].indices { state.vectors[kind][vector].isPending = false }
            }
        }
    }

    /// Sets the level of the INTx line. The client hears of an asserted line once and then not again until it unmasks.
    public func setLine(asserted: Bool) {
        guard count(.intx) == 1 else { return }
        state.withLock { state in
            guard state.isLineAsserted != asserted else { return }
            state.isLineAsserted = asserted
            state.readLine()
            state.deliver(.intx, 0)
        }
    }
}

extension InterruptSet {
    private struct Vector {
        var counter: EventCounter?
        var isMasked = false
        var isPending = false
    }

    private struct State {
        /// By kind, then by number.
        var vectors: [[Vector]]
        var isEnabled = [Bool](repeating: false, count: InterruptKind.allCases.count)
        var isLineAsserted = false
        var controls = InterruptControls()
        var observer: (@Sendable () -> Void)?

        init(vectors: [[Vector]]) {
            self.vectors = vectors
        }

        /// Notes whether a kind is on, and returns whom to tell if that is news.
        mutating func enable(_ kind: InterruptKind, _ isEnabled: Bool) -> (@Sendable () -> Void)? {
            guard self.isEnabled[kind.rawValue] != isEnabled else { return nil }
            self.isEnabled[kind.rawValue] = isEnabled
            return observer
        }

        /// Brings the INTx vector in step with its line. While it is masked, what the line does is not an event.
        mutating func readLine() {
            if !vectors[0][0].isMasked { vectors[0][0].isPending = isLineAsserted }
        }

        /// Tells the client of a pending vector if it may hear of it. INTx masks itself: its line stays asserted until
        /// the driver has looked, and one event stands for all that time.
        mutating func deliver(_ kind: InterruptKind, _ number: Int) {
            let vector = vectors[kind.rawValue][number]
            guard vector.isPending, !vector.isMasked, let counter = vector.counter else { return }
            vectors[kind.rawValue][number].isPending = false
            if kind == .intx { vectors[kind.rawValue][number].isMasked = true }
            counter.signal()
        }
    }
}
