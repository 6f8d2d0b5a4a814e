/// What the lock of an address space guards.
///
/// Nothing here blocks or calls out: the methods decide, and `IOAddressSpace` does what they decided once the lock is
/// free.
struct AddressSpaceState {
    struct AttachedConsumer {
        let consumer: any MappingConsumer
        let granule: UInt64
        /// The owner of the addresses outside its aperture.
        let owner: Int
    }

    private struct Reserved {
        let range: IOVARange
        let owner: Int
    }

    let pageSize: UInt64
    let maximumMappings: Int
    var table = RangeTable<Mapping>()
    private(set) var accesses: [DMAAccess] = []
    private(set) var consumers: [AttachedConsumer] = []
    /// A consumer is being attached or detached: mappings neither come nor go meanwhile.
    var isChangingConsumers = false
    /// Mappings that are coming or going with consumers being told of it.
    var consumerWork = 0
    private(set) var alignment: UInt64 = 1
    private(set) var usable = [IOVARange.everything]
    private(set) var allowed: [IOVARange] = []
    private var reserved: [Reserved] = []
    private var nextOwner = 0

    init(pageSize: UInt64, maximumMappings: Int) {
        self.pageSize = pageSize
        self.maximumMappings = maximumMappings
    }
}

// Reserved and allowed addresses

extension AddressSpaceState {
    var reservedRanges: [IOVARange] { reserved.map(\.range) }

    /// Keeps mappings out of a range and returns the owner under which it is released.
    mutating func reserve(_ range: IOVARange) throws(DMAError) -> Int {
        let owner = nextOwner
        try reserve([range], for: owner)
        nextOwner += 1
        return owner
    }

    private mutating func reserve(_ ranges: [IOVARange], for owner: Int) throws(DMAError) {
        for range in ranges {
            guard table.first(overlapping: range) == nil else { throw .addressInUse }
            guard !allowed.contains(where: range.overlaps) else { throw .addressInUse }
        }
        reserved.append(contentsOf: ranges.map { Reserved(range: $0, owner: owner) })
        updateUsable()
    }

    mutating func release(owner: Int) {
        reserved.removeAll { $0.owner == owner }
        updateUsable()
    }

    mutating func allow(_ ranges: [IOVARange]) throws(DMAError) {
        let sorted = ranges.sorted { $0.first < $1.first }
        for (index, range) in sorted.enumerated() {
            guard range.first < range.last else { throw .invalid }
            if index > 0, sorted[index - 1].overlaps(range) { throw .invalid }
        }
        for range in sorted {
            guard !reserved.contains(where: { $0.range.overlaps(range) }) else { throw .addressInUse }
        }
        allowed = sorted
    }

    /// Recomputes the complement of the reserved ranges.
    private mutating func updateUsable() {
        usable = []
        var next: IOVA? = IOVA(0)
        for range in reserved.map(\.range).sorted(by: { $0.first < $1.first }) {
            guard let first = next else { return }
            if let last = range.first.predecessor, first <= last { usable.append(IOVARange(first: first, last: last)) }
            guard let successor = range.last.successor else { return }
            next = max(first, successor)
        }
        if let first = next { usable.append(IOVARange(first: first, last: IOVA(.max))) }
    }

    private func isUsable(_ range: IOVARange) -> Bool {
        usable.contains { $0.contains(range) }
    }
}

// Accesses, consumers and the alignment that they ask for

extension AddressSpaceState {
    mutating func add(_ access: DMAAccess) throws(DMAError) {
        try requireAlignment(alignment(for: access))
        accesses.append(access)
        updateAlignment()
    }

    mutating func remove(_ access: DMAAccess) {
        accesses.removeAll { $0 === access }
        updateAlignment()
    }

