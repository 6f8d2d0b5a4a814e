public import LinuxHost
import VFIOUserWire

/// Plays the client's half of a recorded conversation to a server and compares what it answers.
///
/// Everything happens on the caller's thread. Messages go out in the order of the recording, each once the server has
/// said all that it had said by then; so they are pipelined as they were, and what depends on an answer waits for it.
/// Every wait has a deadline. What the server asks of the client is answered as the client answered it.
public struct Replay {
    public struct Options: Sendable {
        /// Whether messages go out no sooner than they did; otherwise as fast as answers come.
        public var keepsPace = false
        /// How long the server may take for anything that it did in the recording.
        public var patience = Duration.seconds(5)
        /// How long a register is read again in the hope that it becomes what it was.
        public var settling = Duration.seconds(2)

        public init() {}
    }

    /// What a server may answer otherwise than in the recording.
    public enum Allowance: String, CaseIterable, Sendable {
        /// The server's own requests are numbered by the server.
        case requestNumber = "request-number"
        /// The server's own requests may come earlier or in another order than they did; each must come.
        case requestOrder = "request-order"
        /// A register read too early: asked again, it becomes what it was.
        case settled
        /// A register read too late: it is what a later read found before anything was written there.
        case ahead
        /// A reply that the recording does not have, because it was cut off before.
        case unrecorded

        public var reason: String {
            switch self {
            case .requestNumber: "the server numbers its own requests as it likes"
            case .requestOrder: "what the device does by itself has no fixed order"
            case .settled: "the device was slower than in the recording; asked again, the register had the value"
            case .ahead: "the device was faster than in the recording; the register had its next value already"
            case .unrecorded: "the recording was cut off before the reply"
            }
        }
    }

    /// Something that was not as it should be.
    public struct Difference: Sendable {
        /// When in the recording, in nanoseconds.
        public let time: UInt64
        public let text: String
    }

    public private(set) var sentCount = 0
    /// Replies and requests of the server that were as recorded, or within what is allowed.
    public private(set) var matchedCount = 0
    public private(set) var allowed: [Allowance: Int] = [:]
    /// The first of them; `differenceCount` counts all.
    public private(set) var differences: [Difference] = []
    public private(set) var differenceCount = 0

    private static let maximumToldDifferences = 100

    public init() {}

    /// Plays one conversation over a socket that is connected to the server.
    ///
    /// What ends the play before the recording's end is a difference too.
    ///
    /// - Throws: when nothing can be waited for, as where no descriptor is left.
    public mutating func play(
        _ entries: [RecordingEntry], conversation: UInt16, over socket: UNIXSocket, options: Options = Options()
    ) throws(Errno) {
        let script = ReplayScript(entries, conversation: conversation)
        var run = try ReplayRun(script, socket, options)
        run.play(&self)
    }

    mutating func countSent() { sentCount += 1 }
    mutating func countMatched() { matchedCount += 1 }
    mutating func allow(_ allowance: Allowance) { allowed[allowance, default: 0] += 1 }

    mutating func differ(at time: UInt64, _ text: String) {
        differenceCount += 1
        if differences.count < Self.maximumToldDifferences { differences.append(Difference(time: time, text: text)) }
    }
}
