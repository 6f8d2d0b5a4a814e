import DMA

extension ReferenceModel {
    mutating func unmap(_ request: IOVARange, _ space: Int) -> Outcome {
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

    /// Takes out what has no pins; then tells of the others in turns, as long as there are some.
    mutating func unmapAll(_ requests: [IOVARange], _ space: Int) -> Outcome {
        var chosen: Set<UInt64> = []
        for (number, request) in requests.enumerated() {
            for entry in spaces[space].entries[indices(space, overlapping: request)] {
                let isWhole = requests[...number].contains { $0.contains(entry.range) }
                if !isWhole { return .failed(.notFound) }
                chosen.insert(entry.first)
            }
        }
        for index in spaces[space].entries.indices where chosen.contains(spaces[space].entries[index].first) {
            if spaces[space].entries[index].pinCount > 0 { spaces[space].entries[index].isBlocked = true }
        }
        for _ in 0..<rounds {
            for first in chosen.sorted() {
                guard let entry = entry(space, at: first), entry.pinCount > 0 else { continue }
                tell(entry.range, in: space, times: 1)
                if isObedient { unpin { $0.range.overlaps(entry.range) } }
            }
        }
        let goes = { (entry: Entry) in chosen.contains(entry.first) && entry.pinCount == 0 }
        let gone = spaces[space].entries.filter(goes)
        for entry in gone where isRemote(entry.store) { unlink(entry.store) }
        spaces[space].entries.removeAll(where: goes)
        if gone.count < chosen.count { return .failed(.deadlock) }
        return .removed(gone.reduce(0) { $0 + $1.range.byteCount })
    }

    private func indices(_ space: Int, overlapping range: IOVARange) -> Range<Int> {
        let first = index(space, notBelow: range.first.rawValue)
        var end = first
        while end < spaces[space].entries.count, spaces[space].entries[end].first <= range.last.rawValue { end += 1 }
        return first..<end
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

    mutating func pin(_ range: IOVARange, _ rights: AccessRights) -> Outcome {
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

    mutating func uncount(_ pin: Pin) {
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

    func read(_ range: IOVARange, _ space: Int?) -> Outcome {
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

    mutating func write(_ bytes: [UInt8], at first: UInt64, _ space: Int?) -> Outcome {
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
    func isMadeOfPages(_ space: Int) -> Bool {
        spaces[space].entries.allSatisfy { entry in
            let offset = isRemote(entry.store) ? 0 : entry.offset
            return (entry.first | (entry.last &+ 1) | offset) % pageSize == 0
        }
    }

    mutating func attach(_ device: Operation.Device, _ space: Int) -> Outcome {
        if attached[device.rawValue] != nil { return .failed(.invalid) }
        if device == .pinning && !isMadeOfPages(space) { return .failed(.addressInUse) }
        attached[device.rawValue] = space
        return .done
    }

    mutating func replace(_ device: Operation.Device, with space: Int) -> Outcome {
        guard let old = attached[device.rawValue] else { return .failed(.notFound) }
        if old == space { return .done }
        if device == .pinning && !isMadeOfPages(space) { return .failed(.addressInUse) }
        return leave(device, for: space)
    }

    mutating func leave(_ device: Operation.Device, for space: Int?) -> Outcome {
        let isStuck = device == .pinning && !isObedient && !pins.isEmpty
        heard[device.rawValue] = [IOVARange](repeating: .everything, count: isStuck ? rounds : 1)
        if isStuck { return .failed(.deadlock) }
        if device == .pinning { unpin { _ in true } }
        attached[device.rawValue] = space
        return .done
    }
}
