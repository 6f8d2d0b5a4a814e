import DMA
import LinuxHost
import Testing

/// Unmapping many ranges as one operation.
@Suite struct `Unmapping in batches` {
    let object: MemoryObject

    init() throws {
        object = try .anonymous(byteCount: 2048 * Int(page))
    }

    private func space(with ranges: [IOVARange], rounds: Int = 100, wait: Duration = .seconds(1)) throws
        -> IOAddressSpace
    {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = rounds
        configuration.unmapWait = wait
        let space = IOAddressSpace(configuration)
        for range in ranges { try space.map(object, pages: range) }
        return space
    }

    @Test func `ranges in any order, overlapping or empty, are unmapped and the sum is returned`() throws {
        let space = try space(with: [pages(1), pages(3, 2), pages(9), pages(20), pages(30)])
        #expect(try space.unmapAll(in: [pages(19, 3), pages(40), pages(0, 6), pages(3, 2), pages(2, 8)]) == 5 * page)
        #expect(space.ranges == [pages(30)])
        #expect(try space.unmapAll(in: []) == 0)
        #expect(try space.unmapAll(in: [pages(1), pages(3, 2)]) == 0)
        #expect(try space.unmapAll(in: [.everything, .everything]) == page)
        #expect(try space.unmapAll(in: [.everything]) == 0)
    }

    @Test func `the last byte of the space is an ordinary one`() throws {
        let space = try space(with: [pages(0)])
        try space.map(.file(object, offset: 0), at: iova(.max), byteCount: 1, rights: .read)
        #expect(try space.unmapAll(in: [range(.max, .max), range(.max - 1, .max), pages(0)]) == page + 1)
        #expect(space.mappings() == [])
    }

    @Test func `V39 a mapping that reaches beyond its range keeps the whole batch from happening`() throws {
        let ranges = [pages(1), pages(4, 4), pages(12)]
        let space = try space(with: ranges)
        let holder = PinHolder()
        try holder.access.attach(to: space)
        try holder.pin(pages(1))
        for split in [pages(4, 3), pages(5, 3), pages(5, 1), pages(0, 6), pages(7, 20)] {
            #expect(throws: DMAError.notFound) { try space.unmapAll(in: [pages(1), split, pages(12)]) }
            #expect(throws: DMAError.notFound) { try space.unmapAll(in: [split]) }
            #expect(space.splitsMapping(split, after: [pages(1)]))
        }
        // Two ranges that only have the mapping together.
        #expect(throws: DMAError.notFound) { try space.unmapAll(in: [pages(4, 2), pages(6, 2)]) }
        #expect(throws: DMAError.notFound) { try space.unmapAll(in: [pages(3, 4), pages(5, 4)]) }
        // The range that has all of it comes later.
        #expect(throws: DMAError.notFound) { try space.unmapAll(in: [pages(4, 2), pages(4, 4)]) }
        #expect(space.ranges == ranges)
        #expect(space.mappings().allSatisfy { !$0.isBlocked })
        #expect(holder.heard == [])
        holder.access.destroy()
    }

    @Test func `a range may lie in the middle of what an earlier one removes`() throws {
        let space = try space(with: [pages(4, 4), pages(9)])
        #expect(!space.splitsMapping(pages(5), after: [pages(3, 5)]))
        #expect(space.splitsMapping(pages(5), after: [pages(4, 3)]))
        #expect(try space.unmapAll(in: [pages(3, 5), pages(5), pages(7, 3)]) == 5 * page)
        #expect(space.mappings() == [])
    }

    @Test func `V49 the examples of the virtio specification`() throws {
        func outcome(_ mapped: [(UInt64, UInt64)], _ request: (UInt64, UInt64)) throws -> (DMAError?, [IOVARange]) {
            let space = IOAddressSpace()
            for (first, last) in mapped {
                try space.map(.file(object, offset: 0), at: iova(first), byteCount: last - first + 1, rights: .read)
            }
            let error = errorOf { () throws(DMAError) in try space.unmapAll(in: [range(request.0, request.1)]) }
            return (error, space.ranges)
        }
        #expect(try outcome([], (0, 4)) == (nil, []))
        #expect(try outcome([(0, 9)], (0, 9)) == (nil, []))
        #expect(try outcome([(0, 4), (5, 9)], (0, 9)) == (nil, []))
        #expect(try outcome([(0, 9)], (0, 4)) == (.notFound, [range(0, 9)]))
        #expect(try outcome([(0, 4), (5, 9)], (0, 4)) == (nil, [range(5, 9)]))
        #expect(try outcome([(0, 4)], (0, 9)) == (nil, []))
        #expect(try outcome([(0, 4), (10, 14)], (0, 14)) == (nil, []))
    }

