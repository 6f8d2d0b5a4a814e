import BlockStorage
import Testing

/// What a transfer's memory looks like to the guest: addresses of the pieces, and the two entries that say so.
private struct Shape {
    var pieces: [(address: UInt64, byteCount: Int)] = []
    var prp1: UInt64 = 0
    var prp2: UInt64 = 0

    /// Scattered pages, the first from `offset` on; a list, if one is needed, begins `listSlots` entries before the end of
    /// its page.
    init(_ ram: GuestRAM, _ byteCount: Int, offset: Int, listSlots: Int = 512, page: Int = 4096) {
        let count = (offset + byteCount + page - 1) / page
        // Backwards, so that no two pages follow each other.
        let start = ram.allocate((count + 1) * page)
        let aligned = (start + UInt64(page) - 1) / UInt64(page) * UInt64(page)
        let pages = (0..<count).map { aligned + UInt64((count - 1 - $0) * page) }
        var rest = byteCount
        for (number, address) in pages.enumerated() {
            let skipped = number == 0 ? offset : 0
            let part = min(rest, page - skipped)
            pieces.append((address + UInt64(skipped), part))
            rest -= part
        }
        prp1 = pages[0] + UInt64(offset)
        if count == 2 { prp2 = pages[1] }
        if count > 2 { prp2 = Shape.list(Array(pages.dropFirst()), ram, listSlots, page) }
    }

    /// Writes a list of pages, chained where it does not fit a page.
    private static func list(_ pages: [UInt64], _ ram: GuestRAM, _ slots: Int, _ page: Int) -> UInt64 {
        let start = ram.allocate(2 * page)
        let aligned = (start + UInt64(page) - 1) / UInt64(page) * UInt64(page)
        let address = aligned + UInt64(page - slots * 8)
        if pages.count <= slots {
            ram.write(pages, at: address)
        } else {
            let next = list(Array(pages[(slots - 1)...]), ram, page / 8, page)
            ram.write(Array(pages[..<(slots - 1)]) + [next], at: address)
        }
        return address
    }

    func put(_ bytes: [UInt8], _ ram: GuestRAM) {
        var done = 0
        for piece in pieces {
            ram.write(Array(bytes[done..<done + piece.byteCount]), at: piece.address)
            done += piece.byteCount
        }
    }

    func take(_ ram: GuestRAM) -> [UInt8] { pieces.flatMap { ram.read($0.address, $0.byteCount) } }
}

private func pattern(_ byteCount: Int, _ seed: Int = 1) -> [UInt8] {
    (0..<byteCount).map { UInt8(truncatingIfNeeded: ($0 &+ seed) &* 131 &+ ($0 >> 8) &* 7) }
}

@Suite struct DataTests {
    @Test(
        arguments: GuestRAM.Reach.allCases,
        [
            (512, 0), (512, 3584), (512, 4), (1024, 3584), (4096, 0), (4096, 512), (8192, 0), (8192, 4092), (12288, 0),
            (65536, 100), (1 << 20, 0), (1 << 20, 2048),
        ])
    func `bytes go to the disk and come back, whatever pages they are in`(
        reach: GuestRAM.Reach, size: (byteCount: Int, offset: Int)
    ) throws {
        let driver = try NVMeTestDriver(reach: reach)
        driver.enable()
        try driver.createPair(1)
        let blocks = size.byteCount / 512
        let bytes = pattern(size.byteCount)
        let source = Shape(driver.ram, size.byteCount, offset: size.offset)
        source.put(bytes, driver.ram)
        let written = try driver.run(
            .blocks(Opcode.write, 77, blocks, prp1: source.prp1, prp2: source.prp2), on: 1)
        #expect(written.status == 0)
        #expect(try driver.store.contents(77, UInt64(blocks)) == bytes)
        let target = Shape(driver.ram, size.byteCount, offset: size.offset)
        let read = try driver.run(.blocks(Opcode.read, 77, blocks, prp1: target.prp1, prp2: target.prp2), on: 1)
        #expect(read.status == 0)
        #expect(target.take(driver.ram) == bytes)
    }

