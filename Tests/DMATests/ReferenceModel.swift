import DMA

/// What an address space must answer, worked out the slow way: lists of ranges, and bytes looked at one by one.
///
/// Two spaces and one access that is attached to one of them, with pages of 16 bytes. The access's device either lets go
/// of its pins whenever it is told or never does.
struct ReferenceModel {
    struct Entry {
        let id: Int
        let range: IOVARange
        /// The index into `stores` and the place of the first byte there.
        let store: Int
        let offset: UInt64
        let rights: AccessRights
        let grantableRights: AccessRights
        var pinCount = 0
        var isBlocked = false
    }

    struct Pin {
        let range: IOVARange
        let entries: [Int]
    }

    static let pageSize: UInt64 = 16

    /// The bytes of each memory object and peer.
    var stores: [[UInt8]]
    let fileCount: Int
    let readOnlyStore: Int
    var spaces: [[Entry]] = [[], []]
    var pins: [Pin] = []
    var attached = 0
    var isObedient = true
    private var nextID = 0

    init(files: [[UInt8]], readOnly: Int) {
        stores = files
        fileCount = files.count
        readOnlyStore = readOnly
    }

    func snapshots(_ space: Int) -> [MappingSnapshot] {
        spaces[space].map { MappingSnapshot($0.range, $0.rights, pins: $0.pinCount, isBlocked: $0.isBlocked) }
    }

    func alignment(_ space: Int) -> UInt64 { space == attached ? Self.pageSize : 1 }

    private func entry(_ space: Int, at address: UInt64) -> Entry? {
        spaces[space].first { $0.range.contains(IOVA(address)) }
    }

    private func isRemote(_ store: Int) -> Bool { store >= fileCount }

    // Each of the following changes the model and returns the error that the space must throw instead.

    mutating func map(
        _ space: Int, store: Int, offset: UInt64, at first: UInt64, count: UInt64, rights: AccessRights
    ) -> DMAError? {
        if rights.isEmpty || count == 0 { return .invalid }
        let piece = (store, offset, count, rights)
        return place(space, [piece], at: first, rights)
    }

    mutating func copy(
        _ range: IOVARange, from source: Int, to target: Int, at first: UInt64, rights: AccessRights
    ) -> DMAError? {
        if rights.isEmpty { return .invalid }
        var pieces: [(store: Int, offset: UInt64, count: UInt64, grantable: AccessRights)] = []
        var address = range.first.rawValue
        while address <= range.last.rawValue {
            guard let entry = entry(source, at: address) else { return .notFound }
            let last = min(entry.range.last.rawValue, range.last.rawValue)
            pieces.append(
                (
                    entry.store, entry.offset + address - entry.range.first.rawValue, last - address + 1,
                    entry.grantableRights
                ))
            address = last + 1
        }
        return place(target, pieces, at: first, rights)
    }

    private mutating func place(
        _ space: Int, _ pieces: [(store: Int, offset: UInt64, count: UInt64, grantable: AccessRights)],
        at first: UInt64, _ rights: AccessRights
    ) -> DMAError? {
        let unit = alignment(space)
        let total = pieces.reduce(0) { $0 + $1.count }
        if total % unit != 0 || first % unit != 0 { return .invalid }
        let whole = range(first, first + total - 1)
        if spaces[space].contains(where: { $0.range.overlaps(whole) }) { return .exists }
        var next = first
        var entries: [Entry] = []
        for piece in pieces {
            if !piece.grantable.isSuperset(of: rights) { return .notPermitted }
            if piece.store == readOnlyStore && rights.contains(.write) { return .notPermitted }
            if next % unit != 0 || piece.count % unit != 0 { return .invalid }
            if !isRemote(piece.store) {
                if piece.offset % unit != 0 { return .invalid }
                if piece.offset + piece.count > UInt64(stores[piece.store].count) { return .invalid }
            }
            entries.append(
                Entry(
                    id: nextID, range: range(next, next + piece.count - 1), store: piece.store, offset: piece.offset,
                    rights: rights, grantableRights: piece.grantable))
            nextID += 1
            next += piece.count
        }
        spaces[space] = (spaces[space] + entries).sorted { $0.range.first < $1.range.first }
        return nil
    }

