import DMA
import LinuxHost

/// The guest memory that there is: the sections that the client of the IOMMU's own function has mapped.
struct GuestSections: Sendable {
    private var sections: [GuestSection] = []

    var isEmpty: Bool { sections.isEmpty }

    mutating func insert(_ section: GuestSection) {
        sections.insert(section, at: index(above: section.range.first))
    }

    mutating func remove(_ range: IOVARange) -> GuestSection? {
        let index = index(above: range.first) - 1
        guard index >= 0, sections[index].range == range else { return nil }
        return sections.remove(at: index)
    }

    /// What a mapping of the guest leads to: a piece for each section, with the rights that both give.
    func pieces(of mapping: GuestMapping) -> [MemoryPiece] {
        guard mapping.leadsToMemory else { return [] }
        let wanted = mapping.physicalRange
        var pieces: [MemoryPiece] = []
        for section in sections[max(0, index(above: wanted.first) - 1)...] {
            if section.range.first > wanted.last { break }
            if let piece = section.piece(of: mapping) { pieces.append(piece) }
        }
        return pieces
    }

    /// Whether there is memory at an address that can be used so.
    func allow(_ rights: AccessRights, at iova: IOVA) -> Bool {
        let index = index(above: iova) - 1
        return index >= 0 && sections[index].range.contains(iova) && sections[index].rights.isSuperset(of: rights)
    }

    private func index(above iova: IOVA) -> Int {
        var low = 0
        var high = sections.count
        while low < high {
            let middle = (low + high) / 2
            if sections[middle].range.first <= iova { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

/// A part of guest memory that comes and goes as a whole.
struct GuestSection: Sendable {
    let range: IOVARange
    let rights: AccessRights
    private let memory: Memory

    private enum Memory: Sendable {
        case file(MemoryObject, offset: UInt64)
        case remote(RemoteSection)
    }

    init(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) {
        self.range = range
        self.rights = rights
        switch backing {
        case .file(let object, let offset): memory = .file(object, offset: offset)
        case .remote(let remote): memory = .remote(RemoteSection(remote))
        }
    }

    /// The section is about to go: transfers to what is remote are not waited for any more.
    func willGo() {
        if case .remote(let section) = memory { section.willGo() }
    }

    /// What of the section a mapping leads to; `nil` for nothing, or nothing that either gives a right to.
    func piece(of mapping: GuestMapping) -> MemoryPiece? {
        let common = rights.intersection(mapping.rights)
        guard !common.isEmpty, let part = mapping.part(leadingTo: range) else { return nil }
        let offset = mapping.physical &- mapping.range.first.rawValue
        let physical = part.first.rawValue &+ offset
        let backing: MappingBacking
        switch memory {
        case .file(let object, let start): backing = .file(object, offset: start + (physical - range.first.rawValue))
        case .remote(let section): backing = .remote(RemotePiece(of: section, shift: offset))
        }
        return MemoryPiece(range: part, backing: backing, rights: common)
    }
}

/// What one mapping in a domain's address space is to be.
struct MemoryPiece: Sendable {
    let range: IOVARange
    let backing: MappingBacking
    let rights: AccessRights
}

/// Guest memory that only messages reach, for all domains that show something of it.
private final class RemoteSection: Sendable {
    let memory: any RemoteMemory
    private let hasToGo = Monitor(false)

    init(_ memory: any RemoteMemory) {
        self.memory = memory
    }

    func willGo() { hasToGo.withLock { $0 = true } }

    var isGoing: Bool { hasToGo.withLock { $0 } }
}

/// A part of a remote section under the addresses of a domain.
///
/// The device may have transfers under way when the guest unmaps it, and then must not write any more: to revoke it is to
/// wait for them. The answers come on the client's connection, which itself waits only when it takes the whole section
/// away; then its transfers come to nothing and are not waited for.
private final class RemotePiece: RemoteMemory {
    private struct State {
        var transferCount = 0
        var isRevoked = false
    }

    private let section: RemoteSection
    /// What is added to an address, modulo 2^64.
    private let shift: UInt64
    private let state = Monitor(State())

    init(of section: RemoteSection, shift: UInt64) {
        self.section = section
        self.shift = shift
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try begin()
        defer { end() }
        unsafe try section.memory.read(at: IOVA(iova.rawValue &+ shift), into: buffer)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        try begin()
        defer { end() }
        unsafe try section.memory.write(bytes, at: IOVA(iova.rawValue &+ shift))
    }

    private func begin() throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard !state.isRevoked else { throw .cancelled }
            state.transferCount += 1
        }
    }

    private func end() { state.update { $0.transferCount -= 1 } }

    func revoke() {
        state.update { $0.isRevoked = true }
        while !section.isGoing {
            let isDone: Void? = state.wait(until: .after(.milliseconds(10))) { $0.transferCount == 0 ? () : nil }
            if isDone != nil { return }
        }
    }
}
