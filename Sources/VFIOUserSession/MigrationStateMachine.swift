import VFIOUserWire

/// The states of a device that migrates, and the ways between them.
///
///                    ┌────────────── pre-copy
///                    │               ▲    │
///       stop         ▼               │    │ stop and save on
///     ┌──────────── running ─────────┘    ▼
///     │  ┌────────▶                   stop-copy
///     ▼  │ resume                         ▲ │
///     stop ───────────── save ────────────┘ │
///     ▲  │ ▲                                │
///     │  │ └──────── forget what was saved ─┘
///     │  └─▶ resuming
///     └──────┘ take what was written, or fail ──▶ error
///
/// A client names the state it wants, and the shortest way there is taken, but none through a state whose data are to be
/// read: these are only for who asks for them. A reset leads from every state to running, and is the only way out of
/// error. `VFIO_DEVICE_STATE_*`; the peer-to-peer states are not offered.
struct MigrationStateMachine {
    /// What has to be done on the way from one state to a neighbour.
    enum Action: Hashable {
        case stop, resume
        /// Save the stopped device.
        case save
        /// Forget what was saved and is not read.
        case forgetSaved
        case awaitState
        /// Take in the state that was written.
        case restore
        /// Give out in advance what can be.
        case saveInAdvance
        /// Stop the device and append its state to what was given out in advance.
        case stopAndSave
    }

    struct Arc: Hashable {
        let from, to: MigrationState
        let action: Action
    }

    private(set) var state = MigrationState.running

    static let arcs: [Arc] = [
        Arc(from: .running, to: .stop, action: .stop),
        Arc(from: .running, to: .preCopy, action: .saveInAdvance),
        Arc(from: .stop, to: .running, action: .resume),
        Arc(from: .stop, to: .stopCopy, action: .save),
        Arc(from: .stop, to: .resuming, action: .awaitState),
        Arc(from: .stopCopy, to: .stop, action: .forgetSaved),
        Arc(from: .resuming, to: .stop, action: .restore),
        Arc(from: .preCopy, to: .running, action: .forgetSaved),
        Arc(from: .preCopy, to: .stopCopy, action: .stopAndSave),
    ]

    /// The arcs to a state, in order; none if it is the present one. `nil` when there is no way.
    func path(to target: MigrationState) -> [Arc]? {
        // The data of both would have to be one stream, but the device has to run in between.
        if state == .stopCopy && target == .preCopy { return nil }
        if state == .error || target == .error { return nil }
        var paths: [[Arc]] = [[]]
        var seen: Set = [state]
        while !paths.isEmpty {
            var longer: [[Arc]] = []
            for path in paths {
                let end = path.last?.to ?? state
                if end == target { return path }
                if !path.isEmpty, end == .preCopy || end == .stopCopy { continue }
                for arc in Self.arcs where arc.from == end && seen.insert(arc.to).inserted {
                    longer.append(path + [arc])
                }
            }
            paths = longer
        }
        return nil
    }

    /// Takes note that the action of an arc was done.
    mutating func follow(_ arc: Arc) {
        precondition(arc.from == state, "an arc begins where the device is")
        state = arc.to
    }

    /// Takes note that the device is in no state to speak of.
    mutating func fail() { state = .error }

    mutating func reset() { state = .running }

    /// Whether the device's regions answer: not while its state is being read, for a change would be lost, nor after a
    /// failure. A stopped device answers, and one that awaits its state does, because clients restore configuration space
    /// by themselves before they hand over the rest.
    var allowsRegionAccess: Bool { state != .stopCopy && state != .error }

    /// Whether whoever comes next can do with the device as it is. A stopped one may go on elsewhere already.
    var isRunning: Bool { state == .running || state == .preCopy }
}
