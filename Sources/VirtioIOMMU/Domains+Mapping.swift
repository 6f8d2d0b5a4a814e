import DMA
import LinuxHost

extension Domains {
    func map(_ request: MapRequest, number: UInt64, at time: MonotonicInstant, _ patience: Patience) -> IOMMUStatus {
        if isLeaving(request) { removeLeaving(from: request.domain, patience) }
        var status = IOMMUStatus.ok
        change { state -> (IOAddressSpace, GuestMapping, [MemoryPiece])? in
            do throws(IOMMUStatus) {
                guard state.domains[request.domain] != nil else { throw .notFound }
                let mapping = try state.domains[request.domain]?.map(request, number: number, at: time, options)
                guard let mapping, let space = state.domains[request.domain]?.space else { throw .invalid }
                return (space, mapping, state.sections.pieces(of: mapping))
            } catch {
                status = error
                return nil
            }
        } _: { plan in
            guard let (space, mapping, pieces) = plan else { return }
            do throws(DMAError) {
                for piece in pieces {
                    try space.map(
                        piece.backing, at: piece.range.first, byteCount: piece.range.byteCount, rights: piece.rights)
                }
            } catch {
                status = error == .noSpace ? .outOfMemory : .deviceError
                // Devices may have found the first pieces by now, so these leave as any others.
                state.withLock { $0.domains[request.domain]?.takeBack(mapping) }
            }
        }
        return status
    }

    private func isLeaving(_ request: MapRequest) -> Bool {
        guard request.first <= request.last else { return false }
        let range = IOVARange(first: IOVA(request.first), last: IOVA(request.last))
        return state.withLock { $0.domains[request.domain]?.isLeaving(range) ?? false }
    }

    /// Unmaps for the guest. What that takes out of the address space waits for `removeLeaving`.
    func unmap(_ request: UnmapRequest, number: UInt64, at time: MonotonicInstant) -> IOMMUStatus {
        whenUnchanging { state in
            do throws(IOMMUStatus) {
                guard state.domains[request.domain] != nil else { throw .notFound }
                try state.domains[request.domain]?.unmap(request, number: number, at: time, &state.history)
                return .ok
            } catch {
                return error
            }
        }
    }

    /// Takes out of all address spaces what was unmapped, each at once. When this returns, no device reaches any of it, or
    /// the patience was at its end.
    func removeLeaving(_ patience: Patience) {
        let domains = state.withLock { $0.domains.values.filter { !$0.leavingRanges.isEmpty }.map(\.id) }
        for id in domains { removeLeaving(from: id, patience) }
    }

    private func removeLeaving(from id: DomainID, _ patience: Patience) {
        let (space, ranges) = state.withLock { ($0.domains[id]?.space, $0.domains[id]?.leavingRanges ?? []) }
        guard let space, !ranges.isEmpty else { return }
        guard remove(ranges, from: space, patience) else { return }
        state.withLock { $0.domains[id]?.forgetLeaving() }
    }

    /// Takes what is in the ranges out of an address space, however long devices keep pins. Whether it is gone: the patience
    /// may end before.
    @discardableResult
    func remove(_ ranges: [IOVARange], from space: IOAddressSpace, _ patience: Patience) -> Bool {
        guard !ranges.isEmpty else { return true }
        var attempts = 0
        while true {
            do throws(DMAError) {
                try space.unmapAll(in: ranges)
                return true
            } catch {
                // Ranges are those of whole mappings, and these spaces have no consumers that anybody could wait for.
                precondition(error == .deadlock, "what the guest has unmapped cannot be: \(error)")
            }
            attempts += 1
            if attempts == 1 { report(.unmapWaits(ranges[0], others: ranges.count - 1)) }
            if patience.isOver { return false }
        }
    }
}

/// How long it is waited for devices that keep pins: until somebody wants to reset everything.
struct Patience: Sendable {
    private let isEnded: @Sendable () -> Bool

    init(until isEnded: @escaping @Sendable () -> Bool) {
        self.isEnded = isEnded
    }

    /// Until they are gone.
    static let endless = Patience { false }

    var isOver: Bool { isEnded() }
}
