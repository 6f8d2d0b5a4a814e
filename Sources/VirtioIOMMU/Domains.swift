import DMA
import LinuxHost

/// The domains of an IOMMU, what is attached to them, and the guest memory that they show.
///
/// A domain is an address space of its own and a table of what the guest has mapped in it. A mapping of the guest is in the
/// address space in pieces, one for each section of guest memory that it leads to; where there is none, accesses fail until
/// one comes. Sections come and go by the thread of the client, requests are carried out by the IOMMU's worker.
///
/// Two turns keep them apart, which are flags and no locks, so that nothing is locked while an address space is at work:
///
/// - *work*: who carries out requests, or resets everything. May take as long as devices keep pins.
/// - *change*: who changes the tables and enters pieces in address spaces. A removal of pieces that follows from a change of
///   tables by the worker needs no turn; what is on its way out is in `Domain.leaving` meanwhile.
///
/// Neither is taken inside a device's callback, or by whoever has a device's fault to report. Work is taken before change;
/// the lock of the state is taken after every other lock, and the locks of endpoints are not taken inside it.
final class Domains: Sendable {
    struct State {
        var domains: [DomainID: Domain] = [:]
        var sections = GuestSections()
        var history = MappingHistory()
        /// Where each endpoint is; none where it is attached to nothing.
        var attachments: [EndpointID: DomainID] = [:]
        /// Whether what is attached to nothing reaches all of guest memory, and whether it is to: whoever has the work sees
        /// to it before giving that up.
        var isBypassed: Bool
        var wantsBypass: Bool
        /// Domains that have ended, from that moment until no device is in their address space: guest memory that goes has
        /// to leave these too.
        var remains: [Domain] = []
        var statistics = IOMMUStatistics()
        private var nextSerial: UInt64 = 0
        fileprivate var isAtWork = false
        fileprivate var isChanging = false

        init(isBypassed: Bool) {
            self.isBypassed = isBypassed
            wantsBypass = isBypassed
        }

        mutating func takeSerial() -> DomainSerial {
            defer { nextSerial += 1 }
            return DomainSerial(rawValue: nextSerial)
        }
    }

    let options: VirtioIOMMU.Options
    /// Where nothing is.
    let nowhere = IOAddressSpace()
    let state: Monitor<State>
    private let endpointsByID = Monitor<[EndpointID: IOMMUEndpoint]>([:])
    let report: @Sendable (IOMMUEvent) -> Void

    init(_ options: VirtioIOMMU.Options, report: @escaping @Sendable (IOMMUEvent) -> Void) {
        options.check()
        self.options = options
        self.report = report
        state = Monitor(State(isBypassed: options.startsInBypass))
    }

    var endpoints: [EndpointID: IOMMUEndpoint] { endpointsByID.withLock { $0 } }

    func endpoint(_ id: EndpointID) -> IOMMUEndpoint? { endpointsByID.withLock { $0[id] } }

    func add(_ endpoint: IOMMUEndpoint) {
        endpointsByID.withLock { endpoints in
            precondition(endpoints[endpoint.id] == nil, "an endpoint's number is its own")
            endpoints[endpoint.id] = endpoint
        }
    }

    /// Runs `body` when no other work is done.
    func work(_ body: () -> Void) {
        state.wait { state -> Void? in
            guard !state.isAtWork else { return nil }
            state.isAtWork = true
            return ()
        }
        body()
        endWork()
    }

    /// Lets what is attached to nothing reach all of guest memory, or nothing: before this returns, unless somebody is at
    /// work, who then does it before anything else can be.
    func setBypass(_ isBypassed: Bool) {
        let isFree = state.withLock { state in
            state.wantsBypass = isBypassed
            defer { state.isAtWork = true }
            return !state.isAtWork
        }
        if isFree { endWork() }
    }

    private func endWork() {
        while true {
            let isDone = state.update { state in
                if state.wantsBypass != state.isBypassed { return false }
                state.isAtWork = false
                return true
            }
            if isDone { return }
            applyBypass()
        }
    }

    /// Runs `body` under the lock when nobody is changing anything.
    func whenUnchanging<Result>(_ body: (inout State) -> Result) -> Result {
        state.wait { state -> Result? in state.isChanging ? nil : body(&state) }
    }

    /// As `whenUnchanging`, and has `act` do without the lock what follows from it, before anybody changes anything.
    func change<Plan>(_ body: (inout State) -> Plan, _ act: (Plan) -> Void) {
        let plan: Plan = whenUnchanging { state in
            let plan = body(&state)
            state.isChanging = true
            return plan
        }
        act(plan)
        state.update { $0.isChanging = false }
    }

    /// A new domain's address space. Its unit is what guest memory is made of, unless that of the IOMMU is smaller.
    func makeSpace() -> IOAddressSpace {
        var configuration = IOAddressSpace.Configuration()
        configuration.pageSize = min(configuration.pageSize, options.granule)
        // Of the pieces of all mappings together: room for each in two sections.
        let (twice, overflow) = options.maximumMappings.multipliedReportingOverflow(by: 2)
        configuration.maximumMappings = overflow ? .max : twice
        return IOAddressSpace(configuration)
    }
}

/// Where the accesses of an endpoint go.
enum Placement: Sendable {
    /// They are refused.
    case nowhere
    /// To the memory of the function's own client, address by address.
    case bypass
    case domain(DomainID, DomainSerial, IOAddressSpace)
}
