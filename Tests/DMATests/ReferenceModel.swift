import DMA

/// What two address spaces and two accesses must answer, worked out the plain way: sorted lists of ranges.
///
/// The pinning access's device either lets go of its pins whenever it is told or never does. Nothing here is shared with
/// the module under test but the types of its face.
struct ReferenceModel {
    struct Entry {
        var first, last: UInt64
        /// The key in `stores` and the place of the first byte there.
        let store: Int
        let offset: UInt64
        let rights: AccessRights
        let grantableRights: AccessRights
        var pinCount = 0
        var isBlocked = false

        var range: IOVARange { IOVARange(first: IOVA(first), last: IOVA(last)) }
        var snapshot: MappingSnapshot {
            MappingSnapshot(range: range, rights: rights, pinCount: pinCount, isBlocked: isBlocked)
        }
    }

    struct Space {
        /// Ascending, without overlap.
        var entries: [Entry] = []
        var reservations: [IOVARange] = []
        var allowed: [IOVARange] = []
    }

    struct Pin {
        let range: IOVARange
        /// The first addresses of the mappings that it counts on.
        let entries: [UInt64]
    }

    struct File {
        let byteCount: UInt64
        let isWritable: Bool
        let base: UInt
    }

    private struct Piece {
        let store: Int
        let offset: UInt64
        let byteCount: UInt64
        let grantableRights: AccessRights
    }

    let pageSize: UInt64
    let rounds: Int
    /// Their keys in `stores` are their indices; those of remote memory are larger.
    let files: [File]
    private(set) var stores: [Int: SparseBytes] = [:]
    private(set) var spaces = [Space(), Space()]
    private(set) var pins: [Pin] = []
    /// Where each device is attached.
    private(set) var attached: [Int?] = [nil, nil]
    private(set) var isObedient = true
    /// What each device was told by the last operation.
    private(set) var heard: [[IOVARange]] = [[], []]
    /// The remote memory that the last operation removed the last mapping of.
    private(set) var revoked: [Int] = []
    /// How many mappings name each remote memory that is mapped at all.
    private var linkCounts: [Int: Int] = [:]
    private var nextStore: Int

    init(files: [File], pageSize: UInt64, rounds: Int) {
        self.files = files
        self.pageSize = pageSize
        self.rounds = rounds
        nextStore = files.count
        for index in files.indices { stores[index] = SparseBytes() }
    }

    func alignment(_ space: Int) -> UInt64 { attached[0] == space ? pageSize : 1 }

    private func isRemote(_ store: Int) -> Bool { store >= files.count }

