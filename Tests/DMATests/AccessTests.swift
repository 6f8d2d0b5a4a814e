import DMA
import Glibc
import LinuxHost
import Testing

@Suite struct `Attaching an access` {
    let object: MemoryObject
    let first: IOAddressSpace
    let second: IOAddressSpace

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 5
        configuration.unmapWait = .milliseconds(5)
        first = IOAddressSpace(configuration)
        second = IOAddressSpace(configuration)
        for space in [first, second] { try space.map(object, pages: pages(1)) }
    }

    private func canPin(_ access: DMAAccess) -> DMAError? {
        errorOf { () throws(DMAError) in try access.pin(pages(1), rights: .read).unpin() }
    }

    @Test func `R13 a new access is attached to nothing`() {
        let access = DMAAccess(needsPin: true) { _ in }
        #expect(canPin(access) == .notFound)
        #expect(throws: DMAError.notFound) { try access.replace(with: first) }  // R20
        #expect(throws: DMAError.invalid) { try access.detach() }  // R28
        access.destroy()
    }

    @Test func `R16 an attached access cannot be attached, were it to the same space`() throws {
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: first)
        #expect(throws: DMAError.invalid) { try access.attach(to: first) }
        #expect(throws: DMAError.invalid) { try access.attach(to: second) }
        #expect(canPin(access) == nil)
        access.destroy()
    }

    @Test func `R14, R32 an access that pins asks for whole pages until it leaves`() throws {
        let plain = DMAAccess(needsPin: false, onUnmap: nil)
        try plain.attach(to: first)
        #expect(first.alignment == 1)
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: first)
        #expect(first.alignment == page)
        let peer = PeerMemory(byteCount: 10)
        #expect(throws: DMAError.invalid) {
            try first.map(.remote(peer), at: iova(0), byteCount: 10, rights: .read)
        }
        try pinning.detach()
        #expect(first.alignment == 1)
        try first.map(.remote(peer), at: iova(0), byteCount: 10, rights: .read)
        plain.destroy()
    }

    @Test(arguments: [(5, page, 0), (page, page + 5, 0), (page, page, 5)] as [(UInt64, UInt64, UInt64)])
    func `R22 a mapping that is not made of pages keeps an access that pins away`(
        iovaOfPart: UInt64, byteCount: UInt64, offset: UInt64
    ) throws {
        let space = IOAddressSpace()
        try space.map(.file(object, offset: offset), at: iova(iovaOfPart), byteCount: byteCount, rights: .read)
        let access = DMAAccess(needsPin: true) { _ in }
        #expect(throws: DMAError.addressInUse) { try access.attach(to: space) }
        #expect(space.alignment == 1)
        try access.attach(to: first)
        access.destroy()
    }

    @Test func `R21 replacing by the same space changes nothing`() throws {
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        try holder.access.replace(with: first)
        #expect(holder.heard == [])
        #expect(holder.pinCount == 1)
        holder.access.destroy()
    }

    @Test func `R23 a space that refuses the access leaves it where it was, without a callback`() throws {
        let crooked = IOAddressSpace()
        try crooked.map(.remote(PeerMemory(byteCount: 1)), at: iova(0), byteCount: 1, rights: .read)
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        #expect(throws: DMAError.addressInUse) { try holder.access.replace(with: crooked) }
        #expect(holder.heard == [])
        #expect(first.mappings().map(\.pinCount) == [1])
        try holder.pin(pages(1))
        #expect(first.mappings().map(\.pinCount) == [2])
        holder.access.destroy()
        #expect(first.mappings().map(\.pinCount) == [0])
    }

    @Test func `R24, R29, R41 a replacement tells of everything, and the unpin reaches the old space`() throws {
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        try holder.access.replace(with: second)
        #expect(holder.heard == [.everything])
        #expect(first.mappings().map(\.pinCount) == [0])
        #expect(first.alignment == 1)
        #expect(second.alignment == page)
        try holder.pin(pages(1))
        #expect(second.mappings().map(\.pinCount) == [1])
        holder.access.destroy()
    }

    @Test func `R17, R20, R24, R28 while it changes nothing else can be done with an access`() throws {
        let entered = Shared(0)
        let mayLeave = Shared(false)
        let access = DMAAccess(needsPin: true) { range in
            guard range == .everything else { return }
            entered.update { $0 += 1 }
            mayLeave.wait { $0 }
        }
        try access.attach(to: first)
        let thread = try OSThread(name: "replacer") { try? access.replace(with: second) }
        entered.wait { $0 == 1 }
        #expect(throws: DMAError.busy) { try access.attach(to: first) }
        #expect(throws: DMAError.notFound) { try access.replace(with: first) }
        #expect(throws: DMAError.invalid) { try access.detach() }
        #expect(canPin(access) == .notFound)
        #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(1)) } == .notFound)
        #expect(second.alignment == page)
        mayLeave.update { $0 = true }
        thread.join()
        #expect(canPin(access) == nil)
        access.destroy()
    }

    @Test func `R25 while it moves an access hears of unmaps in both spaces`() throws {
        let entered = Shared(false)
        let mayLeave = Shared(false)
        let heard = Shared<[IOVARange]>([])
        let access = DMAAccess(needsPin: true) { range in
            heard.update { $0.append(range) }
            guard range == .everything else { return }
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        let holders = [PinHolder(), PinHolder()]
        for (holder, space) in zip(holders, [first, second]) {
            try holder.access.attach(to: space)
            try holder.pin(pages(1))
        }
        try access.attach(to: first)
        let thread = try OSThread(name: "replacer") { try? access.replace(with: second) }
        entered.wait { $0 }
        for space in [first, second] { try space.unmap(pages(1)) }
        #expect(heard.value == [.everything, pages(1), pages(1)])
        mayLeave.update { $0 = true }
        thread.join()
        for holder in holders { holder.access.destroy() }
        access.destroy()
    }

    @Test func `R26 an access moves to and fro ten thousand times and leaves nothing behind`() throws {
        let calls = Shared(0)
        let access = DMAAccess(needsPin: true) { _ in calls.update { $0 += 1 } }
        try access.attach(to: first)
        for _ in 0..<5000 {
            try access.replace(with: second)
            try access.replace(with: first)
        }
        #expect(calls.value == 10_000)
        #expect(second.alignment == 1)
        #expect(second.description.contains(" 0 accesses"))
        #expect(first.description.contains(" 1 accesses"))
        access.destroy()
        #expect(first.description.contains(" 0 accesses"))
    }

    @Test func `R27 detaching tells of everything once`() throws {
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        try holder.access.detach()
        #expect(holder.heard == [.everything])
        #expect(first.mappings() == [MappingSnapshot(pages(1), [.read, .write])])
        try holder.access.attach(to: second)
        holder.access.destroy()
    }

    @Test func `R30, R42 an access whose device keeps its pins stays where it is`() throws {
        let calls = Shared(0)
        let access = DMAAccess(needsPin: true) { _ in calls.update { $0 += 1 } }
        try access.attach(to: first)
        let pinned = try access.pin(pages(1), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try access.detach() } }
        #expect(calls.value == 5)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try access.replace(with: second) } }
        #expect(calls.value == 10)
        #expect(second.alignment == 1)
        #expect(second.description.contains(" 0 accesses"))
        #expect(canPin(access) == nil)
        #expect(throws: DMAError.invalid) { try access.attach(to: second) }
        #expect(first.mappings() == [MappingSnapshot(pages(1), [.read, .write], pins: 1)])
        pinned.unpin()
        try access.replace(with: second)
        #expect(first.alignment == 1)
        access.destroy()
    }

    @Test func `R33 destroying tells of everything once if attached and not at all otherwise`() throws {
        let calls = Shared<[IOVARange]>([])
        let attached = DMAAccess(needsPin: true) { range in calls.update { $0.append(range) } }
        try attached.attach(to: first)
        attached.destroy()
        #expect(calls.value == [.everything])
        attached.destroy()
        let detached = DMAAccess(needsPin: true) { range in calls.update { $0.append(range) } }
        detached.destroy()
        #expect(calls.value == [.everything])
        #expect(first.alignment == 1)  // R35
    }

    @Test func `R35, L19 after destruction nothing can be done`() throws {
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: first)
        access.destroy()
        misusing(.useAfterDestroy) {
            #expect(throws: DMAError.noDevice) { try access.attach(to: first) }
            #expect(throws: DMAError.notFound) { try access.replace(with: second) }
            #expect(throws: DMAError.invalid) { try access.detach() }
            #expect(canPin(access) == .notFound)
            #expect(errorOf { () throws(DMAError) in _ = try access.read(pages(1)) } == .notFound)
        }
    }

    @Test func `R34 destroying waits for a callback on another thread`() throws {
        let entered = Shared(false)
        let destroying = Shared(false)
        let hasLeft = Shared(false)
        let access = DMAAccess(needsPin: true) { range in
            guard range != .everything else { return destroying.update { $0 = true } }
            entered.update { $0 = true }
            destroying.wait { $0 }
            // Time for a destroy that does not wait to return.
            usleep(20_000)
            hasLeft.update { $0 = true }
        }
        let holder = PinHolder()
        try access.attach(to: first)
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        let thread = try OSThread(name: "unmapper") { _ = try? first.unmap(pages(1)) }
        entered.wait { $0 }
        access.destroy()
        #expect(hasLeft.value)
        thread.join()
        holder.access.destroy()
    }

    @Test func `R91 an unmap passes over an access that is being destroyed`() throws {
        let entered = Shared(false)
        let mayLeave = Shared(false)
        let heard = Shared<[IOVARange]>([])
        let access = DMAAccess(needsPin: true) { range in
            heard.update { $0.append(range) }
            guard range == .everything else { return }
            entered.update { $0 = true }
            mayLeave.wait { $0 }
        }
        let holder = PinHolder()
        try access.attach(to: first)
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        let thread = try OSThread(name: "destroyer") { access.destroy() }
        entered.wait { $0 }
        #expect(try first.unmap(pages(1)) == page)
        mayLeave.update { $0 = true }
        thread.join()
        #expect(heard.value == [.everything])
        holder.access.destroy()
    }

    @Test func `R38 destroying while another thread unmaps ends, and the unmap succeeds`() throws {
        for _ in 0..<100 {
            let space = IOAddressSpace()
            for page in 0..<8 as Range<UInt64> { try space.map(object, pages: pages(page)) }
            let holder = PinHolder()
            let isGone = Shared(false)
            let calledLate = Shared(false)
            let witness = DMAAccess(needsPin: false) { _ in
                if isGone.value { calledLate.update { $0 = true } }
            }
            try holder.access.attach(to: space)
            try witness.attach(to: space)
            for page in 0..<8 as Range<UInt64> { try holder.pin(pages(page)) }
            let bytes = Shared<UInt64>(0)
            let thread = try OSThread(name: "unmapper") {
                let count = try? space.unmap(.everything)
                bytes.update { $0 = count ?? 0 }
            }
            witness.destroy()
            isGone.update { $0 = true }
            holder.access.destroy()
            thread.join()
            #expect(!calledLate.value)
            #expect(bytes.value == 8 * page)
        }
    }

    @Test func `R39 detaching while another thread unmaps ends either way round`() throws {
        for _ in 0..<100 {
            let space = IOAddressSpace()
            for page in 0..<4 as Range<UInt64> { try space.map(object, pages: pages(page)) }
            let holder = PinHolder()
            try holder.access.attach(to: space)
            for page in 0..<4 as Range<UInt64> { try holder.pin(pages(page)) }
            let thread = try OSThread(name: "unmapper") { _ = try? space.unmap(.everything) }
            try holder.access.detach()
            thread.join()
            #expect(space.mappings() == [])
            #expect(holder.pinCount == 0)
            holder.access.destroy()
        }
    }

    @Test func `R40 two replacements at once are one after the other or not at all`() throws {
        for _ in 0..<100 {
            let spaces = (0..<3).map { _ in IOAddressSpace() }
            let access = DMAAccess(needsPin: true) { _ in }
            try access.attach(to: spaces[0])
            let threads = try (1...2).map { number in
                try OSThread(name: "replacer \(number)") { try? access.replace(with: spaces[number]) }
            }
            for thread in threads { thread.join() }
            #expect(spaces.filter { $0.alignment == page }.count == 1)
            #expect(spaces[0].alignment == 1)
            access.destroy()
            #expect(spaces.allSatisfy { $0.alignment == 1 })
        }
    }

    @Test func `an attached access is kept alive by its space`() throws {
        let heard = Shared<[IOVARange]>([])
        weak var forgotten: DMAAccess?
        do {
            let access = DMAAccess(needsPin: true) { range in heard.update { $0.append(range) } }
            try access.attach(to: first)
            forgotten = access
        }
        let holder = PinHolder()
        try holder.access.attach(to: first)
        try holder.pin(pages(1))
        try first.unmap(pages(1))
        #expect(heard.value == [pages(1)])
        forgotten?.destroy()
        #expect(forgotten == nil)
        holder.access.destroy()
    }
}
