extension AddressSpaceState {
    /// How many mappings an unmap takes at once, so that they share the wait for their readers.
    private static let unmapBatch = 512

    /// What an unmap has to do with no lock held, or has come to.
    enum UnmapStep {
        case finished
        case failed(DMAError)
        /// Wait for the readers of these mappings, which are blocked now.
        case drain([MappingClaim], [DMAAccess])
        /// Give the readers of what was removed time to leave.
        case clearUp
        /// Pins hold these mappings, which are blocked: ask the accesses to let go.
        case ask([MappingClaim], [DMAAccess])
        /// The mappings are in transition: tell the consumers, then remove them.
        case tearDown([Mapping], [AttachedConsumer])
    }

    /// Goes on with an unmap for as long as nothing has to be waited for; `nil` to be called again after an update.
    mutating func goOn(_ unmap: inout Unmap) -> UnmapStep? {
        if let ranges = unmap.takeUnchecked(), splitsMapping(oneOf: ranges) { return .failed(.notFound) }
        while true {
            if unmap.claims.isEmpty {
                if let end = claim(for: &unmap) {
                    guard case .finished = end, !unmap.held.isEmpty else { return end }
                    unmap.claimHeld()
                } else if mayReadersBe(in: unmap.claims) {
                    return .drain(unmap.claims, accesses)
                }
            }
            if isCopying(from: unmap.claims) { return nil }
            let step = removeClaimed(by: &unmap)
            sweep()
            if let step { return step }
            if isCluttered { return .clearUp }
            if unmap.range == nil && !unmap.held.isEmpty { return .ask(unmap.held, accesses) }
        }
    }

    /// Claims the next mappings. In order: one, and those behind it which nothing speaks against now.
    private func claim(for unmap: inout Unmap) -> UnmapStep? {
        while let range = unmap.range {
            var rest = unmap.restOfRange.map(table.mappings(overlapping:))
            while let mapping = rest?.next() {
                let state = mapping.state
                let isInOrder = unmap.manner == .inOrder
                let isFirst = unmap.claims.isEmpty
                if state.isInTransition || !range.contains(mapping.range) {
                    if isInOrder { return isFirst ? .failed(state.isInTransition ? .busy : .notFound) : nil }
                    // What reaches beyond a range of a batch has come since that began.
                    if state.isInTransition { unmap.hasPassedOver = true }
                    continue
                }
                if isInOrder && state.pinCount > 0 && !isFirst { return nil }
                unmap.claim(mapping)
                if isInOrder && state.pinCount > 0 || unmap.claims.count == Self.unmapBatch { return nil }
            }
            // In order it may have to come back to what it claimed.
            if unmap.manner == .inOrder && !unmap.claims.isEmpty { return nil }
            unmap.goToNextRange()
        }
        return unmap.claims.isEmpty ? .finished : nil
    }

    /// Removes the claimed mappings, which readers have left, but for those that have pins: in order up to the first of
    /// them, in a batch they are put aside. What consumers know of they have to be told of first.
    private mutating func removeClaimed(by unmap: inout Unmap) -> UnmapStep? {
        var obstacle: UnmapStep?
        var free: [Mapping] = []
        var kept: MappingClaim?
        for claim in unmap.claims {
            guard let mapping = table.mapping(like: claim) else { continue }
            let state = mapping.state
            if obstacle != nil {
                mapping.endClaim()
            } else if state.isInTransition {
                mapping.endClaim()
                if unmap.manner == .inOrder { obstacle = .failed(.busy) } else { unmap.hasPassedOver = true }
            } else if state.pinCount > 0 {
                if unmap.manner == .batch {
                    unmap.held.append(claim)
                } else {
                    kept = claim
                    obstacle = .ask([claim], accesses)
                }
            } else {
                free.append(mapping)
            }
        }
        unmap.claims.removeAll(keepingCapacity: true)
        if let kept { unmap.claims.append(kept) }
        if consumers.isEmpty || free.isEmpty {
            unmap.didRemove(free.map(\.range), table.remove(free))
            return obstacle
        }
        for mapping in free { mapping.beginTransition() }
        consumerWork += 1
        return .tearDown(free, consumers)
    }

    /// Ends an unmap whose mappings keep their pins: they stay blocked until a later unmap succeeds. Whether there is one.
    func giveUp(_ claims: [MappingClaim]) -> Bool {
        var isStuck = false
        for claim in claims {
            guard let mapping = table.mapping(like: claim) else { continue }
            mapping.isStuck = true
            mapping.endClaim()
            isStuck = true
        }
        return isStuck
    }

