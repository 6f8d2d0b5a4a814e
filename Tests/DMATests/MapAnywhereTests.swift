import DMA
import Testing

@Suite struct `Mapping anywhere` {
    let object: MemoryObject
    let space = IOAddressSpace()

    init() throws {
        object = try .anonymous(byteCount: 4 << 20)
    }

    private func place(_ byteCount: UInt64, offset: UInt64 = 0) throws(DMAError) -> IOVA {
        try space.mapAnywhere(.file(object, offset: offset), byteCount: byteCount, rights: .read)
    }

    @Test func `M17 the first page is left out, and M20 the lowest hole wins`() throws {
        #expect(try place(page) == iova(page))
        #expect(try place(page) == iova(2 * page))
        try space.unmap(pages(1))
        #expect(try place(page) == iova(page))
    }

    @Test func `M16 the address is aligned to the size, the offset's lowest bit or two megabytes, whichever is least`()
        throws
    {
        #expect(try place(3 * page) == iova(4 * page))
        #expect(try place(page) == iova(page))
        #expect(try place(2 * page, offset: page) == iova(2 * page))
        #expect(try place(3 << 20) == iova(2 << 20))
    }

    @Test func `M16 memory that is less aligned than the space demands is refused`() throws {
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        #expect(throws: DMAError.invalid) { try place(page, offset: 512) }
        access.destroy()
        #expect(throws: Never.self) { try place(page, offset: 512) }
    }

    @Test func `M15 half of the space is too much`() {
        #expect(throws: DMAError.overflow) { try place(.max / 2) }
    }

    @Test func `M18 only allowed ranges are used, in ascending order`() throws {
        try space.allow([pages(32, 2), pages(8, 1)])
        #expect(try place(page) == iova(8 * page))
        #expect(try place(page) == iova(32 * page))
        #expect(try place(page) == iova(33 * page))
        #expect(throws: DMAError.noSpace) { try place(page) }
        try space.allow([])
        #expect(try place(page) == iova(page))
    }

    @Test func `M21 a mapping lies in one allowed range, even where two touch`() throws {
        try space.allow([pages(8, 1), pages(9, 1), pages(20, 2)])
        #expect(try place(2 * page) == iova(20 * page))
    }

    @Test func `M21 reserved ranges are passed over`() throws {
        _ = try space.reserve(pages(0, 5))
        _ = try space.reserve(pages(6, 10))
        #expect(try place(page) == iova(5 * page))
        #expect(try place(page) == iova(16 * page))
    }

    @Test func `M20 a full space has no room, nor has its last page`() throws {
        let last = UInt64.max - page
        _ = try space.reserve(range(0, last - 2 * page))
        #expect(try place(page) == iova(last - 2 * page + 1))
        #expect(throws: Never.self) { try space.reserve(range(last - page + 1, last - page + 1)) }
        #expect(throws: DMAError.noSpace) { try place(page) }
    }

    @Test func `M22 memory that begins inside a page lands on addresses that are free and fit`() throws {
        for _ in 0..<50 {
            let first = try place(5, offset: 1)
            #expect(first >= iova(page))
            #expect(first.rawValue & 1 == 1)
        }
        #expect(Set(space.ranges).count == 50)
        #expect(zip(space.ranges, space.ranges.dropFirst()).allSatisfy { $0.last < $1.first })
    }

    @Test func `M7 what was found is where the memory is`() throws {
        object.fill(pages(3), with: 0x77)
        let first = try place(page, offset: 3 * page)
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        let bytes = try access.read(IOVARange(first: first, byteCount: page))
        #expect(bytes == [UInt8](repeating: 0x77, count: Int(page)))
        access.destroy()
    }
}
