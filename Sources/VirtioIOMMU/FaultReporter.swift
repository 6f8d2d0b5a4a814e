import DMA
import LinuxHost

/// Finds out what faults are about, reports them, and lays out what the driver is told. Runs on a thread of its own, so that
/// neither devices nor requests wait for it.
struct FaultReporter: Sendable {
    let faults: FaultQueue
    let domains: Domains
    let outbox: FaultOutbox
    let report: @Sendable (IOMMUEvent) -> Void

    /// Returns when there will be no faults any more.
    func run(_ schedule: () -> Void) {
        while let pending = faults.takeAll() {
            for fault in pending.map(examine) {
                outbox.append(fault.record)
                report(.fault(fault))
            }
            schedule()
        }
    }

    private func examine(_ fault: PendingFault) -> IOMMUFault {
        var domain: DomainID?
        let cause: IOMMUFault.Cause
        if case .domain(let id, let serial, _) = fault.placement {
            domain = id
            cause = domains.state.withLock { $0.cause(of: fault, in: id, serial) }
        } else {
            cause = .notAttached
        }
        domains.state.withLock { $0.statistics.faultCount += 1 }
        return IOMMUFault(
            endpoint: fault.endpoint, domain: domain, address: fault.address, rights: fault.rights, time: fault.time,
            cause: cause, suppressedCount: fault.suppressedCount)
    }
}

extension Domains.State {
    /// What an address of a domain was at the time of a fault. Since then it may have been unmapped, or mapped again.
    fileprivate func cause(of fault: PendingFault, in id: DomainID, _ serial: DomainSerial) -> IOMMUFault.Cause {
        let region = fault.reserved.first { $0.range.contains(fault.address) }
        if let region { return .reserved(region.range) }
        let domain = domains[id].flatMap { $0.serial == serial ? $0 : nil }
        let current = domain?.table.mapping(at: fault.address)
        if let current, current.time <= fault.time { return cause(of: fault, under: current) }
        if let ended = history.last(at: fault.address, in: serial, mappedBefore: fault.time) {
            return ended.time <= fault.time ? .unmapped(ended) : cause(of: fault, under: ended.mapping)
        }
        if let current { return .notYetMapped(current) }
        if domain == nil { return .domainEnded }
        return history.hasForgotten ? .notMapped : .neverMapped
    }

    /// Why an access was refused although something was mapped.
    private func cause(of fault: PendingFault, under mapping: GuestMapping) -> IOMMUFault.Cause {
        guard mapping.rights.isSuperset(of: fault.rights) else { return .notPermitted(mapping) }
        let offset = fault.address.rawValue - mapping.range.first.rawValue
        let hasMemory = mapping.leadsToMemory && sections.allow(fault.rights, at: IOVA(mapping.physical + offset))
        // It was just being mapped.
        return hasMemory ? .notYetMapped(mapping) : .noMemory(mapping)
    }
}

/// What the driver is to be told, between the thread that finds it out and the one that has the queue.
final class FaultOutbox: Sendable {
    private struct State {
        var records: [FaultRecord] = []
        var droppedCount: UInt64 = 0
    }

    private let state = Monitor(State())

    func append(_ record: FaultRecord) {
        state.withLock { state in
            if state.records.count < FaultQueue.capacity {
                state.records.append(record)
            } else {
                state.droppedCount += 1
            }
        }
    }

    /// What there is to tell.
    func takeAll() -> [FaultRecord] {
        state.withLock { state in
            defer { state.records = [] }
            return state.records
        }
    }

    /// How many there was no room for.
    var droppedCount: UInt64 { state.withLock { $0.droppedCount } }

    func count(dropped: Int) { state.withLock { $0.droppedCount += UInt64(dropped) } }
}