    mutating func unmap(_ space: Int, _ request: IOVARange) -> Result<UInt64, DMAError> {
        var bytes: UInt64 = 0
        for entry in spaces[space] where entry.range.overlaps(request) {
            guard request.contains(entry.range) else { return .failure(.notFound) }
            guard let index = spaces[space].firstIndex(where: { $0.id == entry.id }) else { continue }
            if spaces[space][index].pinCount > 0 {
                spaces[space][index].isBlocked = true
                guard isObedient else { return .failure(.deadlock) }
                unpin { $0.range.overlaps(entry.range) }
            }
            spaces[space].removeAll { $0.id == entry.id }
            bytes += entry.range.byteCount
        }
        return bytes == 0 && request != .everything ? .failure(.notFound) : .success(bytes)
    }

    mutating func pin(_ range: IOVARange, rights: AccessRights) -> Result<[UInt8], DMAError> {
        if rights.isEmpty { return .failure(.invalid) }
        var address = range.first.rawValue
        var touched: [Int] = []
        var bytes: [UInt8] = []
        while address <= range.last.rawValue {
            guard let entry = entry(attached, at: address) else { return .failure(.notFound) }
            if entry.isBlocked || isRemote(entry.store) { return .failure(.invalid) }
            let last = min(entry.range.last.rawValue, range.last.rawValue)
            let place = entry.offset + address - entry.range.first.rawValue
            let end = place + last - address
            if place % Self.pageSize != 0 { return .failure(.invalid) }
            if last != range.last.rawValue && (end + 1) % Self.pageSize != 0 { return .failure(.invalid) }
            if !entry.rights.isSuperset(of: rights) { return .failure(.notPermitted) }
            touched.append(entry.id)
            bytes += stores[entry.store][Int(place)...Int(end)]
            address = last + 1
        }
        for index in spaces[attached].indices where touched.contains(spaces[attached][index].id) {
            spaces[attached][index].pinCount += 1
        }
        pins.append(Pin(range: range, entries: touched))
        return .success(bytes)
    }

    mutating func unpinLast() {
        if let pin = pins.popLast() { uncount(pin) }
    }

    private mutating func unpin(_ isDue: (Pin) -> Bool) {
        for pin in pins where isDue(pin) { uncount(pin) }
        pins.removeAll(where: isDue)
    }

    private mutating func uncount(_ pin: Pin) {
        for index in spaces[attached].indices where pin.entries.contains(spaces[attached][index].id) {
            spaces[attached][index].pinCount -= 1
        }
    }

    func read(_ range: IOVARange) -> Result<[UInt8], DMAError> {
        var bytes: [UInt8] = []
        for address in range.first.rawValue...range.last.rawValue {
            guard let entry = entry(attached, at: address) else { return .failure(.notFound) }
            if entry.isBlocked { return .failure(.invalid) }
            if !entry.rights.contains(.read) { return .failure(.notPermitted) }
            bytes.append(stores[entry.store][Int(entry.offset + address - entry.range.first.rawValue)])
        }
        return .success(bytes)
    }

    mutating func write(_ bytes: [UInt8], at first: UInt64) -> DMAError? {
        for (index, byte) in bytes.enumerated() {
            let address = first + UInt64(index)
            guard let entry = entry(attached, at: address) else { return .notFound }
            if entry.isBlocked { return .invalid }
            if !entry.rights.contains(.write) { return .notPermitted }
            stores[entry.store][Int(entry.offset + address - entry.range.first.rawValue)] = byte
        }
        return nil
    }

    mutating func replace(with space: Int) -> DMAError? {
        if space == attached { return nil }
        for entry in spaces[space] {
            let offset = isRemote(entry.store) ? 0 : entry.offset
            for number in [entry.range.first.rawValue, entry.range.byteCount, offset]
            where number % Self.pageSize != 0 { return .addressInUse }
        }
        if !pins.isEmpty && !isObedient { return .deadlock }
        unpin { _ in true }
        attached = space
        return nil
    }
}
