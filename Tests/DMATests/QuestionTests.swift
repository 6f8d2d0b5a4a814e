import DMA
import Testing

@Suite struct `Questions of a front end` {
    let object: MemoryObject
    let space = IOAddressSpace()

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
    }

    @Test func `a mapping is recognised by its range, rights and memory`() throws {
        try space.map(object, pages: pages(1, 2), rights: .read)
        let backing = MappingBacking.file(object, offset: page)
        #expect(space.hasMapping(backing, at: pages(1, 2), rights: .read))
        #expect(!space.hasMapping(backing, at: pages(1, 1), rights: .read))
        #expect(!space.hasMapping(backing, at: pages(2, 1), rights: .read))
        #expect(!space.hasMapping(backing, at: pages(1, 2), rights: [.read, .write]))
        #expect(!space.hasMapping(.file(object, offset: 0), at: pages(1, 2), rights: .read))
        let other = try MemoryObject.anonymous(byteCount: 64 * Int(page))
        #expect(!space.hasMapping(.file(other, offset: page), at: pages(1, 2), rights: .read))
        #expect(!space.hasMapping(.remote(PeerMemory(byteCount: 1)), at: pages(1, 2), rights: .read))
    }

    @Test func `remote memory is recognised where it was mapped, not where it was copied to`() throws {
        let peer = PeerMemory(byteCount: 1)
        try space.map(.remote(peer), at: iova(page), byteCount: page, rights: .read)
        try space.copy(pages(1), from: space, to: iova(2 * page), rights: .read)
        #expect(space.hasMapping(.remote(PeerMemory(byteCount: 1)), at: pages(1), rights: .read))
        #expect(!space.hasMapping(.remote(peer), at: pages(2), rights: .read))
    }

    @Test func `a mapping that an unmap has closed is not the one that was asked for`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let space = IOAddressSpace(configuration)
        try space.map(object, pages: pages(1))
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        let pinned = try access.pin(pages(1), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(1)) } }
        #expect(!space.hasMapping(.file(object, offset: page), at: pages(1), rights: [.read, .write]))
        pinned.unpin()
        access.destroy()
    }

    @Test func `a range splits the mappings that cross its ends`() throws {
        try space.map(object, pages: pages(2, 4))
        for range in [pages(2, 4), pages(0, 8), pages(0, 2), pages(6), .everything] {
            #expect(!space.splitsMapping(range))
        }
        for range in [pages(0, 3), pages(2, 3), pages(3, 3), pages(3, 1), pages(5, 9)] {
            #expect(space.splitsMapping(range))
        }
    }
}
