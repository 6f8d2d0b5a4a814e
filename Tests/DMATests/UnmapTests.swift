import DMA
import LinuxHost
import Testing

@Suite struct `Unmapping` {
    let object: MemoryObject

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
    }

    private func space(with ranges: IOVARange..., rounds: Int = 100, wait: Duration = .seconds(1)) throws
        -> IOAddressSpace
    {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = rounds
        configuration.unmapWait = wait
        let space = IOAddressSpace(configuration)
        for range in ranges { try space.map(object, pages: range) }
        return space
    }

    @Test func `M28 the sum of what was removed is returned`() throws {
        let space = try space(with: pages(1), pages(3, 2), pages(9))
        #expect(try space.unmap(pages(0, 8)) == 3 * page)
        #expect(space.ranges == [pages(9)])
    }

    @Test func `M23 everything can be unmapped when there is nothing`() throws {
        let space = try space()
        #expect(try space.unmap(.everything) == 0)
        try space.map(object, pages: pages(0))
        #expect(try space.unmap(.everything) == page)
    }

    @Test func `M27 a range without mappings is not found`() throws {
        let space = try space(with: pages(1))
        #expect(throws: DMAError.notFound) { try space.unmap(pages(2, 10)) }
        #expect(throws: DMAError.notFound) { try space.unmap(pages(0)) }
    }

    @Test func `M26 what was removed before an error stays removed`() throws {
        let space = try space(with: pages(1), pages(3, 2))
        #expect(throws: DMAError.notFound) { try space.unmap(pages(1, 3)) }
        #expect(space.ranges == [pages(3, 2)])
    }

    @Test func `M25 a mapping is never split`() throws {
        let space = try space(with: pages(2, 4))
        for request in [pages(2, 3), pages(3, 3), pages(3, 1), pages(0, 3), pages(5, 9)] {
            #expect(throws: DMAError.notFound) { try space.unmap(request) }
        }
        #expect(space.ranges == [pages(2, 4)])
    }

    @Test func `R90 mappings without pins go without a callback`() throws {
        let space = try space(with: pages(1))
        let calls = Shared(0)
        let access = DMAAccess(needsPin: true) { _ in calls.update { $0 += 1 } }
        try access.attach(to: space)
        try space.unmap(pages(1))
        #expect(calls.value == 0)
        access.destroy()
    }

    @Test func `R78, R79 every access hears of the whole mapping, and may unpin inside the callback`() throws {
        let space = try space(with: pages(1), pages(2, 4))
        let holder = PinHolder()
        let heard = Shared<[IOVARange]>([])
        let other = DMAAccess(needsPin: false) { range in heard.update { $0.append(range) } }
        let silent = DMAAccess(needsPin: false, onUnmap: nil)
        try holder.access.attach(to: space)
        try other.attach(to: space)
        try silent.attach(to: space)
        try holder.pin(pages(3))
        #expect(try space.unmap(pages(0, 10)) == 5 * page)
        #expect(holder.heard == [pages(2, 4)])
        #expect(heard.value == [pages(2, 4)])
        for access in [holder.access, other, silent] { access.destroy() }
    }

    @Test func `R87, R88 pins that stay hold the mapping, closed, until they are gone`() throws {
        let space = try space(with: pages(1), pages(2), pages(3), rounds: 4, wait: .milliseconds(4))
        let calls = Shared<[IOVARange]>([])
        let access = DMAAccess(needsPin: true) { range in calls.update { $0.append(range) } }
        try access.attach(to: space)
        let pinned = try access.pin(pages(2), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(1, 3)) } }
        #expect(calls.value == [IOVARange](repeating: pages(2), count: 4))
        #expect(
            space.mappings() == [
                MappingSnapshot(pages(2), [.read, .write], pins: 1, isBlocked: true),
                MappingSnapshot(pages(3), [.read, .write]),
            ])
        // R51, R69: closed means closed.
        #expect(errorOf { () throws(DMAError) in try access.pin(pages(2), rights: .read).unpin() } == .invalid)
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(2)) } == .invalid)
        #expect(errorOf { () throws(DMAError) in try access.write([1], to: iova(2 * page)) } == .invalid)
        // R63: the pin itself is as good as ever.
        #expect(pinned.segmentSizes(writing: 9) == [Int(page)])
        pinned.unpin()
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(2)) } == .invalid)
        #expect(try space.unmap(pages(2)) == page)
        try space.map(object, pages: pages(2))
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(2)) } == nil)
        access.destroy()
    }

    @Test func `M29 each mapping has a budget of its own, adjacent or not`() throws {
        let space = try space(with: pages(1), pages(2), pages(4), rounds: 10, wait: .zero)
        let holder = PinHolder(patience: 6)
        try holder.access.attach(to: space)
        for page in [1, 2, 4] as [UInt64] { try holder.pin(pages(page)) }
        #expect(try space.unmap(pages(0, 8)) == 3 * page)
        #expect(holder.heard.count == 18)
        holder.access.destroy()
    }

    @Test func `R77 no lock is held in a callback`() throws {
        let space = try space(with: pages(1), pages(2), pages(3))
        let pinned = Shared<PinnedBox?>(nil)
        let done = Shared(false)
        let access = DMAAccess(needsPin: true) { _ in
            _ = space.mappings()
            _ = space.description
            _ = try? space.unmap(pages(3))
            try? space.map(.remote(PeerMemory(byteCount: 1)), at: iova(0), byteCount: page, rights: .read)
            pinned.update { $0.take() }?.unpin()
            done.update { $0 = true }
        }
        try access.attach(to: space)
        pinned.update { [box = PinnedBox(try? access.pin(pages(2), rights: .read))] in $0 = box }
        try misusing(.recursion) { try space.unmap(pages(2)) }
        #expect(done.value)
        #expect(space.ranges == [pages(0), pages(1)])
        misusing(.recursion) { access.destroy() }
    }

    @Test func `R62 an unmap waits for a pin that another thread releases`() throws {
        // Only the release ends the wait.
        let space = try space(with: pages(1), rounds: 1, wait: .seconds(3600))
        let asked = Shared(false)
        let access = DMAAccess(needsPin: true) { _ in asked.update { $0 = true } }
        try access.attach(to: space)
        let box = PinnedBox(try access.pin(pages(1), rights: .write))
        let released = Shared(false)
        let thread = try OSThread(name: "releaser") {
            asked.wait { $0 }
            released.update { $0 = true }
            box.unpin()
        }
        try space.unmap(pages(1))
        #expect(released.value)
        thread.join()
        access.destroy()
    }

    @Test func `M30 other mappings come and go while a callback runs`() throws {
        let space = try space(with: pages(1), pages(5))
        let holder = PinHolder()
        let entered = Shared(false)
        let mayLeave = Shared(false)
        let gate = DMAAccess(needsPin: false) { _ in
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        try holder.access.attach(to: space)
        try gate.attach(to: space)
        try holder.pin(pages(1))
        let removed = Shared<UInt64>(0)
        let thread = try OSThread(name: "unmapper") {
            let count = try? space.unmap(pages(1))
            removed.update { $0 = count ?? 0 }
        }
        entered.wait { $0 }
        try space.map(object, pages: pages(7))
        #expect(throws: DMAError.exists) { try space.map(object, pages: pages(1)) }
        #expect(try holder.access.read(pages(5)).count == Int(page))
        #expect(try space.unmap(pages(5)) == page)
        mayLeave.update { $0 = true }
        thread.join()
        #expect(removed.value == page)
        #expect(space.ranges == [pages(7)])
        holder.access.destroy()
        gate.destroy()
    }

    @Test func `M30 two unmaps of one mapping share it: one has the bytes`() throws {
        for _ in 0..<50 {
            let space = try space(with: pages(1))
            let holder = PinHolder()
            try holder.access.attach(to: space)
            try holder.pin(pages(1))
            let bytes = Shared<UInt64>(0)
            let threads = try (0..<2).map { number in
                try OSThread(name: "unmapper \(number)") {
                    let count = (try? space.unmap(pages(1))) ?? 0
                    bytes.update { $0 += count }
                }
            }
            for thread in threads { thread.join() }
            #expect(bytes.value == page)
            #expect(space.mappings() == [])
            holder.access.destroy()
        }
    }

    @Test func `an unmap does not wait for transfers of remote memory, which it makes fail`() throws {
        let space = try space()
        let inTransfer = Shared(false)
        let mayFinish = Shared(false)
        let peer = PeerMemory(byteCount: Int(page)) {
            inTransfer.update { $0 = true }
            mayFinish.wait { $0 }
        }
        try space.map(.remote(peer), at: iova(0), byteCount: page, rights: .read)
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        let outcome = Shared<DMAError?>(nil)
        let thread = try OSThread(name: "reader") {
            let error = errorOf { () throws(DMAError) in _ = try access.read(pages(0)) }
            outcome.update { $0 = error }
        }
        inTransfer.wait { $0 }
        // Returns although the transfer is under way; the peer's memory is told, and so the transfer fails.
        #expect(try space.unmap(pages(0)) == page)
        #expect(peer.revocations == 1)
        mayFinish.update { $0 = true }
        thread.join()
        #expect(outcome.value == .cancelled)
        access.destroy()
    }

    @Test func `remote memory is revoked once, and not by a failed map`() throws {
        let peer = PeerMemory(byteCount: Int(page))
        do {
            let space = try space(with: pages(0))
            #expect(throws: DMAError.exists) {
                try space.map(.remote(peer), at: iova(0), byteCount: page, rights: .read)
            }
            #expect(peer.revocations == 0)
            try space.map(.remote(peer), at: iova(page), byteCount: page, rights: .read)
            try space.unmap(.everything)
            #expect(peer.revocations == 1)
        }
        #expect(peer.revocations == 1)
        let last = PeerMemory(byteCount: Int(page))
        do {
            let space = try space()
            try space.map(.remote(last), at: iova(0), byteCount: page, rights: .read)
        }
        #expect(last.revocations == 1)
    }

    @Test func `M11 each of adjacent mappings is removed by itself`() throws {
        let space = try space(with: pages(0), pages(1), pages(2))
        #expect(try space.unmap(pages(1)) == page)
        #expect(space.ranges == [pages(0), pages(2)])
    }

    @Test func `M24 an unmap of nothing or past the top cannot be said, and the last byte is an ordinary one`() throws {
        #expect(throws: DMAError.invalid) { try IOVARange(first: iova(5), byteCount: 0) }
        #expect(throws: DMAError.overflow) { try IOVARange(first: iova(.max), byteCount: .max) }
        let space = try space(with: pages(0))
        let last = range(.max, .max)
        #expect(throws: DMAError.notFound) { try space.unmap(last) }
        #expect(throws: DMAError.notFound) { try space.unmap(range(page, .max)) }
        try space.map(.file(object, offset: 0), at: iova(.max), byteCount: 1, rights: .read)
        #expect(try space.unmap(range(1 << 63, .max)) == 1)
        #expect(try space.unmap(range(0, .max - 1)) == page)
    }

    @Test func `M25, M27 holes before, between and behind do not matter`() throws {
        let space = try space(with: pages(3), pages(4), pages(9, 3))
        try space.map(.file(object, offset: 0), at: iova(.max - 4), byteCount: 5, rights: .read)
        #expect(try space.unmap(range(2 * page + 17, .max)) == 5 * page + 5)
        #expect(space.mappings() == [])
    }

    @Test func `M38 one byte less than a mapping at either end removes nothing`() throws {
        let space = try space(with: pages(2, 4))
        let whole = pages(2, 4)
        for request in [
            range(whole.first.rawValue + 1, whole.last.rawValue), range(whole.first.rawValue, whole.last.rawValue - 1),
            range(whole.first.rawValue + page, whole.last.rawValue - page), range(0, whole.last.rawValue - 1),
            range(whole.first.rawValue + 1, .max),
        ] {
            #expect(throws: DMAError.notFound) { try space.unmap(request) }
        }
        #expect(space.ranges == [whole])
    }
}
