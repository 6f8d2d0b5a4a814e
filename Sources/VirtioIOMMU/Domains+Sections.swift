import DMA
import LinuxHost

/// Guest memory that comes and goes, told by the address space of the IOMMU's own client.
extension Domains: MappingConsumer {
    var aperture: IOVARange { .everything }

    var granule: UInt64 { 1 }

    /// The section appears in every domain that maps something of it. What cannot be entered is a hole.
    func map(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) throws(DMAError) {
        let section = GuestSection(range, backing, rights: rights)
        change { state -> [(IOAddressSpace, [MemoryPiece])] in
            state.sections.insert(section)
            return state.domains.values.compactMap { domain in
                guard let space = domain.space else { return nil }
                var pieces: [MemoryPiece] = []
                domain.table.forEach { mapping in
                    if let piece = section.piece(of: mapping) { pieces.append(piece) }
                }
                return pieces.isEmpty ? nil : (space, pieces)
            }
        } _: { plans in
            var failures: UInt64 = 0
            for (space, pieces) in plans {
                for piece in pieces {
                    let entered: Void? = try? space.map(
                        piece.backing, at: piece.range.first, byteCount: piece.range.byteCount, rights: piece.rights)
                    if entered == nil { failures += 1 }
                }
            }
            if failures > 0 { state.withLock { $0.statistics.failedPieceCount += failures } }
        }
    }

    /// The section's pieces leave every domain, for as long as devices keep pins on them: then nobody has it any more.
    func unmap(_ range: IOVARange) {
        change { state -> [(IOAddressSpace, [IOVARange])] in
            state.sections.remove(range)?.willGo()
            var plans: [(IOAddressSpace, [IOVARange])] = []
            for domain in Array(state.domains.values) + state.remains {
                guard let space = domain.space else { continue }
                var parts = domain.leaving.compactMap { $0.part(leadingTo: range) }
                domain.table.forEach { mapping in
                    if let part = mapping.part(leadingTo: range) { parts.append(part) }
                }
                if !parts.isEmpty { plans.append((space, parts)) }
            }
            return plans
        } _: { plans in
            for (space, ranges) in plans { remove(ranges, from: space, .endless) }
        }
    }
}
