import DMA
import Glibc
import LinuxHost
import Randomness
import Testing

/// The contract between an unmap and the devices that it asks to let go.
@Suite struct `Asking devices to let go` {
    let object: MemoryObject

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
    }

    private func space(rounds: Int = 100, wait: Duration = .zero, mapping ranges: IOVARange...) throws -> IOAddressSpace
    {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = rounds
        configuration.unmapWait = wait
        let space = IOAddressSpace(configuration)
        for range in ranges { try space.map(object, pages: range) }
        return space
    }

    @Test func `R80, R85 a device that pins and records under its lock is asked once and has then let go`() throws {
        let space = try space(rounds: 1, wait: .seconds(600), mapping: pages(0), pages(1), pages(2), pages(3))
        let holders = [PinHolder(), PinHolder()]
        let isOver = Shared(false)
        for holder in holders { try holder.access.attach(to: space) }
        let threads = try holders.enumerated().map { index, holder in
            try OSThread(name: "device \(index)") {
                var random = SeededNumbers(seed: UInt64(index))
                while !isOver.value {
                    try? holder.pin(pages(UInt64.random(in: 0..<4, using: &random)))
                    if Bool.random(using: &random) { holder.unpinAny() }
                }
            }
        }
        var random = SeededNumbers(seed: 7)
        for _ in 0..<500 {
            let target = pages(UInt64.random(in: 0..<4, using: &random))
            try space.unmap(target)
            try space.map(object, pages: target)
        }
        isOver.update { $0 = true }
        for thread in threads { thread.join() }
        for holder in holders { holder.access.destroy() }
        #expect(space.mappings().map(\.pinCount) == [0, 0, 0, 0])
    }

    @Test func `R81 the callback of one access runs on several threads at once`() throws {
        let space = try space(wait: .seconds(600), mapping: pages(1), pages(2), pages(3))
        let inside = Shared(0)
        let holder = PinHolder()
        let access = DMAAccess(needsPin: true) { _ in
            inside.update { $0 += 1 }
            inside.wait { $0 >= 3 }
        }
        try access.attach(to: space)
        try holder.access.attach(to: space)
        for number in [1, 2, 3] as [UInt64] { try holder.pin(pages(number)) }
        let threads = try ([1, 2, 3] as [UInt64]).map { number in
            try OSThread(name: "unmapper \(number)") { _ = try? space.unmap(pages(number)) }
        }
        for thread in threads { thread.join() }
        #expect(inside.value == 3)
        #expect(space.mappings() == [])
        for access in [access, holder.access] { access.destroy() }
    }

    @Test func `R82 a device hears of mappings that it never pinned, and of everything`() throws {
        let space = try space(mapping: pages(1), pages(5, 3))
        let holder = PinHolder()
        let heard = Shared<[IOVARange]>([])
        let idle = DMAAccess(needsPin: true) { range in heard.update { $0.append(range) } }
        for access in [holder.access, idle] { try access.attach(to: space) }
        try holder.pin(pages(6))
        #expect(try space.unmap(.everything) == 4 * page)
        idle.destroy()
        #expect(heard.value == [pages(5, 3), .everything])
        holder.access.destroy()
    }

    @Test func `R86, R51 a mapping is closed before the first callback, and in every round`() throws {
        let space = try space(rounds: 3, mapping: pages(1), pages(2))
        let own = Shared<DMAAccess?>(nil)
        let seen = Shared<[DMAError?]>([])
        let isClosed = Shared<[Bool]>([])
        let access = DMAAccess(needsPin: true) { _ in
            guard let access = own.value else { return }
            let errors = [
                errorOf { () throws(DMAError) in try access.pin(pages(1), rights: .read).unpin() },
                errorOf { () throws(DMAError) in _ = try access.read(pages(1)) },
                errorOf { () throws(DMAError) in try access.write([1], to: iova(page)) },
                errorOf { () throws(DMAError) in try access.pin(pages(2), rights: .read).unpin() },
            ]
            seen.update { $0 += errors }
            isClosed.update { $0 += space.mappings().map(\.isBlocked) }
        }
        own.update { $0 = access }
        try access.attach(to: space)
        let pinned = try access.pin(pages(1), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(1, 2)) } }
        let round: [DMAError?] = [.invalid, .invalid, .invalid, nil]
        #expect(seen.value == round + round + round)
        #expect(isClosed.value == [true, false, true, false, true, false])
        own.update { $0 = nil }
        pinned.unpin()
        access.destroy()
    }

    @Test func `R87, R88 a mapping stays closed through more unmaps that fail`() throws {
        let space = try space(rounds: 2, mapping: pages(1))
        let calls = Shared(0)
        let access = DMAAccess(needsPin: true) { _ in calls.update { $0 += 1 } }
        try access.attach(to: space)
        let pinned = try access.pin(pages(1), rights: .read)
        for attempt in 1...3 {
            let range = attempt == 2 ? IOVARange.everything : pages(1)
            #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(range) } }
            #expect(calls.value == 2 * attempt)
        }
        #expect(throws: DMAError.exists) { try space.map(object, pages: pages(1)) }
        pinned.unpin()
        #expect(space.mappings() == [MappingSnapshot(pages(1), [.read, .write], isBlocked: true)])
        #expect(try space.unmap(pages(1)) == page)
        #expect(calls.value == 6)
        access.destroy()
    }

    @Test func `R89, M2 memory goes with the last mapping that shows it, and not before`() throws {
        let (space, other) = (try space(), try space())
        weak var forgotten: MemoryObject?
        do {
            let memory = try MemoryObject.anonymous(byteCount: 8 * Int(page))
            forgotten = memory
            try space.map(memory, pages: pages(0, 2))
            try space.map(memory, pages: pages(4, 2))
        }
        try other.copy(pages(5), from: space, to: iova(page), rights: .read)
        let holder = PinHolder()
        try holder.access.attach(to: other)
        try holder.pin(pages(1), rights: .read)
        try space.unmap(pages(0, 2))
        #expect(forgotten != nil)
        try space.unmap(.everything)
        #expect(forgotten != nil)
        try other.unmap(pages(1))
        #expect(forgotten == nil)
        holder.access.destroy()
    }

    @Test func `M25 a mapping that sticks out is refused before its pins are looked at`() throws {
        let space = try space(mapping: pages(1), pages(2, 4))
        let holder = PinHolder()
        try holder.access.attach(to: space)
        try holder.pin(pages(1))
        try holder.pin(pages(3))
        for request in [pages(2, 3), pages(3, 9), pages(3)] {
            #expect(throws: DMAError.notFound) { try space.unmap(request) }
        }
        #expect(holder.heard == [])
        #expect(space.mappings().allSatisfy { !$0.isBlocked })
        // Ascending: the pins below are asked for first, and stay removed.
        #expect(throws: DMAError.notFound) { try space.unmap(pages(0, 4)) }
        #expect(holder.heard == [pages(1)])
        #expect(space.ranges == [pages(2, 4)])
        holder.access.destroy()
    }

    @Test(arguments: [99, 100, 101, 150])
    func `M29 a hundred rounds are the budget of a mapping, and a later unmap has its own`(patience: Int) throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapWait = .zero
        let space = IOAddressSpace(configuration)
        try space.map(object, pages: pages(1))
        let holder = PinHolder(patience: patience)
        try holder.access.attach(to: space)
        try holder.pin(pages(1))
        if patience > 100 {
            #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(1)) } }
            #expect(holder.heard.count == 100)
        }
        #expect(try space.unmap(pages(1)) == page)
        #expect(holder.heard.count == patience)
        holder.access.destroy()
    }

    @Test func `M30 an unmap that lost a mapping to another goes on with the next and counts only its own`() throws {
        let space = try space(wait: .seconds(600), mapping: pages(1), pages(2))
        let holder = PinHolder()
        let calls = Shared(0)
        let mayLeave = Shared(false)
        let gate = DMAAccess(needsPin: false) { _ in
            let isFirst = calls.update { calls in
                calls += 1
                return calls == 1
            }
            if isFirst { mayLeave.wait { $0 } }
        }
        for access in [holder.access, gate] { try access.attach(to: space) }
        for number in [1, 2] as [UInt64] { try holder.pin(pages(number)) }
        let slow = Shared<UInt64>(0)
        let thread = try OSThread(name: "slow unmapper") {
            let bytes = try? space.unmap(pages(0, 8))
            slow.update { $0 = bytes ?? 0 }
        }
        calls.wait { $0 >= 1 }
        #expect(try space.unmap(pages(1)) == page)
        #expect(space.ranges == [pages(2)])
        // The place is free again for others meanwhile, but so it is for the unmap that still goes on.
        try space.map(object, pages: pages(20))
        mayLeave.update { $0 = true }
        thread.join()
        #expect(slow.value == page)
        #expect(space.ranges == [pages(20)])
        for access in [holder.access, gate] { access.destroy() }
    }

    @Test func `M30 other mappings can be pinned, mapped and copied from inside a callback's time`() throws {
        let space = try space(wait: .seconds(600), mapping: pages(1), pages(5))
        let holder = PinHolder()
        let entered = Shared(false)
        let mayLeave = Shared(false)
        let gate = DMAAccess(needsPin: false) { _ in
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        for access in [holder.access, gate] { try access.attach(to: space) }
        try holder.pin(pages(1))
        let thread = try OSThread(name: "unmapper") { _ = try? space.unmap(pages(1)) }
        entered.wait { $0 }
        try holder.pin(pages(5))
        try space.copy(pages(5), from: space, to: iova(9 * page), rights: .read)
        #expect(try space.mapAnywhere(.file(object, offset: 0), byteCount: page, rights: .read) == iova(2 * page))
        let late = DMAAccess(needsPin: true) { _ in }
        try late.attach(to: space)
        late.destroy()
        mayLeave.update { $0 = true }
        thread.join()
        #expect(space.ranges == [pages(2), pages(5), pages(9)])
        #expect(space.mappings().map(\.pinCount) == [0, 1, 0])
        for access in [holder.access, gate] { access.destroy() }
    }

    @Test func `M32 pins of a copy do not matter to the mapping that it was made of`() throws {
        let (source, target) = (try space(rounds: 1, mapping: pages(1)), try space())
        try target.copy(pages(1), from: source, to: iova(page), rights: [.read, .write])
        let calls = Shared(0)
        let witness = DMAAccess(needsPin: true) { _ in calls.update { $0 += 1 } }
        try witness.attach(to: source)
        let holder = PinHolder()
        try holder.access.attach(to: target)
        try holder.pin(pages(1))
        #expect(try source.unmap(pages(1)) == page)
        #expect(calls.value == 0)
        #expect(holder.heard == [])
        object.fill(pages(1), with: 0x66)
        #expect(try holder.access.read(range(page, page)) == [0x66])
        for access in [witness, holder.access] { access.destroy() }
    }
}
