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

    @Test func `R22, R52 a space with a page that the memory does not fill takes no access that pins`() throws {
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

    @Test func `R44 an access without a callback cannot pin but can read and write`() throws {
        try space.map(object, pages: pages(1))
        let deaf = DMAAccess(needsPin: true, onUnmap: nil)
        try deaf.attach(to: space)
        #expect(pinError(pages(1), by: deaf) == .invalid)
        try deaf.write([7, 8], to: iova(page))
        #expect(try deaf.read(range(page, page + 1)) == [7, 8])
        deaf.destroy()
    }

    @Test func `R47 the errors of a pin come in order: misuse, size, end, attachment, memory`() throws {
        try space.map(object, pages: pages(1))
        let unprepared = DMAAccess(needsPin: false) { _ in }
        // Neither is attached; a range that is empty or too long cannot even be said.
        #expect(pinError(pages(9), by: unprepared) == .invalid)
        #expect(pinError(pages(9), [], by: DMAAccess(needsPin: true) { _ in }) == .invalid)
        #expect(throws: DMAError.invalid) { try IOVARange(first: iova(page), byteCount: 0) }
        #expect(throws: DMAError.invalid) { try IOVARange(first: iova(.max), byteCount: 0) }
        #expect(throws: DMAError.overflow) { try IOVARange(first: iova(.max - 1), byteCount: 3) }
        let detached = DMAAccess(needsPin: true) { _ in }
        #expect(pinError(range(page + 1, 9 * page), .write, by: detached) == .notFound)
        #expect(pinError(range(page + 1, 9 * page), .write) == .invalid)
        for access in [unprepared, detached] { access.destroy() }
    }

    @Test func `R49 adjacent mappings are pinned up to the last byte of the space`() throws {
        let top = range(.max - 3 * page + 1, .max)
        for index in 0..<3 as Range<UInt64> {
            let first = iova(top.first.rawValue + index * page)
            try space.map(.file(object, offset: index * page), at: first, byteCount: page, rights: .read)
        }
        let pinned = try access.pin(top, rights: .read)
        #expect(pinned.segmentSizes() == [3 * Int(page)])
        #expect(space.mappings().map(\.pinCount) == [1, 1, 1])
        pinned.unpin()
        #expect(pinError(range(.max, .max)) == .invalid)
        #expect(pinError(range(.max - page + 1, .max)) == nil)
        // A hole at the end, in the middle and at the start of the same range.
        for hole in [2, 1, 0] as [UInt64] {
            let first = iova(top.first.rawValue + hole * page)
            try space.unmap(IOVARange(first: first, byteCount: page))
            #expect(pinError(top) == .notFound)
            try space.map(.file(object, offset: 0), at: first, byteCount: page, rights: .read)
            #expect(pinError(top) == nil)
        }
        #expect(pinError(.everything) == .notFound)
    }

    @Test func `R49 thousands of adjacent mappings are pinned as one, and one hole among them is found`() throws {
        for number in 0..<2000 as Range<UInt64> {
            try space.map(
                .file(object, offset: number % 64 * page), at: iova(number * page), byteCount: page, rights: .read)
        }
        let whole = pages(0, 2000)
        let pinned = try access.pin(whole, rights: .read)
        #expect(pinned.byteCount == 2000 * Int(page))
        #expect(pinned.segmentCount == 32)
        #expect(space.mappings().allSatisfy { $0.pinCount == 1 })
        pinned.unpin()
        try space.unmap(pages(1999))
        #expect(pinError(whole) == .notFound)
        try space.unmap(pages(77))
        #expect(pinError(pages(0, 1999)) == .notFound)
        #expect(space.mappings().allSatisfy { $0.pinCount == 0 })
    }

    @Test func `R51, R55, R56 a closed mapping amid others refuses a pin before its rights are looked at`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let space = IOAddressSpace(configuration)
        try access.replace(with: space)
        for number in [1, 2, 3] as [UInt64] { try space.map(object, pages: pages(number), rights: .read) }
        let pinned = try access.pin(pages(2), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(2)) } }
        #expect(pinError(pages(1, 3)) == .invalid)
        #expect(pinError(pages(2), .write) == .invalid)
        #expect(pinError(pages(2, 3)) == .invalid)
        #expect(pinError(pages(1, 3), .write) == .notPermitted)
        #expect(space.mappings().map(\.pinCount) == [0, 1, 0])
        pinned.unpin()
        #expect(pinError(pages(1, 3)) == .invalid)
        try space.unmap(pages(2))
        #expect(pinError(pages(1, 3)) == .notFound)
    }

    @Test func `R54 no pin for writing gets at memory that cannot be written`() throws {
        let readOnly = try readOnlyObject()
        for rights in [.write, [.read, .write]] as [AccessRights] {
            #expect(throws: DMAError.notPermitted) { try space.map(readOnly, pages: pages(1), rights: rights) }
        }
        try space.map(readOnly, pages: pages(1), rights: .read)
        #expect(throws: DMAError.notPermitted) {
            try space.copy(pages(1), from: space, to: iova(2 * page), rights: .write)
        }
        #expect(pinError(pages(1), .write) == .notPermitted)
        #expect(pinError(pages(1), .read) == nil)
    }

    @Test func `R57 segments come in the order of the addresses, whatever the order of the memory`() throws {
        for number in 0..<8 as Range<UInt64> {
            object.fill(pages(7 - number), with: UInt8(number))
            try space.map(
                .file(object, offset: (7 - number) * page), at: iova(number * page), byteCount: page, rights: .read)
        }
        let pinned = try access.pin(range(0, 8 * page - 2), rights: .read)
        var starts: [UInt8] = []
        var sizes: [Int] = []
        unsafe pinned.forEachSegment { segment in
            unsafe starts.append(segment[0])
            sizes.append(segment.count)
        }
        #expect(starts == [0, 1, 2, 3, 4, 5, 6, 7])
        #expect(sizes == [Int](repeating: Int(page), count: 7) + [Int(page) - 1])
        pinned.unpin()
    }

    @Test func `R57 a segment is as much as follows in one memory, whichever memory comes first`() throws {
        let other = try MemoryObject.anonymous(byteCount: 4 * Int(page))
        try space.map(object, pages: pages(0))
        for number in 0..<3 as Range<UInt64> {
            try space.map(
                .file(other, offset: number * page), at: iova((number + 1) * page), byteCount: page, rights: .read)
        }
        try space.map(.file(object, offset: page), at: iova(4 * page), byteCount: page, rights: .read)
        let pinned = try access.pin(pages(0, 5), rights: .read)
        #expect(pinned.segmentSizes() == [Int(page), 3 * Int(page), Int(page)])
        #expect(pinned.segmentCount == 3)
        #expect(pinned.byteCount == 5 * Int(page))
        pinned.unpin()
    }

    @Test func `R58 overlapping pins of different devices hold a mapping until the last is gone`() throws {
        try space.map(object, pages: pages(0, 8))
        let other = DMAAccess(needsPin: true) { _ in }
        try other.attach(to: space)
        let lower = try access.pin(pages(0, 5), rights: .read)
        let upper = try other.pin(pages(3, 5), rights: .write)
        #expect(space.mappings().map(\.pinCount) == [2])
        lower.unpin()
        #expect(space.mappings().map(\.pinCount) == [1])
        #expect(upper.segmentSizes(writing: 6) == [5 * Int(page)])
        upper.unpin()
        #expect(space.mappings().map(\.pinCount) == [0])
        #expect(object.byte(3 * page) == 6)
        other.destroy()
    }

    @Test func `R64 a pin outlives the coming and going of a consumer, which sees the same memory`() throws {
        try space.map(object, pages: pages(1))
        let pinned = try access.pin(pages(1), rights: .write)
        let table = PageTable()
        try space.attach(table)
        #expect(table.entries == [pages(1)])
        #expect(table.shows(object, offset: page, at: pages(1)))
        #expect(pinned.segmentSizes(writing: 0x21) == [Int(page)])
        space.detach(table)
        #expect(table.entries == [])
        #expect(pinned.segmentSizes(writing: 0x22) == [Int(page)])
        #expect(object.isFilled(pages(1), with: 0x22))
        #expect(space.mappings().map(\.pinCount) == [1])
        pinned.unpin()
    }
}
