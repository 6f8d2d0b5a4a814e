import DMA
import Randomness

/// What a run does next: mostly what can succeed, and now and then each thing that cannot.
extension RandomRun {
    private mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }

    private mutating func below(_ limit: UInt64) -> UInt64 { UInt64.random(in: 0..<limit, using: &random) }

    mutating func turnTide() {
        nextTurn = operationCount + Int.random(in: 200..<(chance(15) ? 8000 : 1500), using: &random)
        for space in 0..<2 {
            let levels = [2, 20, 58, 62, 66, 70, 100, 200, 500, 1500, 4000]
            tides[space] = levels.randomElement(using: &random) ?? 0
        }
        isCrooked = chance(20)
    }

    mutating func next() -> Operation {
        let space = Int.random(in: 0..<2, using: &random)
        let isGrowing = model.spaces[space].entries.count < tides[space]
        switch Int.random(in: 0..<1000, using: &random) {
        case 0..<300: return isGrowing ? grow(space) : shrink(space)
        case 300..<340: return isGrowing ? shrink(space) : grow(space)
        case 340..<450:
            guard let attached = model.attached[0] else { return read() }
            return .pin(rangeOfMappings(in: attached), rights())
        case 450..<550: return model.pins.isEmpty ? read() : .unpin(Int(below(UInt64(model.pins.count))))
        case 550..<750: return read()
        case 750..<910: return write()
        case 910..<970: return attachment(space)
        case 970..<980: return .obey(chance(60))
        default: return confinement(space)
        }
    }

    private mutating func device() -> Operation.Device { chance(50) ? .pinning : .plain }

    /// Rarely one that is not attached.
    private mutating func readingDevice() -> Operation.Device {
        let device = device()
        guard model.attached[device.rawValue] == nil, !chance(5) else { return device }
        return device == .pinning ? .plain : .pinning
    }

    private mutating func rights() -> AccessRights {
        switch below(20) {
        case 0: []
        case 1, 2: .write
        case 3..<7: .read
        default: [.read, .write]
        }
    }

    /// The first address of a page where mappings gather.
    private mutating func pageAddress() -> UInt64 {
        let around = Self.pagesAround
        let number = below(around)
        let last = UInt64.max / pageSize
        let pageNumber: UInt64
        switch below(5) {
        case 0: pageNumber = number
        case 1: pageNumber = (1 << 27) - around / 2 + number
        case 2: pageNumber = (1 << 36) - around / 2 + number
        case 3: pageNumber = last - number
        default: pageNumber = (1 << 27) + (number % 8) * (Self.hugePages / 2)
        }
        return pageNumber * pageSize
    }

    private mutating func byteCount() -> UInt64 {
        switch below(100) {
        case 0..<60: pageSize
        case 60..<85: (1 + below(16)) * pageSize
        case 85..<92: (100 + below(600)) * pageSize
        case 92..<95: 512 * pageSize
        case 95..<97: Self.hugePages * pageSize
        case 97: (Self.hugePages / 4 + below(Self.hugePages)) * pageSize
        case 98: below(3 * pageSize)
        default: [0, 1, .max, .max - pageSize, .max / 2, 1 << 62].randomElement(using: &random) ?? 0
        }
    }

    private mutating func memory(at address: UInt64) -> Operation.Memory {
        if chance(15) { return .remote }
        let file = Int(below(10))
        // Mostly so that neighbours in the space are neighbours in the file.
        let relative = address % (Self.pagesAround * pageSize)
        let any = below(Self.pagesAround) * pageSize
        return .file(file < 3 ? 1 : file == 3 ? 2 : 0, offset: chance(70) ? relative : any)
    }

    /// A mapping, or many.
    private mutating func grow(_ space: Int) -> Operation {
        if isCrooked && chance(40) {
            let address = pageAddress() + below(pageSize)
            let memory = chance(20) ? Operation.Memory.remote : .file(0, offset: below(8 * pageSize))
            return .map(
                memory, at: chance(15) ? nil : address, byteCount: 1 + below(2 * pageSize), rights(), space: space)
        }
        switch below(100) {
        case 0..<10:
            return .map(memory(at: pageAddress()), at: nil, byteCount: byteCount(), rights(), space: space)
        case 10..<25:
            let source = Int(below(2))
            return .copy(
                rangeOfMappings(in: source), from: source, to: chance(25) ? nil : pageAddress(), rights(), space: space)
        case 25..<40:
            let missing = tides[space] - model.spaces[space].entries.count
            let first = pageAddress()
            let stride = chance(50) ? pageSize : 2 * pageSize
            for number in 0..<UInt64(max(1, min(missing, 256))) {
                let (address, overflow) = first.addingReportingOverflow(number * stride)
                if overflow { break }
                queue.append(.map(memory(at: address), at: address, byteCount: pageSize, rights(), space: space))
            }
            return queue.popLast() ?? .obey(true)
        default:
            let address = chance(2) ? UInt64.max - below(2 * pageSize) : pageAddress()
            return .map(memory(at: address), at: address, byteCount: byteCount(), rights(), space: space)
        }
    }

    private mutating func shrink(_ space: Int) -> Operation {
        let entries = model.spaces[space].entries
        let excess = entries.count - tides[space]
        guard let index = entries.indices.randomElement(using: &random) else {
            return .unmap(chance(50) ? .everything : range(pageSize, 3 * pageSize), space: space)
        }
        switch below(100) {
        case 0..<15: return .unmapAll(rangesToUnmap(in: space), space: space)
        case 15..<60: return .unmap(entries[index].range, space: space)
        case 60..<70: return .unmap(rangeOfMappings(in: space), space: space)
        case 70..<99:
            let last = min(entries.count - 1, index + max(0, min(excess, 200)))
            return .unmap(range(entries[index].first, entries[last].last), space: space)
        default: return .unmap(tides[space] < 30 ? .everything : entries[index].range, space: space)
        }
    }

    /// Ranges of a batch: mostly of mappings far from each other, sometimes of what was pinned, now and then any.
    private mutating func rangesToUnmap(in space: Int) -> [IOVARange] {
        let entries = model.spaces[space].entries
        var ranges: [IOVARange] = []
        for _ in 0..<below(chance(10) ? 64 : 8) {
            switch below(40) {
            case 0: ranges.append(rangeOfMappings(in: space))
            case 1:
                let first = pageAddress()
                ranges.append(range(first, first + (pageSize - 1)))
            case 2..<10:
                // Whole mappings, which may be those of another range as well.
                let index = Int(below(UInt64(entries.count)))
                let last = entries[min(entries.count - 1, index + Int(below(4)))].last
                ranges.append(range(entries[index].first, last))
            case 10..<14 where !model.pins.isEmpty:
                let pinned = model.pins[Int(below(UInt64(model.pins.count)))].entries
                ranges += pinned.compactMap { model.entry(space, at: $0)?.range }
            default:
                if let entry = entries.randomElement(using: &random) { ranges.append(entry.range) }
            }
        }
        return ranges
    }

    /// A range that the mappings of a space suggest: one, some, a part of one or two, or a hole.
    private mutating func rangeOfMappings(in space: Int) -> IOVARange {
        let count = model.spaces[space].entries.count
        guard count > 0, !chance(3) else {
            let first = pageAddress()
            return range(first, first + (pageSize - 1))
        }
        let index = Int(below(UInt64(count)))
        let here = model.spaces[space].entries[index]
        switch below(20) {
        case 0..<10:
            return here.range
        case 10..<14:
            let last = model.spaces[space].entries[min(count - 1, index + Int(below(chance(5) ? 300 : 12)))].last
            return range(here.first, last)
        case 14..<16:
            // From a page inside to the end or a little behind it.
            let first = here.last & ~(pageSize - 1)
            let (last, overflow) = here.last.addingReportingOverflow(below(2) * pageSize)
            return range(max(here.first, first), overflow ? .max : last)
        case 16, 17:
            return range(here.first, here.first + (here.last - here.first) / 2)
        case 18:
            let first = here.first - min(here.first, pageSize)
            return range(first, here.last)
        default:
            let (first, last) = (here.first + min(here.last - here.first, below(pageSize)), here.last)
            return range(first, last)
        }
    }

    /// At most three pages, mostly a few bytes, mostly at the ends of mappings.
    private mutating func rangeOfBytes(in space: Int) -> IOVARange {
        let bounds = rangeOfMappings(in: space)
        let distance = bounds.last.rawValue - bounds.first.rawValue
        var count = chance(10) ? 1 + below(3 * pageSize) : 1 + below(64)
        if chance(70) { count = min(count, distance &+ 1 == 0 ? .max : distance + 1) }
        let first: UInt64
        switch below(4) {
        case 0: first = bounds.first.rawValue
        case 1: first = bounds.first.rawValue + min(distance, below(4 * pageSize))
        case 2: first = bounds.last.rawValue - min(bounds.last.rawValue, below(count))
        default: first = bounds.last.rawValue - min(bounds.last.rawValue, count - 1)
        }
        let (last, overflow) = first.addingReportingOverflow(count - 1)
        return range(first, overflow ? .max : last)
    }

    private mutating func read() -> Operation {
        let device = readingDevice()
        return .read(rangeOfBytes(in: model.attached[device.rawValue] ?? 0), device)
    }

    private mutating func write() -> Operation {
        let device = readingDevice()
        let range = rangeOfBytes(in: model.attached[device.rawValue] ?? 0)
        let extra = chance(1) ? 1 : 0
        return .write(
            at: range.first.rawValue, byteCount: chance(1) ? 0 : Int(range.byteCount) + extra,
            first: UInt8(truncatingIfNeeded: random.next()), device)
    }

    private mutating func attachment(_ space: Int) -> Operation {
        let device = device()
        if model.attached[device.rawValue] == nil, chance(80) { return .attach(device, space: space) }
        switch below(10) {
        case 0: return .attach(device, space: space)
        case 1, 2: return .detach(device)
        default: return .replace(device, space: space)
        }
    }

    private mutating func confinement(_ space: Int) -> Operation {
        let reservations = model.spaces[space].reservations.count
        switch below(16) {
        case 0..<3:
            let first = pageAddress()
            let (last, overflow) = first.addingReportingOverflow(below(40 * pageSize))
            return .reserve(range(first, overflow ? .max : last), space: space)
        case 3..<7 where reservations > 0:
            return .release(Int(below(UInt64(reservations))), space: space)
        case 7:
            let first = pageAddress() & ~(16 * pageSize - 1)
            let near = range(first, first + (16 * pageSize - 1))
            return .allow([near, range(1 << 40, (1 << 40) + below(64 * pageSize))], space: space)
        case 8, 9:
            return .attachConsumer(granule: chance(50) ? 1 : pageSize, isRefusing: chance(30), space: space)
        case 10, 11:
            return .detachConsumer(space: space)
        case 12..<14 where model.consumers[space] != nil:
            return .refuse(space: space)
        default:
            return .allow([], space: space)
        }
    }
}
