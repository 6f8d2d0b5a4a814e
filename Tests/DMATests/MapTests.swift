import DMA
import Glibc
import LinuxHost
import Testing

@Suite struct `Mapping` {
    let object: MemoryObject
    let space = IOAddressSpace()

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
    }

    private func mapError(
        at first: UInt64, _ byteCount: UInt64, offset: UInt64 = 0, rights: AccessRights = [.read, .write],
        in space: IOAddressSpace? = nil
    ) -> DMAError? {
        errorOf { () throws(DMAError) in
            try (space ?? self.space).map(
                .file(object, offset: offset), at: iova(first), byteCount: byteCount, rights: rights)
        }
    }

    @Test func `M4 a new space is empty, wholly usable and aligned to bytes`() {
        #expect(space.usableRanges == [.everything])
        #expect(space.alignment == 1)
        #expect(space.mappings() == [])
    }

    @Test func `a mapping is listed with its range and rights`() throws {
        try space.map(.file(object, offset: 7), at: iova(3), byteCount: 5, rights: .read)
        #expect(space.mappings() == [MappingSnapshot(range(3, 7), .read)])
    }

    @Test func `M11 adjacent mappings of adjacent memory stay two`() throws {
        try space.map(object, pages: pages(0))
        try space.map(object, pages: pages(1))
        #expect(space.ranges == [pages(0), pages(1)])
    }

    @Test func `each argument that makes no sense has its error`() {
        #expect(mapError(at: 0, page, rights: AccessRights(rawValue: 0x80))?.errno == 95)
        #expect(mapError(at: 0, .max)?.errno == 75)
        #expect(mapError(at: 0, page, rights: [])?.errno == 22)
        #expect(mapError(at: 0, 0)?.errno == 22)
        #expect(mapError(at: 0, .max - page + 1)?.errno == 22)
        #expect(mapError(at: 0, page, offset: .max - page + 1)?.errno == 75)
        #expect(mapError(at: .max - page + 2, page)?.errno == 75)
        #expect(space.mappings() == [])
    }

    @Test func `the first check that fails names the error`() throws {
        // Each request has the fault of its line and of every line below it.
        try space.map(object, pages: pages(8))
        _ = try space.reserve(pages(9))
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: space)
        let readOnly = try readOnlyObject()
        func error(_ first: UInt64, _ byteCount: UInt64, offset: UInt64, _ rights: AccessRights) -> Int32? {
            errorOf { () throws(DMAError) in
                try space.map(.file(readOnly, offset: offset), at: iova(first), byteCount: byteCount, rights: rights)
            }?.errno
        }
        let unknown: AccessRights = [.write, AccessRights(rawValue: 4)]
        #expect(error(.max, .max, offset: .max, unknown) == 95)
        #expect(error(.max, .max, offset: .max, []) == 75)
        #expect(error(.max, .max - 5, offset: .max, []) == 22)
        #expect(error(.max, 5, offset: .max, .write) == 75)
        #expect(error(.max, 5, offset: 1, .write) == 22)
        #expect(error(.max, page, offset: 1, .write) == 22)
        #expect(error(.max - page + 1, 2 * page, offset: 1, .write) == 75)
        #expect(error(8 * page, 2 * page, offset: 1, .write) == 22)
        #expect(error(8 * page, page, offset: 1, .write) == 17)
        #expect(error(0, page, offset: 1, .write) == 1)
        #expect(error(0, page, offset: 1, .read) == 22)
        #expect(error(0, 65 * page, offset: 0, .read) == 22)
        pinning.destroy()
    }

    @Test func `overlap by a single byte at either end is refused`() throws {
        try space.map(.file(object, offset: 0), at: iova(100), byteCount: 10, rights: .read)
        #expect(mapError(at: 91, 10) == .exists)
        #expect(mapError(at: 109, 10) == .exists)
        #expect(mapError(at: 90, 30) == .exists)
        #expect(mapError(at: 90, 10) == nil)
        #expect(mapError(at: 110, 10) == nil)
    }

    @Test func `M12 the last byte of the space can be mapped and unmapped`() throws {
        try space.map(.file(object, offset: 0), at: iova(.max), byteCount: 1, rights: .read)
        try space.map(.file(object, offset: 0), at: iova(.max - page), byteCount: page, rights: .read)
        #expect(space.ranges == [range(.max - page, .max - 1), range(.max, .max)])
        #expect(try space.unmap(range(.max, .max)) == 1)
        #expect(try space.unmap(range(.max - page, .max)) == page)
    }

    @Test func `memory past the end of the object is refused after the checks on the address`() throws {
        #expect(mapError(at: 0, 65 * page) == .invalid)
        #expect(mapError(at: 0, page, offset: 63 * page + 1) == .invalid)
        #expect(mapError(at: 0, page, offset: 63 * page) == nil)
        #expect(mapError(at: 0, 65 * page) == .exists)
    }

    @Test func `R54 write rights on a read-only object are refused`() throws {
        let object = try readOnlyObject()
        #expect(throws: DMAError.notPermitted) {
            try space.map(.file(object, offset: 0), at: iova(0), byteCount: page, rights: [.read, .write])
        }
        try space.map(.file(object, offset: 0), at: iova(0), byteCount: page, rights: .read)
    }

    @Test func `past the maximum of mappings there is no space`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.maximumMappings = 2
        let space = IOAddressSpace(configuration)
        try space.map(object, pages: pages(0))
        try space.map(object, pages: pages(1))
        #expect(mapError(at: 2 * page, page, in: space)?.errno == 28)
        #expect(mapError(at: page, page, in: space) == .exists)
        try space.unmap(pages(0))
        #expect(mapError(at: 2 * page, page, in: space) == nil)
    }

    @Test func `M10 the allowed ranges do not matter to a fixed address`() throws {
        try space.allow([pages(10, 2)])
        #expect(mapError(at: 0, page) == nil)
    }

    @Test func `a reserved range keeps mappings out until it is released`() throws {
        let reservation = try space.reserve(pages(4, 2))
        #expect(mapError(at: 5 * page + 1, page) == .invalid)
        #expect(mapError(at: 3 * page, 3 * page) == .invalid)
        reservation.release()
        #expect(mapError(at: 3 * page, 3 * page) == nil)
        reservation.release()
    }

    @Test func `M8 mapping touches no page of the memory`() throws {
        let file = try OwnedDescriptor.anonymousMemory(name: "sparse", byteCount: 4 << 30)
        let sparse = try MemoryObject(adopting: file.duplicate())
        try space.map(.file(sparse, offset: 0), at: iova(1 << 39), byteCount: 4 << 30, rights: .read)
        try space.copy(range(1 << 39, (1 << 39) + 99), from: space, to: iova(0), rights: .read)
        try space.unmap(.everything)
        var status = stat()
        #expect(unsafe fstat(file.rawValue, &status) == 0)
        #expect(status.st_size == 4 << 30)
        #expect(status.st_blocks == 0)
    }

    @Test func `M12, M17 the last page can be mapped at a fixed address, whole and up to the last byte`() throws {
        let first = UInt64.max - page + 1
        #expect(mapError(at: first, page + 1) == .overflow)
        #expect(mapError(at: first, page) == nil)
        #expect(mapError(at: .max, 1) == .exists)
        #expect(try space.unmap(range(first, .max)) == page)
        #expect(mapError(at: 0, page) == nil)
        #expect(space.ranges == [pages(0)])
    }

    @Test(arguments: [1 << 40, 1 << 63, .max - 2 * 4096] as [UInt64])
    func `M13 one mapping may have any size that the addresses have room for`(byteCount: UInt64) throws {
        let peer = PeerMemory(byteCount: 4)
        try space.map(.remote(peer), at: iova(0), byteCount: byteCount, rights: [.read, .write])
        let whole = range(0, byteCount - 1)
        #expect(space.ranges == [whole])
        #expect(mapError(at: byteCount - 1, 1) == .exists)
        #expect(mapError(at: byteCount, 1) == nil)
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        try access.write([1, 2, 3, 4], to: iova(0))
        #expect(peer.bytes == [1, 2, 3, 4])
        #expect(errorOf { () throws(DMAError) in try access.write([1], to: iova(byteCount - 1)) } == .badAddress)
        #expect(try space.unmap(whole) == byteCount)
        access.destroy()
    }
}

extension MappingSnapshot {
    init(_ range: IOVARange, _ rights: AccessRights, pins: Int = 0, isBlocked: Bool = false) {
        self.init(range: range, rights: rights, pinCount: pins, isBlocked: isBlocked)
    }
}
