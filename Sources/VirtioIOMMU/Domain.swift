import DMA
import LinuxHost

/// Endpoints that see the same addresses, and what is mapped there.
struct Domain {
    let id: DomainID
    let serial: DomainSerial
    /// What the endpoints' accesses reach; `nil` when nothing is translated.
    let space: IOAddressSpace?
    var table = GuestMappingTable()
    /// In the order of attachment; never empty but while the first is being attached.
    private(set) var endpoints: [EndpointID] = []
    /// Where none of the endpoints can have mappings, in any order.
    private(set) var reserved: [IOVARange] = []
    private var regions: [EndpointID: [ReservedRegion]] = [:]
    /// What is unmapped for the guest, but may not have left the address space: the ranges of the requests, and the mappings
    /// that they took out.
    var leavingRanges: [IOVARange] = []
    var leaving: [GuestMapping] = []

    var isBypass: Bool { space == nil }

    init(id: DomainID, serial: DomainSerial, space: IOAddressSpace?) {
        self.id = id
        self.serial = serial
        self.space = space
    }

    mutating func add(_ endpoint: EndpointID, _ regions: [ReservedRegion]) {
        endpoints.append(endpoint)
        self.regions[endpoint] = regions
        updateReserved()
    }

    mutating func remove(_ endpoint: EndpointID) {
        endpoints.removeAll { $0 == endpoint }
        regions[endpoint] = nil
        updateReserved()
    }

    private mutating func updateReserved() {
        reserved = Array(Set(regions.values.joined().map(\.range)))
    }

    func reservedRange(at iova: IOVA) -> IOVARange? { reserved.first { $0.contains(iova) } }

    /// Whether a mapping there would have to wait until what was unmapped has left.
    func isLeaving(_ range: IOVARange) -> Bool { leavingRanges.contains(where: range.overlaps) }

    /// What was unmapped has left.
    mutating func forgetLeaving() {
        leavingRanges.removeAll(keepingCapacity: true)
        leaving.removeAll(keepingCapacity: leaving.count <= Self.keptCapacity)
    }

    /// Of how many mappings the memory is kept for the next batch; one request may unmap all of a domain.
    static let keptCapacity = 1024
}

// What the guest may map and unmap

extension Domain {
    /// Takes a mapping into the table.
    ///
    /// - Throws: the status of a request that is refused; nothing has changed then.
    mutating func map(
        _ request: MapRequest, number: UInt64, at time: MonotonicInstant, _ options: VirtioIOMMU.Options
    ) throws(IOMMUStatus) -> GuestMapping {
        guard !isBypass, request.first < request.last else { throw .invalid }
        let range = IOVARange(first: IOVA(request.first), last: IOVA(request.last))
        let bits = request.first | request.physical | (request.last &+ 1)
        guard bits & (options.granule - 1) == 0, options.inputRange.contains(range),
            !request.physical.addingReportingOverflow(request.last - request.first).overflow
        else { throw .outOfRange }
        guard !table.overlaps(range), !reserved.contains(where: range.overlaps) else { throw .invalid }
        guard table.count < options.maximumMappings else { throw .outOfMemory }
        var rights: AccessRights = []
        if request.flags.contains(.read) { rights.insert(.read) }
        if request.flags.contains(.write) { rights.insert(.write) }
        let mapping = GuestMapping(
            range: range, physical: request.physical, rights: rights, isMMIO: request.flags.contains(.mmio),
            request: number, time: time)
        table.insert(mapping)
        return mapping
    }

    /// Takes a mapping out of the table whose pieces could not all be entered.
    mutating func takeBack(_ mapping: GuestMapping) {
        table.removeAll(in: mapping.range) { leaving.append($0) }
        leavingRanges.append(mapping.range)
    }

    /// Takes mappings out of the table, and notes them as leaving the address space.
    ///
    /// - Throws: the status of a request that is refused; nothing has changed then.
    mutating func unmap(
        _ request: UnmapRequest, number: UInt64, at time: MonotonicInstant, _ history: inout MappingHistory
    ) throws(IOMMUStatus) {
        guard !isBypass, request.first <= request.last else { throw .invalid }
        let range = IOVARange(first: IOVA(request.first), last: IOVA(request.last))
        guard !table.isSplit(by: range) else { throw .outOfRange }
        let leavingBefore = leaving.count
        table.removeAll(in: range) { mapping in
            history.append(
                MappingHistory.Entry(
                    domain: serial, ended: EndedMapping(mapping: mapping, request: number, time: time)))
            if mapping.leadsToMemory { leaving.append(mapping) }
        }
        if leaving.count > leavingBefore { leavingRanges.append(range) }
    }
}