    @Test(arguments: [1, 2, 3, 100, 254, 255, 256, 511])
    func `lists are followed from page to page`(listSlots: Int) throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        try driver.createPair(1)
        let bytes = pattern(1 << 20, listSlots)
        try driver.store.put(bytes, at: 0)
        let target = Shape(driver.ram, 1 << 20, offset: 8, listSlots: listSlots)
        let read = try driver.run(.blocks(Opcode.read, 0, 2048, prp1: target.prp1, prp2: target.prp2), on: 1)
        #expect(read.status == 0)
        #expect(target.take(driver.ram) == bytes)
    }

    @Test func `larger memory pages take larger steps`() throws {
        // Every queue begins at a page of 8 KiB and so has to fill whole ones.
        let driver = try NVMeTestDriver(adminEntries: 128)
        _ = driver.ram.allocate(4096)
        driver.enable(memoryPageShift: 1)
        try driver.createPair(1, entries: 128, completionEntries: 512)
        let bytes = pattern(64 << 10)
        try driver.store.put(bytes, at: 0)
        let target = Shape(driver.ram, 64 << 10, offset: 5000, page: 8192)
        let read = try driver.run(.blocks(Opcode.read, 0, 128, prp1: target.prp1, prp2: target.prp2), on: 1)
        #expect(read.status == 0)
        #expect(target.take(driver.ram) == bytes)
    }

    @Test(arguments: GuestRAM.Reach.allCases)
    func `addresses that are not where they must be in their page are refused`(reach: GuestRAM.Reach) throws {
        let driver = try NVMeTestDriver(reach: reach)
        driver.enable()
        try driver.createPair(1)
        let page = driver.ram.allocate(4096 * 4)
        let invalidOffset: UInt16 = 0x013
        for opcode in [Opcode.read, Opcode.write, Opcode.compare] {
            // The first address must be a dword, the second of two a page.
            #expect(try driver.run(.blocks(opcode, 0, 1, prp1: page + 2), on: 1).status == invalidOffset)
            #expect(
                try driver.run(.blocks(opcode, 0, 16, prp1: page, prp2: page + 4096 + 512), on: 1).status
                    == invalidOffset)
            // A list must be at a multiple of eight, and what it names must be pages.
            #expect(
                try driver.run(.blocks(opcode, 0, 24, prp1: page, prp2: page + 4), on: 1).status == invalidOffset)
            driver.ram.write([page + 4096, page + 8192 + 8] as [UInt64], at: page + 12288)
            #expect(
                try driver.run(.blocks(opcode, 0, 24, prp1: page, prp2: page + 12288), on: 1).status
                    == invalidOffset)
            // The link at the end of a list must be a page as well.
            driver.ram.write([page + 12288 + 8] as [UInt64], at: page + 16384 - 8)
            #expect(
                try driver.run(.blocks(opcode, 0, 24, prp1: page, prp2: page + 16384 - 8), on: 1).status
                    == invalidOffset)
        }
    }

    @Test(arguments: [0, 4096, 0x4000_0000_0000, UInt64.max - 4095] as [UInt64])
    func `addresses outside memory are data transfer errors`(address: UInt64) throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        try driver.createPair(1)
        let page = driver.ram.allocate(4096 * 2)
        for opcode in [Opcode.read, Opcode.write, Opcode.compare] {
            #expect(try driver.run(.blocks(opcode, 0, 1, prp1: address), on: 1).status == 0x004)
            #expect(try driver.run(.blocks(opcode, 0, 16, prp1: page, prp2: address), on: 1).status == 0x004)
            #expect(try driver.run(.blocks(opcode, 0, 24, prp1: page, prp2: address), on: 1).status == 0x004)
            driver.ram.write([page, address] as [UInt64], at: page + 4096)
            #expect(try driver.run(.blocks(opcode, 0, 24, prp1: page, prp2: page + 4096), on: 1).status == 0x004)
        }
        #expect(driver.status == NVMeTestDriver.ready)
    }

    @Test(arguments: [BlockSize.bytes512, .bytes4096])
    func `blocks outside the namespace are refused`(blockSize: BlockSize) throws {
        let driver = try NVMeTestDriver(store: TestStore(blockSize: blockSize))
        driver.enable()
        try driver.createPair(1)
        let page = driver.ram.allocate(8192)
        let count = driver.store.blockCount
        for opcode in [Opcode.read, Opcode.write, Opcode.compare, Opcode.writeZeroes, Opcode.verify] {
            for (first, blocks) in [(count, 1), (count - 1, 2), (.max, 1), (.max, 2), (UInt64.max - 1, 2)] {
                let end = try driver.run(.blocks(opcode, first, blocks, prp1: page, prp2: page + 4096), on: 1)
                #expect(end.status == 0x080)
                #expect(end.isFinal)
            }
        }
        #expect(try driver.run(.blocks(Opcode.read, count - 1, 1, prp1: page), on: 1).status == 0)
    }

    @Test func `a transfer larger than the limit is refused and one of the limit is not`() throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        try driver.createPair(1)
        let shape = Shape(driver.ram, 1 << 20, offset: 0)
        for opcode in [Opcode.read, Opcode.write, Opcode.compare] {
            let command = Command.blocks(opcode, 0, 2048, prp1: shape.prp1, prp2: shape.prp2)
            #expect(try driver.run(command, on: 1).status == 0)
            var larger = command
            larger.dwords[12] += 1
            #expect(try driver.run(larger, on: 1).status == 0x002)
        }
    }

    @Test func `a broken disk is told as such and logged`() throws {
        let driver = try NVMeTestDriver()
        driver.enable()
        try driver.createPair(1)
        driver.store.fail()
        let page = driver.ram.allocate(8192)
        #expect(try driver.run(.blocks(Opcode.read, 3, 1, prp1: page), on: 1).status == 0x281)
        #expect(try driver.run(.blocks(Opcode.compare, 4, 1, prp1: page), on: 1).status == 0x281)
        #expect(try driver.run(.blocks(Opcode.verify, 5, 1), on: 1).status == 0x281)
        #expect(try driver.run(.blocks(Opcode.write, 6, 1, prp1: page), on: 1).status == 0x280)
        #expect(try driver.run(Command(Opcode.flush, namespace: 1), on: 1).status == 0x280)
        #expect(
            try driver.run(Command(Opcode.getLogPage, namespace: .max, prp1: page, [10: 1 | 1023 << 16])).status == 0)
        let entries = (0..<6).map { driver.ram.read(page + UInt64($0 * 64), 64) }
        #expect(entries.map { $0[0] } == [5, 4, 3, 2, 1, 0], "newest first, then entries that were never used")
        #expect(entries.map { $0[8] } == [1, 1, 1, 1, 1, 0], "the queue")
        #expect(entries[3][16] == 4, "the block")
        #expect(
            entries[0][12...13].elementsEqual([0x00, 0x45]), "write fault, with more in this log, above the phase bit")
        #expect(
            try driver.run(Command(Opcode.getLogPage, namespace: .max, prp1: page, [10: 2 | 127 << 16])).status == 0)
        let health = driver.ram.read(page, 512)
        #expect(health[160] == 5 && health[176] == 5)
    }
}
