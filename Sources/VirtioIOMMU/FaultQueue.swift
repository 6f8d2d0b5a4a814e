import DMA
import LinuxHost

/// A refused access, as the thread of the device notes it.
struct PendingFault: Sendable {
    let endpoint: EndpointID
    let reserved: [ReservedRegion]
    /// The first address at which it fails.
    let address: IOVA
    let rights: AccessRights
    let time: MonotonicInstant
    /// What the endpoint was attached to.
    let placement: Placement
    /// How many faults of the endpoint before this one were too many to be noted.
    let suppressedCount: UInt64
}

/// Refused accesses on their way from the devices to whoever looks into them. What it has no room for is counted.
final class FaultQueue: Sendable {
    /// As many as four endpoints may have in a second.
    static let capacity = 4 * RateLimit.perSecond

    private struct State {
        var faults: [PendingFault] = []
        var suppressedCount: UInt64 = 0
        var isEnded = false
    }

    private let state = Monitor(State())

    func append(_ fault: PendingFault) {
        state.update { state in
            if state.faults.count < Self.capacity {
                state.faults.append(fault)
            } else {
                state.suppressedCount += 1
            }
        }
    }

    func countSuppressed() { state.withLock { $0.suppressedCount += 1 } }

    var suppressedCount: UInt64 { state.withLock { $0.suppressedCount } }

    /// Waits for faults and takes them all; `nil` when there will be none any more.
    func takeAll() -> [PendingFault]? {
        state.wait { state -> [PendingFault]?? in
            if state.isEnded { return .some(nil) }
            guard !state.faults.isEmpty else { return nil }
            defer { state.faults = [] }
            return state.faults
        }
    }

    func end() { state.update { $0.isEnded = true } }
}

/// Lets so many things of a kind through in a second, and counts the others.
struct RateLimit: Sendable {
    static let perSecond = 64

    private var start: MonotonicInstant?
    private var count = 0
    private var suppressed: UInt64 = 0

    /// - Returns: how many were held back since the last one that was let through; `nil` if this one is held back.
    mutating func admit(at time: MonotonicInstant) -> UInt64? {
        if start.map({ time.nanoseconds - $0.nanoseconds >= 1_000_000_000 }) ?? true {
            start = time
            count = 0
        }
        guard count < Self.perSecond else {
            suppressed += 1
            return nil
        }
        count += 1
        defer { suppressed = 0 }
        return suppressed
    }
}
