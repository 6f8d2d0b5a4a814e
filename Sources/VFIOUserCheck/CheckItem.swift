/// One demand of the checklist, and how it is held against a server.
///
/// A check knows the protocol and no server: it speaks over connections of its own, in exact bytes, and judges what comes
/// back. Some demands show themselves only in what a device does with memory; they are judged where the device is one
/// that anybody can drive, QEMU's educational device.
public struct CheckItem: Sendable {
    /// Whom it hurts when the demand is not met.
    public enum Audience: String, Sendable, CaseIterable {
        case qemu = "QEMU"
        case cloudHypervisor = "cloud-hypervisor"
        case specification
        case robustness
    }

    typealias Body = @Sendable (CheckedServer) throws(Outcome) -> Void

    enum Judgement: Sendable {
        case check(Body)
        /// Why no client can tell.
        case outOfReach(String)
    }

    /// 1 for S1.
    public let number: Int
    /// What a server has to do, in one sentence.
    public let demand: String
    /// The section of `vfio-user.rst` that says so, or what else does.
    public let source: String
    public let audiences: [Audience]
    /// Whether it may be the end of a lesser server, and so comes after all that may not.
    let mayEndServer: Bool
    let judgement: Judgement

    public var name: String { "S\(number)" }

    /// Why it is never judged; `nil` when there is a check.
    public var reasonWithoutCheck: String? {
        if case .outOfReach(let reason) = judgement { reason } else { nil }
    }

    init(
        _ number: Int, _ demand: String, in source: String, for audiences: [Audience], mayEndServer: Bool = false,
        _ body: @escaping Body
    ) {
        self.number = number
        self.demand = demand
        self.source = source
        self.audiences = audiences
        self.mayEndServer = mayEndServer
        judgement = .check(body)
    }

    init(
        _ number: Int, _ demand: String, in source: String, for audiences: [Audience], outOfReach reason: String
    ) {
        self.number = number
        self.demand = demand
        self.source = source
        self.audiences = audiences
        mayEndServer = false
        judgement = .outOfReach(reason)
    }
}

extension CheckItem {
    /// The whole checklist, S1 to S108, in order.
    public static let all: [CheckItem] =
        transport + version + mapping + unmapping + messageDMA + description + interrupts + features + migration
        + accesses + lifecycle
}