    @Test func `R90 only mappings with pins have callbacks, when all the others are gone`() throws {
        let space = try space(with: [pages(1), pages(2), pages(3, 2), pages(600), pages(9)])
        let seen = Shared<[[IOVARange]]>([])
        let holder = PinHolder()
        let witness = DMAAccess(needsPin: false) { range in seen.update { $0.append([range] + space.ranges) } }
        try holder.access.attach(to: space)
        try witness.attach(to: space)
        try holder.pin(pages(4))
        try holder.pin(pages(9))
        #expect(try space.unmapAll(in: [pages(600), pages(9), pages(1, 4)]) == 6 * page)
        #expect(holder.heard == [pages(3, 2), pages(9)])
        let rest = [pages(3, 2), pages(9)]
        #expect(seen.value == [[pages(3, 2)] + rest, [pages(9)] + rest])
        #expect(space.mappings() == [])
        holder.access.destroy()
        witness.destroy()
    }

    @Test func `R86 all mappings are closed before the first callback`() throws {
        let space = try space(with: [pages(1), pages(2), pages(7)])
        let holder = PinHolder()
        let states = Shared<[[MappingSnapshot]]>([])
        let witness = DMAAccess(needsPin: false) { _ in states.update { $0.append(space.mappings()) } }
        try witness.attach(to: space)
        try holder.access.attach(to: space)
        for page in [1, 7] as [UInt64] { try holder.pin(pages(page)) }
        try space.unmapAll(in: [pages(7), pages(1)])
        let open = MappingSnapshot(pages(2), [.read, .write])
        #expect(
            states.value == [
                [
                    MappingSnapshot(pages(1), [.read, .write], pins: 1, isBlocked: true), open,
                    MappingSnapshot(pages(7), [.read, .write], pins: 1, isBlocked: true),
                ],
                [
                    MappingSnapshot(pages(1), [.read, .write], isBlocked: true), open,
                    MappingSnapshot(pages(7), [.read, .write], pins: 1, isBlocked: true),
                ],
            ])
        #expect(space.ranges == [pages(2)])
        holder.access.destroy()
        witness.destroy()
    }

    @Test func `a callback that releases a pin on several mappings is the only one`() throws {
        let space = try space(with: [pages(1), pages(2), pages(3)])
        let holder = PinHolder()
        try holder.access.attach(to: space)
        try holder.pin(pages(1, 3))
        #expect(try space.unmapAll(in: [pages(3), pages(2), pages(1)]) == 3 * page)
        #expect(holder.heard == [pages(1)])
        holder.access.destroy()
    }

    @Test func `R87, R88 pins that stay keep only their mappings, and a later batch goes on with them`() throws {
        let space = try space(with: (1...6).map { pages($0) }, rounds: 3, wait: .milliseconds(3))
        let calls = Shared<[IOVARange]>([])
        let access = DMAAccess(needsPin: true) { range in calls.update { $0.append(range) } }
        try access.attach(to: space)
        let boxes = try [2, 4].map { PinnedBox(try access.pin(pages($0), rights: .read)) }
        let batch = [pages(5), pages(4), pages(3), pages(2), pages(1)]
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmapAll(in: batch) } }
        // One after the other in each of three rounds.
        #expect(calls.value == [pages(2), pages(4), pages(2), pages(4), pages(2), pages(4)])
        let closed = [2, 4].map { MappingSnapshot(pages($0), [.read, .write], pins: 1, isBlocked: true) }
        #expect(space.mappings() == closed + [MappingSnapshot(pages(6), [.read, .write])])
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(2)) } == .invalid)

        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmapAll(in: batch) } }
        #expect(calls.value.count == 12)
        boxes[0].unpin()
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmapAll(in: batch) } }
        #expect(calls.value.suffix(3) == [pages(4), pages(4), pages(4)])
        #expect(space.ranges == [pages(4), pages(6)])
        boxes[1].unpin()
        // A mapping that was closed stays so without pins.
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(4)) } == .invalid)
        #expect(try space.unmapAll(in: batch) == page)
        #expect(calls.value.count == 15)
        #expect(space.ranges == [pages(6)])
        access.destroy()
    }

    @Test func `all pins of a batch have the time of one mapping together`() throws {
        // If each had it for itself, this would take three minutes.
        let all = (0..<600).map { pages($0 * 2) }
        let space = try space(with: all, rounds: 3, wait: .milliseconds(300))
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        let boxes = try all.map { PinnedBox(try access.pin($0, rights: .read)) }
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmapAll(in: all) } }
        #expect(space.mappings().allSatisfy { $0.isBlocked && $0.pinCount == 1 })
        #expect(space.mappings().count == 600)
        for box in boxes { box.unpin() }
        #expect(try space.unmapAll(in: all) == 600 * page)
        access.destroy()
    }

    @Test func `R62 a batch waits for pins that another thread releases, the last first`() throws {
        let all = (1...20).map { pages($0) }
        let space = try space(with: all, rounds: 1, wait: .seconds(3600))
        let asked = Shared(0)
        let access = DMAAccess(needsPin: true) { _ in asked.update { $0 += 1 } }
        try access.attach(to: space)
        let boxes = try all.map { PinnedBox(try access.pin($0, rights: .write)) }
        let thread = try OSThread(name: "releaser") {
            asked.wait { $0 == 20 }
            for box in boxes.reversed() { box.unpin() }
        }
        #expect(try space.unmapAll(in: all) == 20 * page)
        #expect(asked.value == 20)
        thread.join()
        access.destroy()
    }

    @Test func `M30 while a batch asks, other mappings come and go, and what it has removed is free`() throws {
        let space = try space(with: [pages(1), pages(2), pages(5)])
        let holder = PinHolder()
        let (entered, mayLeave) = (Shared(false), Shared(false))
        let gate = DMAAccess(needsPin: false) { _ in
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        try gate.attach(to: space)
        try holder.access.attach(to: space)
        try holder.pin(pages(2))
        let removed = Shared<UInt64>(0)
        let thread = try OSThread(name: "unmapper") {
            let count = try? space.unmapAll(in: [pages(1), pages(2)])
            removed.update { $0 = count ?? 0 }
        }
        entered.wait { $0 }
        try space.map(object, pages: pages(1))
        #expect(throws: DMAError.exists) { try space.map(object, pages: pages(2)) }
        #expect(try space.unmap(pages(5)) == page)
        #expect(try space.unmapAll(in: [pages(1), pages(7)]) == page)
        mayLeave.update { $0 = true }
        thread.join()
        #expect(removed.value == 2 * page)
        #expect(space.mappings() == [])
        holder.access.destroy()
        gate.destroy()
    }

    @Test func `M30 two batches of the same mappings share them: each byte is counted once`() throws {
        for round in 0..<40 as Range<UInt64> {
            let all = (0..<64).map { pages($0 * 3) }
            let space = try space(with: all)
            let holder = PinHolder()
            try holder.access.attach(to: space)
            for range in all where range.first.rawValue / page % 5 == round % 5 { try holder.pin(range) }
            let bytes = Shared<UInt64>(0)
            let threads = try [all, all.reversed()].map { batch in
                try OSThread(name: "unmapper") {
                    let count = (try? space.unmapAll(in: batch)) ?? 0
                    bytes.update { $0 += count }
                }
            }
            for thread in threads { thread.join() }
            #expect(bytes.value == 64 * page)
            #expect(space.mappings() == [])
            holder.access.destroy()
        }
    }

    @Test func `a batch of thousands, with and without pins, is one operation`() throws {
        let all = (0..<2000).map { pages(($0 * 7919) % 2000) }
        let space = try space(with: all)
        let holder = PinHolder()
        try holder.access.attach(to: space)
        for number in stride(from: 0, to: 2000, by: 100) { try holder.pin(pages(UInt64(number))) }
        #expect(try space.unmapAll(in: all) == 2000 * page)
        #expect(holder.heard == stride(from: 0, to: 2000, by: 100).map { pages(UInt64($0)) })
        #expect(holder.pinCount == 0)
        holder.access.destroy()
    }

    @Test func `consumers forget each mapping of a batch, and one that just comes or goes is passed over`() throws {
        let space = try space(with: [])
        let forgotten = Shared<[IOVARange]>([])
        let mapping = Shared(false)
        let mayReturn = Shared(false)
        let consumer = WatchedConsumer { _ in
        } unmap: { range in
            forgotten.update { $0.append(range) }
        }
        try space.attach(consumer)
        for page in [1, 2, 4] as [UInt64] { try space.map(object, pages: pages(page)) }
        consumer.whenMapping { range in
            guard range == pages(3) else { return }
            mapping.update { $0 = true }
            mayReturn.wait { $0 }
        }
        let mapper = try OSThread(name: "mapper") { [object] in try? space.map(object, pages: pages(3)) }
        mapping.wait { $0 }
        #expect(throws: DMAError.busy) { try space.unmapAll(in: [pages(4), pages(3), pages(1)]) }
        #expect(forgotten.value == [pages(1), pages(4)])
        #expect(space.ranges == [pages(2), pages(3)])
        mayReturn.update { $0 = true }
        mapper.join()
        #expect(try space.unmapAll(in: [pages(2), pages(3)]) == 2 * page)
        #expect(forgotten.value == [pages(1), pages(4), pages(2), pages(3)])
        space.detach(consumer)
    }

    @Test func `remote memory is revoked when the last mapping of it goes with a batch`() throws {
        let peer = PeerMemory(byteCount: 4 * Int(page))
        let space = IOAddressSpace()
        try space.map(.remote(peer), at: iova(0), byteCount: page, rights: .read)
        try space.copy(pages(0), from: space, to: iova(8 * page), rights: .read)
        try space.unmapAll(in: [pages(8)])
        #expect(peer.revocations == 0)
        try space.unmapAll(in: [pages(8), pages(0)])
        #expect(peer.revocations == 1)
    }
}
