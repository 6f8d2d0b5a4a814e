import Synchronization

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
    let table: MappingTable
    private(set) var accesses: [DMAAccess] = []
    private(set) var consumers: [AttachedConsumer] = []
    /// A consumer is being attached or detached: mappings neither come nor go meanwhile.
    var isChangingConsumers = false
    /// Mappings that are coming or going with consumers being told of it.
    var consumerWork = 0
    /// The ranges whose memory is just being entered elsewhere.
    private var copying: [IOVARange] = []
    /// The readers that hold up what was retired last but one.
    private var leaving: Departure?
    /// Whether the writes of accesses are noted.
    var tracksWrites = false
    private(set) var alignment: UInt64 = 1
    private(set) var usable = [IOVARange.everything]
    private(set) var allowed: [IOVARange] = []
    private var reserved: [Reserved] = []
    private var nextOwner = 0

    init(_ table: MappingTable, pageSize: UInt64, maximumMappings: Int) {
        self.table = table
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
        guard !tracksWrites else { throw .notSupported }
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
        for mapping in table.mappings(overlapping: .everything) {
            let offset = mapping.isRemote ? 0 : mapping.offset
            let bits = mapping.range.first.rawValue | ~mapping.range.last.rawValue | offset
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
    ///
    /// - Returns: the addresses they have together.
    mutating func place(_ pieces: [NewPiece], at iova: IOVA?, rights: AccessRights) throws(DMAError) -> IOVARange {
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
        let whole = try IOVARange(first: first, byteCount: byteCount)
        try forEachPlace(of: pieces, from: first) { (piece, range) throws(DMAError) in
            guard piece.grantableRights.isSuperset(of: rights) else { throw .notPermitted }
            guard piece.isWritable || !rights.contains(.write) else { throw .notPermitted }
            let bits = piece.address | range.first.rawValue | piece.byteCount
            guard bits & (alignment - 1) == 0, piece.fits else { throw .invalid }
        }
        guard table.count + pieces.count <= maximumMappings else { throw .noSpace }
        try forEachPlace(of: pieces, from: first) { (piece, range) throws(DMAError) in
            table.insert(
                range, backing: piece.backing(placedAt: range.first), rights: rights,
                grantableRights: piece.grantableRights, inTransition: !consumers.isEmpty)
        }
        return whole
    }

    private func forEachPlace(
        of pieces: [NewPiece], from first: IOVA, _ body: (NewPiece, IOVARange) throws(DMAError) -> Void
    ) throws(DMAError) {
        var next: IOVA? = first
        for piece in pieces {
            guard let first = next else { throw .overflow }
            let range = try IOVARange(first: first, byteCount: piece.byteCount)
            try body(piece, range)
            next = range.last.successor
        }
    }

    private func checkFixed(_ iova: IOVA, _ byteCount: UInt64) throws(DMAError) {
        guard iova.isAligned(to: alignment) else { throw .invalid }
        let range = try IOVARange(first: iova, byteCount: byteCount)
        guard isUsable(range) else { throw .invalid }
        guard table.first(overlapping: range) == nil else { throw .exists }
    }

    /// The lowest address with room for `byteCount` bytes whose backing begins at `address`.
    private func findPlace(_ byteCount: UInt64, address: UInt64) throws(DMAError) -> IOVA {
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
    /// - Throws: `ENOENT` at the first address that is not mapped or that consumers are being told of, `EINVAL` at a
    ///   mapping that an unmap has closed, and what `body` throws.
    private func visit(
        _ range: IOVARange, _ body: (Mapping, IOVARange) throws(DMAError) -> Void
    ) throws(DMAError) {
        var expected = range.first
        for mapping in table.mappings(overlapping: range) {
            guard mapping.range.first <= expected else { throw .notFound }
            let state = mapping.state
            guard state.isOpen else { throw state.refusal }
            let part = IOVARange(first: expected, last: min(mapping.range.last, range.last))
            try body(mapping, part)
            guard part.last < range.last, let next = part.last.successor else { return }
            expected = next
        }
        throw .notFound
    }

    /// The pieces that a copy of a range brings elsewhere, each counted as a mapping of its remote memory. Until
    /// `endCopy` an unmap of what is there waits.
    mutating func beginCopy(of range: IOVARange) throws(DMAError) -> [NewPiece] {
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
        copying.append(range)
        return pieces
    }

    /// The pieces are where they belong, or were given up.
    mutating func endCopy(of range: IOVARange) {
        if let index = copying.firstIndex(of: range) { copying.remove(at: index) }
    }

    /// Whether the memory of one of these mappings, which are given in ascending order, is just being entered elsewhere.
    func isCopying(from claims: [MappingClaim]) -> Bool {
        !copying.isEmpty && copying.contains(where: claims.touch)
    }
}

// Readers

extension AddressSpaceState {
    /// What is retired at least before it is looked whether readers may still be in it.
    private static let minimumRetired = 64
    /// What is retired, 13 MiB at most, before readers are waited for on its account.
    private static let maximumRetired = 1 << 13

    /// Whether a reader may be in one of these mappings, which are given in ascending order.
    func mayReadersBe(in claims: [MappingClaim]) -> Bool {
        accesses.contains { $0.readers.mayBe(in: claims) }
    }

    /// Takes back what was retired before all readers of today began, as far as that is known without waiting.
    mutating func sweep() {
        if let earlier = leaving {
            guard earlier.isOver else { return }
            table.recycle(earlier.retired)
            leaving = nil
        }
        guard table.retiredCount >= AddressSpaceState.minimumRetired else { return }
        let departure = Departure(of: accesses, retired: table.takeRetired())
        if departure.isOver { table.recycle(departure.retired) } else { leaving = departure }
    }

    /// Takes everything out, when there are no readers any more, and hands over the memory.
    mutating func removeAll() -> [Backing] {
        if let leaving { table.recycle(leaving.retired) }
        leaving = nil
        return table.removeAll()
    }

    /// Whether so much is retired that it is time to wait for readers.
    var isCluttered: Bool { table.retiredCount > AddressSpaceState.maximumRetired }
}

/// The readers that were in an address space at some moment, and what is free once they have left.
struct Departure {
    // Not the accesses, which may be done with long before somebody looks again.
    private let sections: [(Readers, [Readers.Seen])]
    fileprivate let retired: MappingTable.Retired

    fileprivate init(of accesses: [DMAAccess], retired: MappingTable.Retired) {
        // What is retired was taken out of readers' way by stores that are only released: a section that is not seen here
        // must see them.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        sections = accesses.map { ($0.readers, $0.readers.sections) }.filter { !$0.1.isEmpty }
        self.retired = retired
    }

    fileprivate var isOver: Bool {
        sections.allSatisfy { readers, sections in !sections.contains(where: readers.isUnderWay) }
    }
}