    /// The index of the lowest entry that ends at or after `address`.
    func index(_ space: Int, notBelow address: UInt64) -> Int {
        var low = 0
        var high = spaces[space].entries.count
        while low < high {
            let middle = (low + high) / 2
            if spaces[space].entries[middle].last < address { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func entry(_ space: Int, at address: UInt64) -> Entry? {
        let index = index(space, notBelow: address)
        guard index < spaces[space].entries.count, spaces[space].entries[index].first <= address else { return nil }
        return spaces[space].entries[index]
    }

    private func hasEntry(_ space: Int, overlapping range: IOVARange) -> Bool {
        let index = index(space, notBelow: range.first.rawValue)
        return index < spaces[space].entries.count && spaces[space].entries[index].first <= range.last.rawValue
    }

    /// Carries an operation out and returns what the real spaces must answer, or did answer where they have a choice.
    mutating func perform(_ operation: Operation, knowing answer: Outcome) -> Outcome {
        heard = [[], []]
        revoked = []
        switch operation {
        case .map(let memory, let address, let byteCount, let rights, let space):
            return map(memory, address, byteCount, rights, space, answer)
        case .copy(let range, let source, let address, let rights, let space):
            return copy(range, from: source, to: address, rights, space, answer)
        case .unmap(let request, let space):
            return unmap(request, space)
        case .pin(let range, let rights):
            return pin(range, rights)
        case .unpin(let number):
            uncount(pins.remove(at: number))
            return .done
        case .read(let range, let device):
            return read(range, attached[device.rawValue])
        case .write(let address, let byteCount, let first, let device):
            return write(Operation.bytes(byteCount, first: first), at: address, attached[device.rawValue])
        case .attach(let device, let space):
            return attach(device, space)
        case .replace(let device, let space):
            return replace(device, with: space)
        case .detach(let device):
            guard attached[device.rawValue] != nil else { return .failed(.invalid) }
            return leave(device, for: nil)
        case .obey(let isObedient):
            self.isObedient = isObedient
            return .done
        case .reserve(let range, let space):
            if hasEntry(space, overlapping: range) || spaces[space].allowed.contains(where: range.overlaps) {
                return .failed(.addressInUse)
            }
            spaces[space].reservations.append(range)
            return .done
        case .release(let number, let space):
            spaces[space].reservations.remove(at: number)
            return .done
        case .allow(let ranges, let space):
            return allow(ranges, space)
        }
    }
}

// Mapping

extension ReferenceModel {
    private mutating func map(
        _ memory: Operation.Memory, _ address: UInt64?, _ byteCount: UInt64, _ rights: AccessRights, _ space: Int,
        _ answer: Outcome
    ) -> Outcome {
        let store: Int
        let offset: UInt64
        switch memory {
        case .file(let file, let start):
            (store, offset) = (file, start)
        case .remote:
            (store, offset) = (nextStore, 0)
            nextStore += 1
        }
        if byteCount == .max { return .failed(.overflow) }
        if rights.isEmpty || byteCount == 0 || byteCount > .max - pageSize { return .failed(.invalid) }
        if offset.addingReportingOverflow(byteCount).overflow { return .failed(.overflow) }
        let piece = Piece(store: store, offset: offset, byteCount: byteCount, grantableRights: rights)
        return place([piece], at: address, rights, space, answer)
    }

    private mutating func copy(
        _ range: IOVARange, from source: Int, to address: UInt64?, _ rights: AccessRights, _ space: Int,
        _ answer: Outcome
    ) -> Outcome {
        if range.byteCount == .max { return .failed(.overflow) }
        if rights.isEmpty { return .failed(.invalid) }
        var pieces: [Piece] = []
        var next = range.first.rawValue
        var index = index(source, notBelow: next)
        while true {
            guard index < spaces[source].entries.count, spaces[source].entries[index].first <= next else {
                return .failed(.notFound)
            }
            let entry = spaces[source].entries[index]
            let last = min(entry.last, range.last.rawValue)
            pieces.append(
                Piece(
                    store: entry.store, offset: entry.offset &+ (next - entry.first), byteCount: last - next + 1,
                    grantableRights: entry.grantableRights))
            if last == range.last.rawValue { break }
            next = last + 1
            index += 1
        }
        return place(pieces, at: address, rights, space, answer)
    }

    private mutating func place(
        _ pieces: [Piece], at address: UInt64?, _ rights: AccessRights, _ space: Int, _ answer: Outcome
    ) -> Outcome {
        let unit = alignment(space)
        let total = pieces.reduce(0) { $0 + $1.byteCount }
        if total % unit != 0 { return .failed(.invalid) }
        let first: UInt64
        if let address {
            if address % unit != 0 { return .failed(.invalid) }
            guard let whole = try? IOVARange(first: IOVA(address), byteCount: total) else { return .failed(.overflow) }
            if spaces[space].reservations.contains(where: whole.overlaps) { return .failed(.invalid) }
            if hasEntry(space, overlapping: whole) { return .failed(.exists) }
            first = address
        } else {
            switch findPlace(total, of: pieces[0], space, answer) {
            case .success(let place): first = place
            case .failure(let error): return .failed(error)
            }
        }
        var entries: [Entry] = []
        var next = first
        for piece in pieces {
            if !piece.grantableRights.isSuperset(of: rights) { return .failed(.notPermitted) }
            if !isRemote(piece.store) && !files[piece.store].isWritable && rights.contains(.write) {
                return .failed(.notPermitted)
            }
            if next % unit != 0 || piece.byteCount % unit != 0 { return .failed(.invalid) }
            if !isRemote(piece.store) {
                if piece.offset % unit != 0 { return .failed(.invalid) }
                if piece.offset + piece.byteCount > files[piece.store].byteCount { return .failed(.invalid) }
            }
            // A peer knows its memory under the address where it was mapped first.
            let isNew = isRemote(piece.store) && linkCounts[piece.store] == nil
            entries.append(
                Entry(
                    first: next, last: next + (piece.byteCount - 1), store: piece.store,
                    offset: isNew ? next : piece.offset, rights: rights, grantableRights: piece.grantableRights))
            next &+= piece.byteCount
        }
        spaces[space].entries.insert(contentsOf: entries, at: index(space, notBelow: first))
        for entry in entries where isRemote(entry.store) {
            linkCounts[entry.store, default: 0] += 1
            if stores[entry.store] == nil { stores[entry.store] = SparseBytes() }
        }
        return .placed(first)
    }

    /// Where memory that may lie anywhere has to lie. For memory that begins inside a page the address is the real
    /// space's choice, which is looked at instead.
    private func findPlace(
        _ byteCount: UInt64, of piece: Piece, _ space: Int, _ answer: Outcome
    ) -> Result<UInt64, DMAError> {
        if byteCount >= .max / 2 { return .failure(.overflow) }
        let address = isRemote(piece.store) ? 0 : piece.offset
        var step: UInt64 = 1
        while step < byteCount && step < 2 << 20 { step *= 2 }
        if address != 0 { step = min(step, address & (0 &- address)) }
        if step < alignment(space) { return .failure(.invalid) }
        if address % pageSize == 0 {
            guard let place = lowestPlace(byteCount, step: step, space) else { return .failure(.noSpace) }
            return .success(place)
        }
        guard case .placed(let place) = answer else {
            // Whole pages around the memory certainly suffice. What else may be wrong is looked for at any place.
            let place = lowestPlace(byteCount + pageSize, step: pageSize, space)
            return answer == .failed(.noSpace) && place == nil ? .failure(.noSpace) : .success(place ?? pageSize)
        }
        guard let whole = try? IOVARange(first: IOVA(place), byteCount: byteCount), place % step == 0,
            places(in: space).contains(where: { $0.contains(whole) }), !hasEntry(space, overlapping: whole)
        else { return .failure(.exists) }
        return .success(place)
    }

    /// The ranges in which a mapping that may lie anywhere may lie, those that are looked at first in front.
    private func places(in space: Int) -> [IOVARange] {
        let window = IOVARange(first: IOVA(pageSize), last: IOVA(.max - pageSize))
        let allowed = spaces[space].allowed
        let bases = allowed.isEmpty ? [window] : allowed.compactMap(window.intersection)
        let reserved = spaces[space].reservations.sorted { $0.first < $1.first }
        return bases.flatMap { base in
            var ranges: [IOVARange] = []
            var next = base.first.rawValue
            for reservation in reserved where reservation.overlaps(base) {
                if reservation.first.rawValue > next {
                    ranges.append(IOVARange(first: IOVA(next), last: IOVA(reservation.first.rawValue - 1)))
                }
                if reservation.last >= base.last { return ranges }
                next = max(next, reservation.last.rawValue + 1)
            }
            return ranges + [IOVARange(first: IOVA(next), last: base.last)]
        }
    }

    private func lowestPlace(_ byteCount: UInt64, step: UInt64, _ space: Int) -> UInt64? {
        for range in places(in: space) {
            var hole = range.first.rawValue
            var index = index(space, notBelow: hole)
            while true {
                let next = index < spaces[space].entries.count ? spaces[space].entries[index].first : nil
                let end = next.map { $0 > range.last.rawValue ? range.last.rawValue : $0 &- 1 } ?? range.last.rawValue
                let (sum, overflow) = hole.addingReportingOverflow(step - 1)
                let place = sum & ~(step - 1)
                if !overflow, next != 0, next.map({ $0 > hole }) ?? true, place <= end, end - place >= byteCount - 1 {
                    return place
                }
                guard let next, next <= range.last.rawValue, spaces[space].entries[index].last < range.last.rawValue
                else { break }
                hole = spaces[space].entries[index].last + 1
                index += 1
            }
        }
        return nil
    }

    private mutating func allow(_ ranges: [IOVARange], _ space: Int) -> Outcome {
        let sorted = ranges.sorted { $0.first < $1.first }
        if sorted.contains(where: { $0.first == $0.last }) { return .failed(.invalid) }
        if zip(sorted, sorted.dropFirst()).contains(where: { $0.overlaps($1) }) { return .failed(.invalid) }
        if sorted.contains(where: { range in spaces[space].reservations.contains(where: range.overlaps) }) {
            return .failed(.addressInUse)
        }
        spaces[space].allowed = sorted
        return .done
    }
}

// Unmapping and accesses

extension ReferenceModel {
    private mutating func unmap(_ request: IOVARange, _ space: Int) -> Outcome {
        let first = index(space, notBelow: request.first.rawValue)
        var end = first
        var byteCount: UInt64 = 0
        var error: DMAError?
        while end < spaces[space].entries.count, spaces[space].entries[end].first <= request.last.rawValue {
            let range = spaces[space].entries[end].range
            guard request.contains(range) else {
                error = .notFound
                break
            }
            if spaces[space].entries[end].pinCount > 0 {
                spaces[space].entries[end].isBlocked = true
                tell(range, in: space, times: isObedient ? 1 : rounds)
                guard isObedient else {
                    error = .deadlock
                    break
                }
                unpin { $0.range.overlaps(range) }
            }
            byteCount += range.byteCount
            end += 1
        }
        for entry in spaces[space].entries[first..<end] where isRemote(entry.store) { unlink(entry.store) }
        spaces[space].entries.removeSubrange(first..<end)
        if let error { return .failed(error) }
        return first == end && request != .everything ? .failed(.notFound) : .removed(byteCount)
    }

    private mutating func unlink(_ store: Int) {
        let count = (linkCounts[store] ?? 0) - 1
        linkCounts[store] = count > 0 ? count : nil
        guard count == 0 else { return }
        stores[store] = nil
        revoked.append(store)
    }

    private mutating func tell(_ range: IOVARange, in space: Int, times: Int) {
        for device in attached.indices where attached[device] == space {
            heard[device] += [IOVARange](repeating: range, count: times)
        }
    }

    private mutating func pin(_ range: IOVARange, _ rights: AccessRights) -> Outcome {
        if rights.isEmpty { return .failed(.invalid) }
        guard let space = attached[0] else { return .failed(.notFound) }
        var segments: [Outcome.Segment] = []
        let first = index(space, notBelow: range.first.rawValue)
        var next = range.first.rawValue
        var index = first
        while true {
            guard index < spaces[space].entries.count, spaces[space].entries[index].first <= next else {
                return .failed(.notFound)
            }
            let entry = spaces[space].entries[index]
            if entry.isBlocked || isRemote(entry.store) { return .failed(.invalid) }
            let last = min(entry.last, range.last.rawValue)
            let place = entry.offset + (next - entry.first)
            let end = place + (last - next) + 1
            if place % pageSize != 0 { return .failed(.invalid) }
            if last != range.last.rawValue && end % pageSize != 0 { return .failed(.invalid) }
            if !entry.rights.isSuperset(of: rights) { return .failed(.notPermitted) }
            let segment = Outcome.Segment(address: files[entry.store].base + UInt(place), byteCount: Int(end - place))
            if let before = segments.last, before.address + UInt(before.byteCount) == segment.address,
                spaces[space].entries[index - 1].store == entry.store
            {
                segments[segments.count - 1] = Outcome.Segment(
                    address: before.address, byteCount: before.byteCount + segment.byteCount)
            } else {
                segments.append(segment)
            }
            index += 1
            if last == range.last.rawValue { break }
            next = last + 1
        }
        for index in first..<index { spaces[space].entries[index].pinCount += 1 }
        pins.append(Pin(range: range, entries: spaces[space].entries[first..<index].map(\.first)))
        return .pinned(segments)
    }

    private mutating func unpin(_ isDue: (Pin) -> Bool) {
        for pin in pins where isDue(pin) { uncount(pin) }
        pins.removeAll(where: isDue)
    }

    private mutating func uncount(_ pin: Pin) {
        guard let space = attached[0], let first = pin.entries.first else { return }
        let start = index(space, notBelow: first)
        for index in start..<start + pin.entries.count { spaces[space].entries[index].pinCount -= 1 }
    }

    /// The length of the first part of a transfer, where it is in which store, or why there is none.
    private func step(
        at address: UInt64, upTo byteCount: Int, _ rights: AccessRights, _ space: Int
    ) -> Result<(store: Int, place: UInt64, byteCount: Int), DMAError> {
        guard let entry = entry(space, at: address) else { return .failure(.notFound) }
        if entry.isBlocked { return .failure(.invalid) }
        if !entry.rights.isSuperset(of: rights) { return .failure(.notPermitted) }
        let rest = entry.last - address
        let count = rest >= UInt64(byteCount) ? byteCount : Int(rest) + 1
        return .success((entry.store, entry.offset &+ (address - entry.first), count))
    }

    private func read(_ range: IOVARange, _ space: Int?) -> Outcome {
        var buffer = [UInt8](repeating: Outcome.unread, count: Int(range.byteCount))
        guard let space else { return .read(buffer, .notFound) }
        var done = 0
        while done < buffer.count {
            switch step(at: range.first.rawValue + UInt64(done), upTo: buffer.count - done, .read, space) {
            case .failure(let error): return .read(buffer, error)
            case .success(let (store, place, count)):
                unsafe buffer.withUnsafeMutableBytes {
                    unsafe stores[store]?.read(at: place, into: .init(rebasing: $0[done..<done + count]))
                }
                done += count
            }
        }
        return .read(buffer, nil)
    }

    private mutating func write(_ bytes: [UInt8], at first: UInt64, _ space: Int?) -> Outcome {
        guard let range = try? IOVARange(first: IOVA(first), byteCount: UInt64(bytes.count)) else {
            return .failed(bytes.isEmpty ? .invalid : .overflow)
        }
        guard let space else { return .failed(.notFound) }
        var done = 0
        while done < bytes.count {
            switch step(at: range.first.rawValue + UInt64(done), upTo: bytes.count - done, .write, space) {
            case .failure(let error): return .failed(error)
            case .success(let (store, place, count)):
                unsafe bytes.withUnsafeBytes {
                    unsafe stores[store]?.write(.init(rebasing: $0[done..<done + count]), at: place)
                }
                done += count
            }
        }
        return .done
    }

    /// Whether an access that pins can come to a space.
    private func isMadeOfPages(_ space: Int) -> Bool {
        spaces[space].entries.allSatisfy { entry in
            let offset = isRemote(entry.store) ? 0 : entry.offset
            return (entry.first | (entry.last &+ 1) | offset) % pageSize == 0
        }
    }

    private mutating func attach(_ device: Operation.Device, _ space: Int) -> Outcome {
        if attached[device.rawValue] != nil { return .failed(.invalid) }
        if device == .pinning && !isMadeOfPages(space) { return .failed(.addressInUse) }
        attached[device.rawValue] = space
        return .done
    }

    private mutating func replace(_ device: Operation.Device, with space: Int) -> Outcome {
        guard let old = attached[device.rawValue] else { return .failed(.notFound) }
        if old == space { return .done }
        if device == .pinning && !isMadeOfPages(space) { return .failed(.addressInUse) }
        return leave(device, for: space)
    }

    private mutating func leave(_ device: Operation.Device, for space: Int?) -> Outcome {
        let isStuck = device == .pinning && !isObedient && !pins.isEmpty
        heard[device.rawValue] = [IOVARange](repeating: .everything, count: isStuck ? rounds : 1)
        if isStuck { return .failed(.deadlock) }
        if device == .pinning { unpin { _ in true } }
        attached[device.rawValue] = space
        return .done
    }
}
