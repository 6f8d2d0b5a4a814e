import DMA
import LinuxHost
import Randomness
import Testing

@testable import VirtioIOMMU

@Suite struct `The table of mappings` {
    private func mapping(_ first: UInt64, _ last: UInt64) -> GuestMapping {
        GuestMapping(
            range: IOVARange(first: IOVA(first), last: IOVA(last)), physical: first, rights: .read, request: 0,
            time: .now)
    }

    private func range(_ first: UInt64, _ last: UInt64) -> IOVARange { IOVARange(first: IOVA(first), last: IOVA(last)) }

    @Test func `an empty table has nothing`() {
        var table = GuestMappingTable()
        #expect(table.mapping(at: IOVA(0)) == nil && !table.overlaps(.everything) && !table.isSplit(by: range(3, 4)))
        table.removeAll(in: .everything) { _ in Issue.record("something is removed") }
        #expect(table.count == 0)
    }

    @Test func `the ends of the address space are ordinary addresses`() {
        var table = GuestMappingTable()
        table.insert(mapping(UInt64.max - 1, .max))
        table.insert(mapping(0, 1))
        #expect(table.mapping(at: IOVA(.max)) != nil && table.mapping(at: IOVA(0)) != nil)
        #expect(table.isSplit(by: range(1, .max)) && table.isSplit(by: range(0, UInt64.max - 1)))
        #expect(!table.isSplit(by: .everything))
        table.removeAll(in: .everything) { _ in }
        #expect(table.count == 0 && !table.overlaps(.everything))
    }

    @Test(arguments: [(16, true), (5000, false)])
    func `only so much memory is kept of what one request has unmapped`(count: UInt64, isKept: Bool) throws {
        var domain = Domain(id: DomainID(1), serial: DomainSerial(rawValue: 0), space: IOAddressSpace())
        for page in 0..<count {
            let map = MapRequest(
                domain: domain.id, first: page << 12, last: page << 12 | 0xfff, physical: 0, flags: .read)
            _ = try domain.map(map, number: page, at: .now, VirtioIOMMU.Options())
        }
        var history = MappingHistory()
        let unmap = UnmapRequest(domain: domain.id, first: 0, last: .max)
        try domain.unmap(unmap, number: count, at: .now, &history)
        #expect(domain.leaving.count == count && domain.isLeaving(range(0, 0)))
        domain.forgetLeaving()
        #expect(domain.leaving.isEmpty && !domain.isLeaving(.everything))
        #expect((domain.leaving.capacity > 0) == isKept)
    }

    /// Slots of ten addresses, each with a mapping of all of it or none, against a set of slots.
    @Test(arguments: 1...6)
    func `answers as a set of slots does`(seed: Int) {
        var numbers = SeededNumbers(seed: UInt64(seed))
        let slotCount: UInt64 = seed % 2 == 0 ? 40 : 4000
        var table = GuestMappingTable()
        var model: Set<UInt64> = []
        for _ in 0..<20_000 {
            let slot = numbers.next(below: slotCount)
            switch numbers.next(below: 4) {
            case 0, 1:
                let isFree = !model.contains(slot)
                #expect(table.overlaps(range(slot * 10, slot * 10 + 9)) == !isFree)
                if isFree {
                    table.insert(mapping(slot * 10, slot * 10 + 9))
                    model.insert(slot)
                }
            case 2:
                let last = min(slotCount - 1, slot + numbers.next(below: numbers.next(below: 20) == 0 ? slotCount : 4))
                var removed: [UInt64] = []
                table.removeAll(in: range(slot * 10, last * 10 + 9)) { removed.append($0.range.first.rawValue / 10) }
                #expect(removed == model.filter { (slot...last).contains($0) }.sorted())
                model.subtract(removed)
            default:
                let address = slot * 10 + numbers.next(below: 10)
                #expect((table.mapping(at: IOVA(address)) != nil) == model.contains(slot))
                let end = address + numbers.next(below: 30)
                let splits = [address, end].contains { (edge: UInt64) -> Bool in
                    let start: UInt64 = edge / 10 * 10
                    return model.contains(edge / 10) && (start < address || start + 9 > end)
                }
                #expect(table.isSplit(by: range(address, end)) == splits)
            }
            #expect(table.count == model.count)
        }
        var all: [UInt64] = []
        table.forEach { all.append($0.range.first.rawValue / 10) }
        #expect(all == model.sorted())
    }
}

@Suite struct `The history of mappings` {
    private func entry(_ number: UInt64, at address: UInt64, domain: UInt64 = 1) -> MappingHistory.Entry {
        let mapping = GuestMapping(
            range: IOVARange(first: IOVA(address), last: IOVA(address + 9)), physical: 0, rights: .read,
            request: number, time: .now)
        return MappingHistory.Entry(
            domain: DomainSerial(rawValue: domain),
            ended: EndedMapping(mapping: mapping, request: number + 1, time: .now))
    }

    @Test func `the latest mapping of an address counts, of its domain alone`() {
        var history = MappingHistory()
        history.append(entry(1, at: 0))
        history.append(entry(5, at: 5))
        history.append(entry(9, at: 0, domain: 2))
        #expect(history.last(at: IOVA(3), in: DomainSerial(rawValue: 1), mappedBefore: .now)?.mapping.request == 1)
        #expect(history.last(at: IOVA(7), in: DomainSerial(rawValue: 1), mappedBefore: .now)?.mapping.request == 5)
        #expect(history.last(at: IOVA(3), in: DomainSerial(rawValue: 2), mappedBefore: .now)?.mapping.request == 9)
        #expect(history.last(at: IOVA(15), in: DomainSerial(rawValue: 1), mappedBefore: .now) == nil)
    }

    @Test func `as many as there is room for are remembered, with their times`() {
        var history = MappingHistory()
        let count = UInt64(MappingHistory.capacity)
        for number in 0..<count { history.append(entry(number, at: number * 10)) }
        #expect(!history.hasForgotten)
        for number in count..<count + 100 { history.append(entry(number, at: number * 10)) }
        #expect(history.hasForgotten)
        let domain = DomainSerial(rawValue: 1)
        #expect(history.last(at: IOVA(99 * 10), in: domain, mappedBefore: .now) == nil)
        #expect(history.last(at: IOVA(100 * 10), in: domain, mappedBefore: .now)?.mapping.request == 100)
        let latest = history.last(at: IOVA((count + 99) * 10), in: domain, mappedBefore: .now)
        #expect(latest?.mapping.request == count + 99)
        // What was mapped after a time says nothing about it.
        let early = latest?.mapping.time ?? .now
        history.append(entry(count + 100, at: (count + 99) * 10))
        #expect(history.last(at: IOVA((count + 99) * 10), in: domain, mappedBefore: early) == latest)
    }
}

@Suite struct `The limit of what is told` {
    @Test func `lets so many through in a second, and then says how many it held back`() {
        var limit = RateLimit()
        let start = MonotonicInstant.now
        for _ in 0..<RateLimit.perSecond { #expect(limit.admit(at: start) == 0) }
        for _ in 0..<10 { #expect(limit.admit(at: start) == nil) }
        let next = MonotonicInstant.after(.seconds(2))
        #expect(limit.admit(at: next) == 10)
        for _ in 1..<RateLimit.perSecond { #expect(limit.admit(at: next) == 0) }
        #expect(limit.admit(at: next) == nil)
    }
}

extension SeededNumbers {
    mutating func next(below limit: UInt64) -> UInt64 { next() % limit }
}
