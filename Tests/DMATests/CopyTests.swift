import DMA
import LinuxHost
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

    @Test func `M41 a copy has no rights that the map which introduced the memory did not have`() throws {
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

    @Test func `M40 a piece that would begin off the target's alignment is refused`() throws {
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

    @Test func `M39 a mapping can be copied while it is pinned, and not once an unmap has closed it`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let source = IOAddressSpace(configuration)
        for page in [3, 4, 5, 7] as [UInt64] { try source.map(object, pages: pages(page)) }
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: source)
        let pinned = PinnedBox(try pinning.pin(pages(4), rights: .read))
        defer {
            pinned.unpin()
            pinning.destroy()
        }
        try target.copy(pages(4), from: source, to: iova(0), rights: .read)
        #expect(try access.read(range(0, 0)) == [4])
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try source.unmap(pages(4)) } }
        for (range, error) in [(pages(4), .invalid), (pages(3, 5), .invalid), (pages(2, 3), .notFound)]
            as [(IOVARange, DMAError)]
        {
            #expect(throws: error) { try target.copy(range, from: source, to: iova(page), rights: .read) }
        }
        // The first address that will not do names the error.
        #expect(throws: DMAError.notFound) { try target.copy(pages(7, 2), from: source, to: iova(page), rights: .read) }
        #expect(target.ranges == [pages(0)])
        #expect(try target.copy(pages(5), from: source, to: iova(page), rights: .read) == iova(page))
    }

    @Test func `M39 an unmap of the source waits for a copy under way, and refuses those behind it`() throws {
        let (copying, mayGoOn, returned) = (Shared(false), Shared(false), Shared(false))
        let consumer = WatchedConsumer { _ in
            copying.update { $0 = true }
            mayGoOn.wait { $0 }
        } unmap: { _ in
        }
        for page in [4, 5, 9] as [UInt64] { try source.map(object, pages: pages(page)) }
        try target.attach(consumer)
        let copier = try OSThread(name: "copier") { [source, target] in
            _ = try? target.copy(pages(4, 2), from: source, to: iova(0), rights: .read)
        }
        copying.wait { $0 }
        let unmapper = try OSThread(name: "unmapper") { [source] in
            _ = try? source.unmapAll(in: [pages(5)])
            returned.update { $0 = true }
        }
        let elsewhere = IOAddressSpace()
        var error: DMAError?
        while error == nil {
            error = errorOf { () throws(DMAError) in
                try elsewhere.copy(pages(5), from: source, to: nil, rights: .read)
            }
        }
        // The unmap has closed the mapping, and there it stands.
        #expect(error == .invalid)
        #expect(!returned.value)
        #expect(source.ranges == [pages(4), pages(5), pages(9)])
        // What is not copied just now goes at once.
        #expect(try source.unmap(pages(9)) == page)
        mayGoOn.update { $0 = true }
        copier.join()
        unmapper.join()
        #expect(source.ranges == [pages(4)])
        #expect(target.ranges == [pages(0), pages(1)])
        #expect(try access.read(range(page, page)) == [5])
        target.detach(consumer)
    }

    @Test func `a copy that fails keeps no unmap waiting`() throws {
        try source.map(object, pages: pages(4))
        try target.map(object, pages: pages(0))
        #expect(throws: DMAError.exists) { try target.copy(pages(4), from: source, to: iova(0), rights: .read) }
        #expect(throws: DMAError.notFound) { try target.copy(pages(4, 2), from: source, to: iova(0), rights: .read) }
        #expect(try source.unmap(pages(4)) == page)
        // And one within a space, whose lock is the same.
        #expect(throws: DMAError.exists) { try target.copy(pages(0), from: target, to: iova(0), rights: .read) }
        #expect(try target.unmapAll(in: [pages(0)]) == page)
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

    @Test func `M39 an empty range and one past the top cannot be said, and the last byte can be copied`() throws {
        #expect(throws: DMAError.invalid) { try IOVARange(first: iova(0), byteCount: 0) }
        #expect(throws: DMAError.overflow) { try IOVARange(first: iova(.max), byteCount: 2) }
        try source.map(.file(object, offset: 5 * page - 1), at: iova(.max - 1), byteCount: 2, rights: .read)
        try target.copy(range(.max, .max), from: source, to: iova(9), rights: .read)
        #expect(target.ranges == [range(9, 9)])
        #expect(try access.read(range(9, 9)) == [5])
        try target.copy(range(.max - 1, .max), from: source, to: iova(.max - 1), rights: .read)
        #expect(try access.read(range(.max - 1, .max)) == [4, 5])
    }

    @Test func `M40 a piece for each of many mappings, back to back, each removed by itself`() throws {
        for number in 0..<100 as Range<UInt64> {
            try source.map(
                .file(object, offset: number % 64 * page), at: iova(number * page), byteCount: page, rights: .read)
        }
        try target.copy(range(100, 100 * page - 101), from: source, to: iova(100), rights: .read)
        #expect(target.mappings().count == 100)
        #expect(target.ranges.first == range(100, page - 1))
        #expect(target.ranges.last == range(99 * page, 100 * page - 101))
        #expect(zip(target.ranges, target.ranges.dropFirst()).allSatisfy { $0.last.rawValue + 1 == $1.first.rawValue })
        #expect(try target.unmap(pages(50)) == page)
        #expect(try access.read(range(51 * page, 51 * page)) == [51])
    }

    @Test func `M42 copies to and fro between two spaces do not wait for each other`() throws {
        try source.map(object, pages: pages(0, 8))
        try target.map(object, pages: pages(0, 8))
        let failures = Shared<[DMAError]>([])
        let threads = try [(source, target), (target, source)].map { from, to in
            try OSThread(name: "copier") {
                for _ in 0..<500 {
                    let error = errorOf { () throws(DMAError) in
                        let first = try to.copy(pages(2, 4), from: from, to: nil, rights: .read)
                        try to.unmap(IOVARange(first: first, byteCount: 4 * page))
                    }
                    if let error { failures.update { $0.append(error) } }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.value == [])
        #expect([source, target].map(\.ranges) == [[pages(0, 8)], [pages(0, 8)]])
    }

    @Test func `M43 however many copies there are, the memory is the same and stays until the last`() throws {
        let spaces = (0..<20).map { _ in IOAddressSpace() }
        weak var forgotten: MemoryObject?
        do {
            let memory = try MemoryObject.anonymous(byteCount: Int(page))
            forgotten = memory
            try source.map(.file(memory, offset: 0), at: iova(0), byteCount: page, rights: [.read, .write])
        }
        try target.copy(pages(0), from: source, to: iova(0), rights: [.read, .write])
        for space in spaces { try space.copy(pages(0), from: source, to: nil, rights: .read) }
        try source.unmap(.everything)
        for space in spaces { try space.unmap(.everything) }
        try access.write([77], to: iova(0))
        #expect(forgotten?.byte(0) == 77)
        try target.unmap(.everything)
        #expect(forgotten == nil)
    }
}
