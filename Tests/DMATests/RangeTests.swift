import DMA
import Testing

@Suite struct `Addresses and ranges` {
    @Test func `an address does not advance past the top of the space`() throws {
        #expect(try iova(.max - 1).advanced(by: 1) == iova(.max))
        #expect(throws: DMAError.overflow) { try iova(.max).advanced(by: 1) }
    }

    @Test func `a range by size refuses no bytes and bytes past the top`() throws {
        #expect(throws: DMAError.invalid) { try IOVARange(first: iova(5), byteCount: 0) }
        #expect(throws: DMAError.overflow) { try IOVARange(first: iova(.max), byteCount: 2) }
        #expect(try IOVARange(first: iova(.max), byteCount: 1) == range(.max, .max))
        #expect(try IOVARange(first: iova(0), byteCount: .max) == range(0, .max - 1))
    }

    @Test func `the size of everything is as much as 64 bits can say`() {
        #expect(IOVARange.everything.byteCount == .max)
        #expect(range(1, .max).byteCount == .max)
        #expect(range(.max, .max).byteCount == 1)
    }

    @Test func `an intersection is what both ranges hold`() {
        #expect(range(0, 9).intersection(range(9, 20)) == range(9, 9))
        #expect(range(0, 9).intersection(range(10, 20)) == nil)
        #expect(IOVARange.everything.intersection(range(.max, .max)) == range(.max, .max))
        #expect(range(5, 9).contains(range(5, 9)))
        #expect(!range(5, 9).contains(range(5, 10)))
    }

    @Test func `a range prints as its ends`() {
        #expect("\(range(0x1000, 0x1fff))" == "0x1000...0x1fff")
    }

    @Test func `every error has the Linux number and is found by it`() {
        let numbers: [Int32] = [1, 2, 5, 12, 13, 14, 16, 17, 19, 22, 28, 35, 75, 95, 98, 125, 4242]
        for number in numbers { #expect(DMAError(errno: number).errno == number) }
        #expect(DMAError(errno: 35) == .deadlock)
        #expect(DMAError(errno: 4242) == .other(errno: 4242))
    }
}

@Suite struct `Reserved and allowed ranges` {
    let space = IOAddressSpace()

    @Test func `M45 usable is what no reservation holds`() throws {
        let low = try space.reserve(range(0, 0xfff))
        let middle = try space.reserve(range(0x8000, 0x8fff))
        _ = try space.reserve(range(0x8800, 0x9fff))
        _ = try space.reserve(range(0xa000, 0xafff))
        let top = try space.reserve(range(.max, .max))
        #expect(space.usableRanges == [range(0x1000, 0x7fff), range(0xb000, .max - 1)])
        top.release()
        low.release()
        #expect(space.usableRanges == [range(0, 0x7fff), range(0xb000, .max)])
        middle.release()
        #expect(space.usableRanges == [range(0, 0x87ff), range(0xb000, .max)])
    }

    @Test func `everything can be reserved`() throws {
        let all = try space.reserve(.everything)
        #expect(space.usableRanges == [])
        all.release()
        #expect(space.usableRanges == [.everything])
    }

    @Test func `M46 mappings and allowed ranges do not make anything less usable`() throws {
        try space.map(.remote(PeerMemory(byteCount: 1)), at: iova(0), byteCount: 1, rights: .read)
        try space.allow([range(5, 6)])
        #expect(space.usableRanges == [.everything])
    }

    @Test func `M47 a list of allowed ranges is taken as a whole or not at all`() throws {
        _ = try space.reserve(range(100, 110))
        try space.allow([range(10, 20)])
        #expect(throws: DMAError.invalid) { try space.allow([range(30, 40), range(5, 5)]) }
        #expect(throws: DMAError.invalid) { try space.allow([range(30, 40), range(40, 50)]) }
        #expect(throws: DMAError.addressInUse) { try space.allow([range(30, 40), range(90, 100)]) }
        // The old list is still in force.
        #expect(throws: DMAError.addressInUse) { try space.reserve(range(20, 21)) }
        #expect(throws: Never.self) { try space.reserve(range(30, 40)) }
    }

    @Test func `M48 mappings outside the allowed ranges stay`() throws {
        try space.map(.remote(PeerMemory(byteCount: 1)), at: iova(0), byteCount: 1, rights: .read)
        try space.allow([range(50, 60)])
        #expect(space.ranges == [range(0, 0)])
    }

    @Test func `M49 a mapping or an allowed range forbids a reservation, another reservation does not`() throws {
        try space.map(.remote(PeerMemory(byteCount: 16)), at: iova(0), byteCount: 16, rights: .read)
        try space.allow([range(50, 60)])
        #expect(throws: DMAError.addressInUse) { try space.reserve(range(15, 20)) }
        #expect(throws: DMAError.addressInUse) { try space.reserve(range(60, 70)) }
        let first = try space.reserve(range(16, 30))
        let second = try space.reserve(range(16, 30))
        first.release()
        #expect(space.usableRanges == [range(0, 15), range(31, .max)])  // M50
        second.release()
        #expect(space.usableRanges == [.everything])
    }

    @Test func `M47 allowed ranges may touch, may lie in any order, and are gone with an empty list`() throws {
        try space.allow([range(21, 30), range(5, 20)])
        #expect(throws: DMAError.addressInUse) { try space.reserve(range(5, 5)) }
        #expect(throws: DMAError.addressInUse) { try space.reserve(range(30, 40)) }
        #expect(throws: DMAError.invalid) { try space.allow([range(.max, .max)]) }
        #expect(throws: DMAError.invalid) { try space.allow([range(1, 9), range(1, 9)]) }
        try space.allow([])
        try space.reserve(range(0, 40))
        try space.allow([range(41, .max)])
        // What overlaps itself is refused before what overlaps a reservation.
        #expect(throws: DMAError.invalid) { try space.allow([range(30, 50), range(50, 60)]) }
        #expect(throws: DMAError.addressInUse) { try space.allow([range(40, 50)]) }
    }

    @Test func `M49 a reservation may touch mappings and allowed ranges but not by a byte overlap them`() throws {
        try space.map(.remote(PeerMemory(byteCount: 1)), at: iova(100), byteCount: 100, rights: .read)
        try space.allow([range(300, 399)])
        for range in [
            range(0, 100), range(199, 250), range(150, 150), range(0, .max), range(250, 300), range(399, .max),
        ] {
            #expect(throws: DMAError.addressInUse) { try space.reserve(range) }
        }
        #expect(space.usableRanges == [.everything])
        for range in [range(0, 99), range(200, 299), range(400, .max)] { try space.reserve(range) }
        #expect(space.usableRanges == [range(100, 199), range(300, 399)])
    }

    @Test func `M50 only the owner's reservation is given back, and once`() throws {
        let owners = try (0..<3).map { _ in try space.reserve(range(10, 19)) }
        let part = try space.reserve(range(15, 25))
        owners[1].release()
        owners[1].release()
        #expect(space.usableRanges == [range(0, 9), range(26, .max)])
        owners[0].release()
        owners[2].release()
        #expect(space.usableRanges == [range(0, 14), range(26, .max)])
        part.release()
        #expect(space.usableRanges == [.everything])
    }
}
