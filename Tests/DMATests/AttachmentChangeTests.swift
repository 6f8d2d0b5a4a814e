import DMA
import Glibc
import LinuxHost
import Testing

/// What can be seen of an access while its attachment changes, and after it has.
@Suite struct `Changing an attachment` {
    let object: MemoryObject
    let first: IOAddressSpace
    let second: IOAddressSpace

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 4
        configuration.unmapWait = .zero
        first = IOAddressSpace(configuration)
        second = IOAddressSpace(configuration)
        for space in [first, second] { try space.map(object, pages: pages(1)) }
    }

    @Test func `R35 nothing keeps an access that was destroyed, though readers were about when mappings went`() throws {
        final class Token: Sendable {}
        var token: Token? = Token()
        weak let kept = token
        do {
            let access = DMAAccess(needsPin: true) { [token] _ in _ = token }
            try access.attach(to: first)
            for number in 2..<200 as Range<UInt64> {
                try first.map(.file(object, offset: 0), at: iova(number * page), byteCount: page, rights: .read)
            }
            let (isInside, mayLeave) = (Shared(false), Shared(false))
            let reader = try OSThread(name: "reader") {
                try? unsafe access.withMemory(pages(1), rights: .read) { _ in
                    isInside.update { $0 = true }
                    dawdle(until: mayLeave)
                }
            }
            isInside.wait { $0 }
            try first.unmap(pages(2, 198))
            mayLeave.update { $0 = true }
            reader.join()
            access.destroy()
        }
        token = nil
        #expect(kept == nil)
        #expect(first.ranges == [pages(1)])
    }

    @Test func `R15 an access that was attached is counted and reaches the memory`() throws {
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: first)
        #expect(first.accessCount == 1)
        #expect(second.accessCount == 0)
        #expect(first.alignment == page)
        object.fill(pages(1), with: 0x3c)
        #expect(try access.read(range(page, page)) == [0x3c])
        try access.pin(pages(1), rights: .read).unpin()
        access.destroy()
    }

    @Test func `R22 an access that asks for no more than the space demands is not kept away`() throws {
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: first)
        try first.map(object, pages: pages(2))
        let second = DMAAccess(needsPin: true) { _ in }
        try second.attach(to: first)
        let plain = DMAAccess(needsPin: false, onUnmap: nil)
        try plain.attach(to: first)
        pinning.destroy()
        #expect(first.alignment == page)
        second.destroy()
        #expect(first.alignment == 1)
        plain.destroy()
    }

    @Test func `R23, R42 a replacement that is refused can be tried elsewhere`() throws {
        let crooked = IOAddressSpace()
        try crooked.map(.remote(PeerMemory(byteCount: 1)), at: iova(page), byteCount: 1, rights: .read)
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        #expect(throws: DMAError.addressInUse) { try holder.access.replace(with: crooked) }
        #expect([first, crooked].map(\.accessCount) == [1, 0])
        #expect([first, crooked].map(\.alignment) == [page, 1])
        #expect(try holder.access.read(pages(1)).count == Int(page))
        try holder.access.replace(with: second)
        #expect([first, crooked, second].map(\.accessCount) == [0, 0, 1])
        #expect(holder.heard == [.everything])
        // And the refusal lasts no longer than its reason.
        try crooked.unmap(.everything)
        try holder.access.replace(with: crooked)
        holder.access.destroy()
    }

    @Test func `R24 in the callback of a replacement the access is in both spaces and reaches neither`() throws {
        let own = Shared<DMAAccess?>(nil)
        let seen = Shared<[String]>([])
        let (first, second) = (first, second)
        let access = DMAAccess(needsPin: true) { range in
            guard let access = own.value else { return }
            let errors = [
                errorOf { () throws(DMAError) in try access.pin(pages(1), rights: .read).unpin() },
                errorOf { () throws(DMAError) in _ = try access.read(pages(1)) },
                errorOf { () throws(DMAError) in try access.write([1], to: iova(page)) },
            ]
            seen.update {
                $0.append("\(range)")
                $0.append("accesses \(first.accessCount) \(second.accessCount)")
                $0.append("alignment \(first.alignment) \(second.alignment)")
                $0.append(errors.allSatisfy { $0 == .notFound } ? "closed" : "\(errors)")
            }
        }
        own.update { $0 = access }
        try access.attach(to: first)
        try access.replace(with: second)
        #expect(seen.value == ["\(IOVARange.everything)", "accesses 1 1", "alignment 4096 4096", "closed"])
        #expect([first.accessCount, second.accessCount] == [0, 1])
        #expect([first.alignment, second.alignment] == [1, page])
        try second.unmap(pages(1))
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(1)) } == .notFound)
        own.update { $0 = nil }
        access.destroy()
    }

    @Test func `R25 the callbacks of a move and of unmaps in both spaces run at the same time`() throws {
        let inside = Shared(0)
        let holders = [PinHolder(), PinHolder()]
        for (holder, space) in zip(holders, [first, second]) {
            try holder.access.attach(to: space)
            try holder.pin(pages(1))
        }
        let (first, second) = (first, second)
        let access = DMAAccess(needsPin: true) { _ in
            inside.update { $0 += 1 }
            inside.wait { $0 >= 3 }
        }
        try access.attach(to: first)
        let mover = try OSThread(name: "mover") { try? access.replace(with: second) }
        inside.wait { $0 >= 1 }
        let threads = try [first, second].map { space in
            try OSThread(name: "unmapper") { _ = try? space.unmap(pages(1)) }
        }
        for thread in threads + [mover] { thread.join() }
        #expect(inside.value == 3)
        #expect([first, second].map(\.ranges) == [[], []])
        for holder in holders { holder.access.destroy() }
        access.destroy()
    }

    @Test func `R26 an access that moves in a ring of spaces is in one of them at a time`() throws {
        let ring = [first, second, IOAddressSpace()]
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: ring[0])
        for step in 1...10_000 {
            try access.replace(with: ring[step % 3])
            guard step % 500 == 0 else { continue }
            #expect(ring.map(\.accessCount) == (0..<3).map { $0 == step % 3 ? 1 : 0 })
        }
        access.destroy()
        #expect(ring.map(\.accessCount) == [0, 0, 0])
    }

    @Test func `R29, R62 a change waits for a pin that another thread releases, and no longer`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .seconds(3600)
        let space = IOAddressSpace(configuration)
        try space.map(.anonymous(byteCount: Int(page)), pages: pages(0))
        let asked = Shared(false)
        let access = DMAAccess(needsPin: true) { _ in asked.update { $0 = true } }
        try access.attach(to: space)
        let box = PinnedBox(try access.pin(pages(0), rights: .write))
        let thread = try OSThread(name: "releaser") {
            asked.wait { $0 }
            // Time for the change to wait.
            usleep(5000)
            box.unpin()
        }
        try access.detach()
        thread.join()
        #expect(space.mappings().map(\.pinCount) == [0])
        access.destroy()
    }

    @Test func `R29 another thread returns the pin to the old space while the callback of the change runs`() throws {
        let isChanging = Shared(false)
        let mayLeave = Shared(false)
        let access = DMAAccess(needsPin: true) { _ in
            isChanging.update { $0 = true }
            mayLeave.wait { $0 }
        }
        try access.attach(to: first)
        let box = PinnedBox(try access.pin(pages(1), rights: [.read, .write]))
        let (first, second) = (first, second)
        let thread = try OSThread(name: "mover") { try? access.replace(with: second) }
        isChanging.wait { $0 }
        #expect(first.mappings().map(\.pinCount) == [1])
        box.unpin()
        #expect(first.mappings().map(\.pinCount) == [0])
        #expect(second.mappings().map(\.pinCount) == [0])
        mayLeave.update { $0 = true }
        thread.join()
        #expect(second.accessCount == 1)
        access.destroy()
    }

    @Test(arguments: [false, true])
    func `R30 a device that has to be told several times is told so often and no more`(isReplacement: Bool) throws {
        let holder = PinHolder(patience: 3)
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        if isReplacement { try holder.access.replace(with: second) } else { try holder.access.detach() }
        #expect(holder.heard == [.everything, .everything, .everything])
        #expect(first.mappings() == [MappingSnapshot(pages(1), [.read, .write])])
        #expect([first, second].map(\.accessCount) == (isReplacement ? [0, 1] : [0, 0]))
        holder.access.destroy()
    }

    @Test func `R27, R31 an access without a callback comes, moves and goes in silence`() throws {
        let access = DMAAccess(needsPin: true, onUnmap: nil)
        try access.attach(to: first)
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        #expect(try first.unmap(pages(1)) == page)
        try access.replace(with: second)
        try access.detach()
        #expect([first, second].map(\.accessCount) == [1, 0])
        try access.attach(to: second)
        access.destroy()
        #expect(second.accessCount == 0)
        holder.access.destroy()
    }

    @Test func `R40 the loser of two replacements is told so, or comes second`() throws {
        for _ in 0..<100 {
            let spaces = (0..<3).map { _ in IOAddressSpace() }
            let access = DMAAccess(needsPin: true) { _ in }
            try access.attach(to: spaces[0])
            let errors = Shared<[DMAError?]>([])
            let threads = try (1...2).map { number in
                try OSThread(name: "replacer \(number)") {
                    let error = errorOf { () throws(DMAError) in try access.replace(with: spaces[number]) }
                    errors.update { $0.append(error) }
                }
            }
            for thread in threads { thread.join() }
            #expect(errors.value.contains(nil))
            #expect(errors.value.allSatisfy { $0 == nil || $0 == .notFound || $0 == .busy })
            #expect(spaces.map(\.accessCount).reduce(0, +) == 1)
            #expect(spaces[0].accessCount == 0)
            access.destroy()
        }
    }

    @Test func `R41 the callback of a change covers the last byte of the space`() throws {
        let heard = Shared<[IOVARange]>([])
        let access = DMAAccess(needsPin: true) { range in heard.update { $0.append(range) } }
        let top = range(.max - page + 1, .max)
        try first.map(.file(object, offset: 0), at: top.first, byteCount: page, rights: .read)
        try access.attach(to: first)
        try access.detach()
        #expect(heard.value.count == 1)
        #expect(heard.value.allSatisfy { $0.contains(top) && $0.contains(iova(0)) && $0.contains(iova(.max)) })
        access.destroy()
    }
}

