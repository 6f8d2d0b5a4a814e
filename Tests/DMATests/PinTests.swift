import DMA
import Testing

@Suite final class `Pinning` {
    let object: MemoryObject
    let other: MemoryObject
    let space = IOAddressSpace()
    let access = DMAAccess(needsPin: true) { _ in }

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        other = try .anonymous(byteCount: 64 * Int(page))
        try access.attach(to: space)
    }

    deinit { access.destroy() }

    private func pinError(
        _ range: IOVARange, _ rights: AccessRights = .read, by access: DMAAccess? = nil
    ) -> DMAError? {
        errorOf { () throws(DMAError) in try (access ?? self.access).pin(range, rights: rights).unpin() }
    }

    @Test func `R63 a pin shows the memory itself`() throws {
        try space.map(object, pages: pages(1, 2))
        let pinned = try access.pin(range(page, 2 * page + 9), rights: [.read, .write])
        #expect(pinned.byteCount == Int(page) + 10)
        #expect(pinned.segmentSizes(writing: 0x5a) == [Int(page) + 10])
        #expect(object.byte(page) == 0x5a)
        #expect(object.byte(2 * page + 9) == 0x5a)
        #expect(object.byte(2 * page + 10) == 0)
        pinned.unpin()
    }

    @Test func `R46 only an access that was made to pin and has a callback may pin`() throws {
        try space.map(object, pages: pages(1))
        let unprepared = DMAAccess(needsPin: false) { _ in }
        let deaf = DMAAccess(needsPin: true, onUnmap: nil)
        for access in [unprepared, deaf] {
            #expect(pinError(pages(1), by: access) == .invalid)
            try access.attach(to: space)
            #expect(pinError(pages(1), by: access) == .invalid)
            #expect(pinError(pages(9), by: access) == .invalid)
            access.destroy()
        }
        #expect(pinError(pages(1), []) == .invalid)
    }

    @Test func `R48 an access that is not attached finds nothing`() throws {
        try space.map(object, pages: pages(1))
        try access.detach()
        #expect(pinError(pages(1)) == .notFound)
    }

    @Test func `R49 a hole anywhere in the range is not found`() throws {
        for page in [1, 2, 4] as [UInt64] { try space.map(object, pages: pages(page)) }
        #expect(pinError(pages(1, 2)) == nil)
        for hole in [pages(0, 2), pages(2, 2), pages(2, 3), pages(3), .everything] {
            #expect(pinError(hole) == .notFound)
        }
    }

    @Test func `segments join where memory is contiguous and nowhere else`() throws {
        try space.map(object, pages: pages(1))
        try space.map(object, pages: pages(2))
        try space.map(other, pages: pages(3))
        try space.map(.file(object, offset: 0), at: iova(4 * page), byteCount: page, rights: [.read, .write])
        let pinned = try access.pin(range(page, 5 * page - 1), rights: .write)
        #expect(pinned.segmentSizes() == [2 * Int(page), Int(page), Int(page)])
        #expect(pinned.segmentCount == 3)
        #expect(pinned.byteCount == 4 * Int(page))
        pinned.unpin()
    }

    @Test func `R52 a pin begins at a page of the memory and may end anywhere`() throws {
        try space.map(object, pages: pages(1, 2))
        #expect(pinError(range(page + 1, page + 10)) == .invalid)
        #expect(pinError(range(page, page)) == nil)
        #expect(pinError(range(2 * page, 2 * page + 17)) == nil)
    }

    @Test func `R52 a page that the memory does not fill ends the pin`() throws {
        // Without an access that pins, mappings need not be whole pages.
        let space = IOAddressSpace()
        try space.map(.file(object, offset: 0), at: iova(0), byteCount: 100, rights: .read)
        try space.map(.file(object, offset: page), at: iova(100), byteCount: page, rights: .read)
        #expect(errorOf { () throws(DMAError) in try access.replace(with: space) } == .addressInUse)
    }

    @Test func `R53 a pin has no rights that the mapping lacks`() throws {
        try space.map(object, pages: pages(1), rights: .read)
        try space.map(object, pages: pages(2), rights: .write)
        #expect(pinError(pages(1), .write) == .notPermitted)
        #expect(pinError(pages(1), [.read, .write]) == .notPermitted)
        #expect(pinError(pages(2), .read) == .notPermitted)
        #expect(pinError(pages(1), .read) == nil)
        #expect(pinError(pages(2), .write) == nil)
    }

    @Test func `R55 the lowest fault names the error, alignment before rights`() throws {
        try space.map(object, pages: pages(1), rights: .read)
        try space.map(object, pages: pages(2), rights: .read)
        #expect(pinError(range(page + 1, 4 * page), .write) == .invalid)
        #expect(pinError(pages(1, 3), .write) == .notPermitted)
        #expect(pinError(pages(1, 3), .read) == .notFound)
    }

    @Test func `R56 a pin that fails half-way leaves no count behind`() throws {
        try space.map(object, pages: pages(1))
        try space.map(object, pages: pages(2), rights: .read)
        #expect(pinError(pages(1, 2), .write) == .notPermitted)
        #expect(pinError(pages(1, 3)) == .notFound)
        #expect(space.mappings().map(\.pinCount) == [0, 0])
    }

    @Test func `R58, R59 pins nest and count once on each mapping they touch`() throws {
        try space.map(object, pages: pages(1))
        try space.map(object, pages: pages(2, 2))
        let first = try access.pin(pages(1, 3), rights: .read)
        let second = try access.pin(pages(1, 3), rights: .read)
        let third = try access.pin(pages(3), rights: .read)
        #expect(space.mappings().map(\.pinCount) == [2, 3])
        first.unpin()
        third.unpin()
        #expect(space.mappings().map(\.pinCount) == [1, 1])
        second.unpin()
        #expect(space.mappings().map(\.pinCount) == [0, 0])
    }

    @Test func `R66 remote memory cannot be pinned`() throws {
        try space.map(.remote(PeerMemory(byteCount: 64)), at: iova(0), byteCount: page, rights: .read)
        try space.map(object, pages: pages(1))
        #expect(pinError(pages(0)) == .invalid)
        #expect(pinError(pages(0), .write) == .invalid)
        #expect(pinError(pages(0, 2)) == .invalid)
    }

    @Test func `a pin keeps its memory after the object and the space are forgotten`() throws {
        var temporary: MemoryObject? = try .anonymous(byteCount: Int(page))
        try space.map(.file(try #require(temporary), offset: 0), at: iova(0), byteCount: page, rights: .write)
        temporary = nil
        let pinned = try access.pin(pages(0), rights: .write)
        #expect(pinned.segmentSizes(writing: 1) == [Int(page)])
        pinned.unpin()
    }
}
