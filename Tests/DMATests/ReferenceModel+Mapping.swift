import DMA

extension ReferenceModel {
    mutating func map(
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

    mutating func copy(
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
            if entry.isBlocked { return .failed(.invalid) }
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
        if consumers[space]?.isRefusing == true {
            consumers[space]?.isRefusing = false
            return .failed(.outOfMemory)
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

    mutating func allow(_ ranges: [IOVARange], _ space: Int) -> Outcome {
        let sorted = ranges.sorted { $0.first < $1.first }
        if sorted.contains(where: { $0.first == $0.last }) { return .failed(.invalid) }
        if zip(sorted, sorted.dropFirst()).contains(where: { $0.overlaps($1) }) { return .failed(.invalid) }
        if sorted.contains(where: { range in spaces[space].reservations.contains(where: range.overlaps) }) {
            return .failed(.addressInUse)
        }
        spaces[space].allowed = sorted
        return .done
    }

    mutating func attachConsumer(_ granule: UInt64, _ isRefusing: Bool, _ space: Int) -> Outcome {
        if consumers[space] != nil { return .failed(.exists) }
        if granule > alignment(space) && !isMadeOfPages(space) { return .failed(.addressInUse) }
        if isRefusing && !spaces[space].entries.isEmpty { return .failed(.outOfMemory) }
        consumers[space] = Consumer(granule: granule, isRefusing: isRefusing)
        return .done
    }
}