    /// Whether the pins of a mapping are gone, or the mapping is.
    func isFree(_ claim: MappingClaim) -> Bool {
        table.mapping(like: claim).map { $0.state.pinCount == 0 } ?? true
    }

    /// Removes mappings that the consumers have forgotten.
    mutating func finishTearDown(_ mappings: [Mapping]) -> [Backing] {
        consumerWork -= 1
        return table.remove(mappings)
    }
}

// Mappings at the edges of ranges

extension AddressSpaceState {
    /// Whether one of the ranges splits a mapping that is there when those before it have been unmapped.
    private func splitsMapping(oneOf ranges: [IOVARange]) -> Bool {
        ranges.indices.contains { splitsMapping(ranges[$0], after: ranges[..<$0]) }
    }

    /// Whether a mapping lies partly inside and partly outside a range, and wholly inside none of the `earlier` ones.
    func splitsMapping(_ range: IOVARange, after earlier: ArraySlice<IOVARange>) -> Bool {
        for edge in [range.first, range.last] {
            guard let mapping = table.mapping(at: edge), !range.contains(mapping.range) else { continue }
            if !earlier.contains(where: { $0.contains(mapping.range) }) { return true }
        }
        return false
    }
}

/// One unmap at work.
struct Unmap {
    enum Manner {
        /// As iommufd does it: ascending, and at an end with the first mapping that cannot go.
        case inOrder
        /// All that can go, then what has pins, which all have the same time to go.
        case batch
    }

    let manner: Manner
    /// The ranges of a batch, until it was looked whether they split mappings.
    private var unchecked: [IOVARange]?
    /// Where it is; `nil` behind the last range.
    fileprivate private(set) var range: IOVARange?
    /// What of the range lies below this is done; `nil` when everything is.
    private var next: IOVA?
    /// The ranges above, the lowest last, none of which overlap.
    private var laterRanges: [IOVARange] = []
    /// The mappings it has blocked and is at work on, ascending.
    fileprivate var claims: [MappingClaim] = []
    /// The mappings of a batch that are blocked and without readers, and have pins, ascending.
    fileprivate var held: [MappingClaim] = []
    /// Whether a batch has passed over a mapping that another thread is mapping or unmapping.
    fileprivate(set) var hasPassedOver = false
    private(set) var byteCount: UInt64 = 0
    private(set) var hasRemoved = false
    private var backings: [Backing] = []

    /// In order.
    init(_ range: IOVARange) {
        manner = .inOrder
        self.range = range
        next = range.first
    }

    /// A batch.
    init(_ ranges: [IOVARange]) {
        manner = .batch
        unchecked = ranges
        laterRanges.reserveCapacity(ranges.count)
        for range in ranges.sorted(by: { $0.last > $1.last }) {
            var joined = range
            while let above = laterRanges.last, above.first <= joined.last {
                joined = IOVARange(first: min(joined.first, above.first), last: above.last)
                laterRanges.removeLast()
            }
            laterRanges.append(joined)
        }
        goToNextRange()
    }

    fileprivate mutating func takeUnchecked() -> [IOVARange]? {
        defer { unchecked = nil }
        return unchecked
    }

    /// What of its range is not done.
    fileprivate var restOfRange: IOVARange? {
        guard let range, let next, next <= range.last else { return nil }
        return IOVARange(first: next, last: range.last)
    }

    fileprivate mutating func goToNextRange() {
        range = laterRanges.popLast()
        next = range?.first
    }

    fileprivate mutating func claim(_ mapping: Mapping) {
        claims.append(mapping.claim())
        if manner == .batch { next = mapping.range.last.successor }
    }

    /// Takes up again what has pins.
    fileprivate mutating func claimHeld() {
        swap(&claims, &held)
    }

    /// Mappings may come and go while an unmap is at work, so the sum may be beyond what the space holds.
    mutating func didRemove(_ ranges: [IOVARange], _ backings: [Backing]) {
        for range in ranges {
            let (sum, overflow) = byteCount.addingReportingOverflow(range.byteCount)
            byteCount = overflow ? .max : sum
            hasRemoved = true
            if manner == .inOrder { next = range.last.successor }
        }
        self.backings += backings
    }

    /// Lets go of the memory of what was removed, with no lock held.
    mutating func releaseBackings() {
        for backing in backings { backing.release() }
        backings.removeAll(keepingCapacity: true)
    }
}