    /// Lists a consumer, which has yet to be told of the mappings, and returns the owner under which it is removed.
    mutating func add(
        _ consumer: any MappingConsumer, aperture: IOVARange, granule: UInt64
    ) throws(DMAError) -> Int {
        guard !consumers.contains(where: { isSame($0.consumer, consumer) }) else { throw .exists }
        guard granule > 0, granule & (granule - 1) == 0, granule <= pageSize else { throw .invalid }
        try requireAlignment(granule)
        var outside: [IOVARange] = []
        if let last = aperture.first.predecessor { outside.append(IOVARange(first: IOVA(0), last: last)) }
        if let first = aperture.last.successor { outside.append(IOVARange(first: first, last: IOVA(.max))) }
        let owner = nextOwner
        try reserve(outside, for: owner)
        nextOwner += 1
        consumers.append(AttachedConsumer(consumer: consumer, granule: granule, owner: owner))
        updateAlignment()
        return owner
    }

    /// The owner under which a consumer is listed, `nil` when it is not.
    func owner(of consumer: any MappingConsumer) -> Int? {
        consumers.first { isSame($0.consumer, consumer) }?.owner
    }

    /// Strikes a consumer off the list, with its claim on addresses and alignment.
    mutating func removeConsumer(owner: Int) {
        consumers.removeAll { $0.owner == owner }
        release(owner: owner)
        updateAlignment()
    }

    private func alignment(for access: DMAAccess) -> UInt64 { access.needsPin ? pageSize : 1 }

    private mutating func updateAlignment() {
        let accessAlignment = accesses.map(alignment(for:)).max() ?? 1
        let granule = consumers.map(\.granule).max() ?? 1
        alignment = max(accessAlignment, granule)
    }

    /// Refuses an alignment that is stricter than today's and that a mapping does not have.
    private func requireAlignment(_ wanted: UInt64) throws(DMAError) {
        guard wanted > alignment else { return }
        let mask = wanted - 1
        for entry in table.entries(overlapping: .everything) {
            let bits = entry.range.first.rawValue | ~entry.range.last.rawValue | entry.value.backing.address
            guard bits & mask == 0 else { throw .addressInUse }
        }
    }
}

/// Whether two values are the same consumer: the same object, or equal values.
private func isSame(_ left: any MappingConsumer, _ right: any MappingConsumer) -> Bool {
    if type(of: left) is AnyClass && type(of: right) is AnyClass {
        return (left as AnyObject) === (right as AnyObject)
    }
    guard let left = left as? any Hashable, let right = right as? any Hashable else { return false }
    return AnyHashable(left) == AnyHashable(right)
}

// Mapping

extension AddressSpaceState {
    /// Enters the pieces one behind the other, at `iova` or wherever there is room, or throws with nothing changed.
    ///
    /// The order of the checks is that of iommufd: the first that fails names the error.
    mutating func place(_ pieces: [NewPiece], at iova: IOVA?, rights: AccessRights) throws(DMAError) -> [Mapping] {
        var byteCount: UInt64 = 0
        for piece in pieces { byteCount += piece.byteCount }
        guard byteCount & (alignment - 1) == 0 else { throw .invalid }
        let first: IOVA
        if let iova {
            try checkFixed(iova, byteCount)
            first = iova
        } else {
            first = try findPlace(byteCount, address: pieces[0].address)
        }
        var mappings: [Mapping] = []
        var next = first
        for (index, piece) in pieces.enumerated() {
            guard piece.grantableRights.isSuperset(of: rights) else { throw .notPermitted }
            guard piece.isWritable || !rights.contains(.write) else { throw .notPermitted }
            let bits = piece.address | next.rawValue | piece.byteCount
            guard bits & (alignment - 1) == 0, piece.fits else { throw .invalid }
            let range = try IOVARange(first: next, byteCount: piece.byteCount)
            mappings.append(
                Mapping(
                    range: range, backing: piece.backing(placedAt: next), rights: rights,
                    grantableRights: piece.grantableRights, phase: consumers.isEmpty ? .ready : .settingUp))
            if index + 1 < pieces.count { next = try next.advanced(by: piece.byteCount) }
        }
        guard table.count + mappings.count <= maximumMappings else { throw .noSpace }
        for mapping in mappings { table.insert(mapping, at: mapping.range) }
        return mappings
    }

