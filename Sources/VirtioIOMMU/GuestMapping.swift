public import DMA
public import LinuxHost

/// A mapping as the guest has made it: one for each MAP request, however many pieces of guest memory it leads to.
public struct GuestMapping: Hashable, Sendable {
    public let range: IOVARange
    /// Where in guest memory its first address leads; its last does not overflow.
    public let physical: UInt64
    /// None of them is a mapping through which nothing goes.
    public let rights: AccessRights
    /// Whether the guest says that what is there is no memory.
    public let isMMIO: Bool
    /// The number of the request that made it.
    public let request: UInt64
    public let time: MonotonicInstant

    init(
        range: IOVARange, physical: UInt64, rights: AccessRights, isMMIO: Bool = false, request: UInt64,
        time: MonotonicInstant
    ) {
        self.range = range
        self.physical = physical
        self.rights = rights
        self.isMMIO = isMMIO
        self.request = request
        self.time = time
    }

    /// Whether devices reach guest memory by it.
    var leadsToMemory: Bool { !rights.isEmpty && !isMMIO }

    /// The addresses in guest memory that it leads to.
    var physicalRange: IOVARange {
        IOVARange(first: IOVA(physical), last: IOVA(physical + (range.last.rawValue - range.first.rawValue)))
    }

    /// The addresses of the mapping that lead to a part of guest memory; `nil` when none does.
    func part(leadingTo memory: IOVARange) -> IOVARange? {
        guard leadsToMemory, let common = physicalRange.intersection(memory) else { return nil }
        let offset = range.first.rawValue &- physical
        return IOVARange(
            first: IOVA(common.first.rawValue &+ offset), last: IOVA(common.last.rawValue &+ offset))
    }
}

/// A mapping that is no more.
public struct EndedMapping: Hashable, Sendable {
    public let mapping: GuestMapping
    /// The number of the request that unmapped it.
    public let request: UInt64
    public let time: MonotonicInstant
}
