import DMA
import Testing

@Suite struct `Pinning` {
    let object: MemoryObject
    let space = IOAddressSpace()
    let access = DMAAccess(needsPin: true) { _ in }

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        try access.attach(to: space)
    }

    @Test func `R63 a pin shows the memory itself`() throws {
        try space.map(object, pages: pages(1, 2))
        let pinned = try access.pin(range(page, 2 * page + 9), rights: [.read, .write])
        #expect(pinned.byteCount == Int(page) + 10)
        #expect(pinned.segmentSizes(writing: 0x5a) == [Int(page) + 10])
        #expect(object.byte(page) == 0x5a)
        #expect(space.mappings().map(\.pinCount) == [1])
        pinned.unpin()
        #expect(space.mappings().map(\.pinCount) == [0])
    }
}