    private func checkFixed(_ iova: IOVA, _ byteCount: UInt64) throws(DMAError) {
        guard iova.isAligned(to: alignment) else { throw .invalid }
        let range = try IOVARange(first: iova, byteCount: byteCount)
        guard isUsable(range) else { throw .invalid }
        guard table.first(overlapping: range) == nil else { throw .exists }
    }

    /// The lowest address with room for `byteCount` bytes whose backing begins at `address`.
    private mutating func findPlace(_ byteCount: UInt64, address: UInt64) throws(DMAError) -> IOVA {
        guard byteCount < UInt64.max / 2 else { throw .overflow }
        var step = min(byteCount.roundedUpToPowerOfTwo, largestStep)
        if address != 0 { step = min(step, address & ~(address - 1)) }
        guard step >= alignment else { throw .invalid }
        let inPage = address & (pageSize - 1)
        let window = IOVARange(first: IOVA(pageSize), last: IOVA(UInt64.max - pageSize))
        for base in allowed.isEmpty ? [window] : allowed.compactMap(window.intersection) {
            for range in usable.compactMap(base.intersection) {
                let place = table.firstFit(in: range, byteCount: byteCount) { hole in
                    let (sum, overflow) = hole.first.rawValue.addingReportingOverflow(step - 1)
                    if overflow { return nil }
                    let candidate = (sum & ~(step - 1)) | inPage
                    guard candidate <= hole.last.rawValue, hole.last.rawValue - candidate >= byteCount - 1 else {
                        return nil
                    }
                    return IOVA(candidate)
                }
                if let place { return place }
            }
        }
        throw .noSpace
    }
}

/// The largest alignment that an automatic address is given: the size of a huge page.
private let largestStep: UInt64 = 2 << 20

extension UInt64 {
    /// At most 2^63 for what is at most that.
    fileprivate var roundedUpToPowerOfTwo: UInt64 {
        self <= 1 ? 1 : 1 << (UInt64.bitWidth - (self - 1).leadingZeroBitCount)
    }
}

// Finding memory

extension AddressSpaceState {
    /// Calls `body` with each mapping of a range and the part of it that lies in the range, ascending.
    ///
    /// - Throws: `ENOENT` at the first address that is not mapped, and what `body` throws.
    func visit(
        _ range: IOVARange, _ body: (Mapping, IOVARange) throws(DMAError) -> Void
    ) throws(DMAError) {
        var expected = range.first
        for entry in table.entries(overlapping: range) {
            guard entry.range.first <= expected, entry.value.phase == .ready else { throw .notFound }
            let part = IOVARange(first: expected, last: min(entry.range.last, range.last))
            try body(entry.value, part)
            guard part.last < range.last, let next = part.last.successor else { return }
            expected = next
        }
        throw .notFound
    }

    /// The pieces that a copy of a range brings elsewhere, each counted as a mapping of its remote memory.
    func piecesForCopy(of range: IOVARange) throws(DMAError) -> [NewPiece] {
        var pieces: [NewPiece] = []
        try visit(range) { (mapping, part) throws(DMAError) in
            let memory: NewPiece.Memory
            switch mapping.backing {
            case .file(let object, let offset):
                memory = .file(object, offset: offset + (part.first.rawValue - mapping.range.first.rawValue))
            case .remote(let link, let shift):
                memory = .remote(link, address: IOVA(part.first.rawValue &+ shift))
            }
            pieces.append(
                NewPiece(memory: memory, byteCount: part.byteCount, grantableRights: mapping.grantableRights))
        }
        for piece in pieces {
            if case .remote(let link, _) = piece.memory { link.retain() }
        }
        return pieces
    }

