import DMA
import Testing

@Suite final class `Copying mappings` {
    let object: MemoryObject
    let source = IOAddressSpace()
    let target = IOAddressSpace()
    let access = DMAAccess(needsPin: false, onUnmap: nil)

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        for page in 0..<64 as Range<UInt64> { object.fill(pages(page), with: UInt8(page)) }
        try access.attach(to: target)
    }

    deinit { access.destroy() }

    @Test func `M39, M40 a range inside several mappings becomes a piece for each`() throws {
        try source.map(object, pages: pages(4, 4))
        try source.map(object, pages: pages(8, 1))
        try source.map(object, pages: pages(9, 4))
        #expect(try target.copy(pages(6, 5), from: source, to: iova(page), rights: .read) == iova(page))
        #expect(target.ranges == [pages(1, 2), pages(3, 1), pages(4, 2)])
        #expect(try (1...5).map { try access.read(pages($0))[0] } == [6, 7, 8, 9, 10])
    }

    @Test func `M39 a hole in the source is not found`() throws {
        try source.map(object, pages: pages(4))
        try source.map(object, pages: pages(6))
        for hole in [pages(3), pages(3, 2), pages(4, 2), pages(4, 3), pages(6, 2)] {
            #expect(throws: DMAError.notFound) { try target.copy(hole, from: source, to: nil, rights: .read) }
        }
        #expect(target.mappings() == [])
    }

    @Test func `M42 a space can be copied within itself, anywhere`() throws {
        try target.map(object, pages: pages(1, 2))
        let first = try target.copy(pages(1, 2), from: target, to: nil, rights: .read)
        #expect(first == iova(3 * page))
        #expect(try access.read(range(3 * page, 3 * page)) == [1])
    }

    @Test func `M43 the source may go`() throws {
        try source.map(object, pages: pages(4))
        try target.copy(pages(4), from: source, to: iova(0), rights: .read)
        try source.unmap(.everything)
        #expect(try access.read(range(0, 0)) == [4])
    }

    @Test func `a copy has no rights that the map which introduced the memory did not have`() throws {
        try source.map(object, pages: pages(4), rights: .read)
        #expect(throws: DMAError.notPermitted) {
            try target.copy(pages(4), from: source, to: iova(0), rights: [.read, .write])
        }
        #expect(throws: DMAError.notPermitted) { try target.copy(pages(4), from: source, to: iova(0), rights: .write) }
        #expect(target.mappings() == [])
    }

    @Test func `M41 a copy may have rights that the copy it is made of does not have`() throws {
        try source.map(object, pages: pages(4), rights: [.read, .write])
        try target.copy(pages(4), from: source, to: iova(0), rights: .read)
        try target.copy(pages(0), from: target, to: iova(page), rights: [.read, .write])
        try access.write([99], to: iova(page))
        #expect(object.byte(4 * page) == 99)
        #expect(throws: DMAError.notPermitted) { try access.write([99], to: iova(0)) }
    }

    @Test func `M40 the target is checked as for a map, and M44 a failure leaves nothing`() throws {
        try source.map(object, pages: pages(4))
        try source.map(object, pages: pages(5))
        try target.map(object, pages: pages(1))
        let before = target.mappings()
        func error(_ first: UInt64, _ rights: AccessRights = .read) -> DMAError? {
            errorOf { () throws(DMAError) in
                _ = try target.copy(pages(4, 2), from: source, to: iova(first), rights: rights)
            }
        }
        #expect(error(0) == .exists)
        #expect(error(.max - page) == .overflow)
        #expect(error(0, []) == .invalid)
        _ = try target.reserve(pages(8))
        #expect(error(7 * page) == .invalid)
        #expect(throws: DMAError.overflow) {
            try target.copy(.everything, from: source, to: iova(0), rights: .read)
        }
        #expect(target.mappings() == before)
    }

    @Test func `a piece that would begin off the target's alignment is refused`() throws {
        try source.map(.file(object, offset: 0), at: iova(0), byteCount: 100, rights: .read)
        try source.map(.file(object, offset: page), at: iova(100), byteCount: 2 * page - 100, rights: .read)
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: target)
        #expect(throws: DMAError.invalid) {
            try target.copy(range(0, 2 * page - 1), from: source, to: iova(0), rights: .read)
        }
        #expect(target.mappings() == [])
        pinning.destroy()
    }

    @Test func `a pinned and closed mapping can still be copied`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let source = IOAddressSpace(configuration)
        try source.map(object, pages: pages(4))
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: source)
        let pinned = try pinning.pin(pages(4), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try source.unmap(pages(4)) } }
        try target.copy(pages(4), from: source, to: iova(0), rights: .read)
        #expect(try access.read(range(0, 0)) == [4])
        pinned.unpin()
        pinning.destroy()
    }

    @Test func `a copy of remote memory asks the peer for the peer's addresses`() throws {
        let peer = PeerMemory(byteCount: 8 * Int(page))
        try source.map(.remote(peer), at: iova(page), byteCount: 2 * page, rights: [.read, .write])
        try target.copy(range(2 * page, 3 * page - 1), from: source, to: iova(0x70000), rights: [.read, .write])
        try access.write([7, 8], to: iova(0x70010))
        #expect(Array(peer.bytes[Int(2 * page) + 0x10..<Int(2 * page) + 0x12]) == [7, 8])
        // And a copy of the copy, at lower addresses than the peer's.
        try target.copy(IOVARange(first: iova(0x70010), byteCount: 2), from: target, to: iova(4), rights: .read)
        #expect(try access.read(range(4, 5)) == [7, 8])
    }

    @Test func `remote memory is revoked with the last mapping that names it`() throws {
        let peer = PeerMemory(byteCount: 8 * Int(page))
        try source.map(.remote(peer), at: iova(0), byteCount: page, rights: .read)
        try target.copy(pages(0), from: source, to: iova(0), rights: .read)
        #expect(throws: DMAError.exists) { try target.copy(pages(0), from: source, to: iova(0), rights: .read) }
        try source.unmap(.everything)
        #expect(peer.revocations == 0)
        #expect(try access.read(range(0, 0)) == [0])
        try target.unmap(.everything)
        #expect(peer.revocations == 1)
    }
}
