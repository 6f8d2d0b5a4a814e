import DMA
import Randomness
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

    /// What an address is aligned to: the size rounded up to a power of two, or the lowest bit of the offset.
    private func alignment(_ byteCount: UInt64, offset: UInt64) -> UInt64 {
        var step = byteCount
        while step & (step - 1) != 0 { step += step & (0 &- step) }
        return offset == 0 ? step : min(step, offset & (0 &- offset))
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

    @Test func `M15 the largest mapping that is found a place has two bytes less than half of the space`() throws {
        let remote = MappingBacking.remote(PeerMemory(byteCount: 1))
        let half = UInt64.max / 2
        for byteCount in [half, half + 1, .max - page] {
            #expect(throws: DMAError.overflow) { try space.mapAnywhere(remote, byteCount: byteCount, rights: .read) }
        }
        #expect(try space.mapAnywhere(remote, byteCount: half - 1, rights: .read) == iova(2 << 20))
    }

    @Test func `M16, M19 addresses are not rounded up past the top`() throws {
        let remote = MappingBacking.remote(PeerMemory(byteCount: 1))
        let megabyte: UInt64 = 1 << 20
        // From the lowest free address on there is no multiple of the alignment any more, or none with room behind it.
        for free in [megabyte, 3 * megabyte] {
            let reservation = try space.reserve(range(0, 0 &- free - 1))
            #expect(throws: DMAError.noSpace) { try space.mapAnywhere(remote, byteCount: 2 * megabyte, rights: .read) }
            reservation.release()
        }
        let reservation = try space.reserve(range(0, 0 &- 4 * megabyte - 1))
        let first = try space.mapAnywhere(remote, byteCount: 2 * megabyte, rights: .read)
        #expect(first == iova(0 &- 4 * megabyte))
        reservation.release()
    }

    /// A small world, in which every address can be tried: some pages at the bottom, of which the upper can be reserved
    /// and the lower allowed, and the last of the space.
    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `M16, M18, M20, M21 what is found is the lowest place that qualifies`(seed: UInt64) throws {
        var random = SeededNumbers(seed: seed)
        let top = UInt64.max / page + 1 - 16
        let remote = MappingBacking.remote(PeerMemory(byteCount: 1))
        var reservations: [Reservation] = []
        for round in 0..<600 {
            let allowed = [pages(0, 24), pages(24, 16), range(top * page, .max)].filter { _ in
                Int.random(in: 0..<4, using: &random) != 0
            }
            if round % 50 == 0 {
                try space.unmap(.everything)
                for reservation in reservations { reservation.release() }
                try space.allow([])
                reservations = try (0..<3).map { _ in
                    try space.reserve(pages(UInt64.random(in: 40..<62, using: &random), 2))
                }
                reservations.append(try space.reserve(pages(64, top - 64)))
            }
            let reserved = reservations.map(\.range)
            if (try? space.allow(allowed)) == nil { continue }
            let byteCount = UInt64.random(in: 1...6, using: &random) * page
            let offset = UInt64.random(in: 0..<32, using: &random) * page
            let isRemote = Bool.random(using: &random)
            let step = alignment(byteCount, offset: isRemote ? 0 : offset)
            let candidates = (Array(0..<64) + Array(top..<top + 16)).map { IOVA($0 * page) }
            let expected = candidates.first { first in
                guard let whole = try? IOVARange(first: first, byteCount: byteCount) else { return false }
                let window = range(page, .max - page)
                return first.isAligned(to: step) && window.contains(whole)
                    && (allowed.isEmpty || allowed.contains { $0.contains(whole) })
                    && !reserved.contains(where: whole.overlaps) && !space.ranges.contains(where: whole.overlaps)
            }
            let backing = isRemote ? remote : MappingBacking.file(object, offset: offset)
            let found = try? space.mapAnywhere(backing, byteCount: byteCount, rights: .read)
            #expect(found == expected, "seed \(seed): \(byteCount) bytes from \(offset) among \(space.ranges)")
            if Int.random(in: 0..<3, using: &random) == 0, let victim = space.ranges.randomElement(using: &random) {
                try space.unmap(victim)
            }
        }
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func `M22 memory that begins anywhere lands where there is room, in the allowed ranges`(seed: UInt64) throws {
        var random = SeededNumbers(seed: seed)
        let allowed = [pages(2, 3), pages(9, 2)]
        try space.allow(allowed)
        var before: [IOVARange] = []
        for _ in 0..<200 {
            let byteCount = UInt64.random(in: 1...900, using: &random)
            let offset = UInt64.random(in: 1...4095, using: &random)
            guard let first = try? place(byteCount, offset: offset) else { continue }
            let whole = try IOVARange(first: first, byteCount: byteCount)
            #expect(allowed.contains { $0.contains(whole) })
            #expect(!before.contains(where: whole.overlaps))
            #expect(first.isAligned(to: alignment(byteCount, offset: offset)))
            before.append(whole)
        }
        #expect(before.count > 8)
        #expect(space.ranges == before.sorted { $0.first < $1.first })
    }
}