    /// Counts a pin on each mapping of a range, or throws with nothing changed.
    func pin(_ range: IOVARange, rights: AccessRights) throws(DMAError) -> [PinnedPiece] {
        var pieces: [PinnedPiece] = []
        try visit(range) { (mapping, part) throws(DMAError) in
            guard !mapping.isBlocked, case .file(let object, let offset) = mapping.backing else { throw .invalid }
            let first = offset + (part.first.rawValue - mapping.range.first.rawValue)
            let next = first + part.byteCount
            // Only the very first and the very last page of a pin may be partly of it.
            guard first % pageSize == 0, part.last == range.last || next % pageSize == 0 else { throw .invalid }
            guard mapping.rights.isSuperset(of: rights) else { throw .notPermitted }
            pieces.append(
                PinnedPiece(mapping: mapping, object: object, offset: Int(first), byteCount: Int(part.byteCount)))
        }
        for piece in pieces { piece.mapping.pinCount += 1 }
        return pieces
    }

    /// Takes the pins back; whether an unmap may be waiting for that.
    func unpin(_ pieces: [PinnedPiece]) -> Bool {
        var mayWake = false
        for piece in pieces {
            piece.mapping.pinCount -= 1
            if piece.mapping.isBlocked && piece.mapping.pinCount == 0 { mayWake = true }
        }
        return mayWake
    }

    /// What a transfer of up to `byteCount` bytes at `iova` reaches at once. For memory of this process the mapping's
    /// copies are one more, until `endCopy`.
    func beginTransfer(at iova: IOVA, upTo byteCount: Int, rights: AccessRights) throws(DMAError) -> TransferStep {
        guard let entry = table.entry(at: iova), entry.value.phase == .ready else { throw .notFound }
        let mapping = entry.value
        guard !mapping.isBlocked else { throw .invalid }
        guard mapping.rights.isSuperset(of: rights) else { throw .notPermitted }
        let rest = IOVARange(first: iova, last: entry.range.last).byteCount
        let count = rest > UInt64(byteCount) ? byteCount : Int(rest)
        switch mapping.backing {
        case .file(let object, let offset):
            let start = Int(offset + (iova.rawValue - entry.range.first.rawValue))
            mapping.copyCount += 1
            return .copy(mapping, object, offset: start, byteCount: min(count, TransferStep.maximumCopy))
        case .remote(let link, let shift):
            return .message(
                link.memory, IOVA(iova.rawValue &+ shift), byteCount: min(count, TransferStep.maximumMessage))
        }
    }

    /// Whether an unmap may be waiting for the end of this copy.
    func endCopy(_ mapping: Mapping) -> Bool {
        mapping.copyCount -= 1
        return mapping.isBlocked && mapping.copyCount == 0
    }
}

// Unmapping

extension AddressSpaceState {
    enum UnmapStep {
        case finished
        case failed(DMAError)
        /// Pins hold this mapping, which is blocked now: ask the accesses to let go.
        case pinned(Mapping, [DMAAccess])
        /// The mapping is off the table.
        case removed(Mapping)
        /// The mapping is in transition: tell the consumers, then remove it.
        case tearDown(Mapping, [AttachedConsumer])
    }

    /// The next thing to do for an unmap of `request` that is done with everything below `next`; `nil` when it has to
    /// wait for copies under way to end.
    mutating func unmapStep(in request: IOVARange, from next: IOVA) -> UnmapStep? {
        guard let entry = table.first(overlapping: IOVARange(first: next, last: request.last)) else { return .finished }
        let mapping = entry.value
        guard mapping.phase == .ready else { return .failed(.busy) }
        guard request.contains(mapping.range) else { return .failed(.notFound) }
        if mapping.pinCount > 0 {
            mapping.isBlocked = true
            return .pinned(mapping, accesses)
        }
        if mapping.copyCount > 0 {
            mapping.isBlocked = true
            return nil
        }
        if consumers.isEmpty {
            table.remove(beginningAt: mapping.range.first)
            return .removed(mapping)
        }
        mapping.phase = .tearingDown
        consumerWork += 1
        return .tearDown(mapping, consumers)
    }
}