@Suite struct `The end of an access` {
    let object: MemoryObject
    let space = IOAddressSpace()

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        try space.map(object, pages: pages(1, 2))
    }

    @Test func `R35 after destruction nothing is heard, and the space is as without the access`() throws {
        let heard = Shared<[IOVARange]>([])
        let access = DMAAccess(needsPin: true) { range in heard.update { $0.append(range) } }
        try access.attach(to: space)
        #expect([space.accessCount, Int(space.alignment)] == [1, Int(page)])
        access.destroy()
        #expect([space.accessCount, Int(space.alignment)] == [0, 1])
        let holder = PinHolder()
        try holder.access.attach(to: space)
        try holder.pin(pages(1))
        try space.unmap(.everything)
        holder.access.destroy()
        try space.map(.file(object, offset: 1), at: iova(1), byteCount: 1, rights: .read)
        #expect(heard.value == [.everything])
    }

    @Test func `R37 destroying while another thread moves the access is noticed, or waits for the move`() async {
        await #expect(processExitsWith: isDebugBuild ? .failure : .success) {
            let spaces = [IOAddressSpace(), IOAddressSpace()]
            let entered = Shared(false)
            let mayLeave = Shared(false)
            let access = DMAAccess(needsPin: false) { _ in
                entered.update { $0 = true }
                mayLeave.wait { $0 }
            }
            try access.attach(to: spaces[0])
            let mover = try OSThread(name: "mover") { try? access.replace(with: spaces[1]) }
            entered.wait { $0 }
            // Where assertions are checked nothing has to end the move, which could be over before it is noticed.
            let opener: OSThread? =
                isDebugBuild
                ? nil
                : try OSThread(name: "opener") {
                    for _ in 0..<1000 { sched_yield() }
                    mayLeave.update { $0 = true }
                }
            access.destroy()
            mover.join()
            opener?.join()
            #expect(spaces.map(\.accessCount) == [0, 0])
        }
    }

    @Test func `R38, R91, R92 an access that was destroyed beside an unmap is forgotten by everybody`() throws {
        for round in 0..<50 {
            let space = IOAddressSpace()
            try space.map(object, pages: pages(1))
            let holder = PinHolder(patience: 3)
            try holder.access.attach(to: space)
            try holder.pin(pages(1))
            weak var forgotten: DMAAccess?
            do {
                let access = DMAAccess(needsPin: false) { _ in }
                forgotten = access
                try access.attach(to: space)
                let thread = try OSThread(name: "unmapper") { _ = try? space.unmap(pages(1)) }
                for _ in 0..<round { sched_yield() }
                access.destroy()
                thread.join()
            }
            #expect(forgotten == nil)
            #expect(space.accessCount == 1)
            #expect(space.ranges == [])
            holder.access.destroy()
        }
    }
}
