import DMA
import LinuxHost
import Randomness
import Testing

@Suite final class `Dirty pages` {
    /// 600 pages from page 100 on, so neither at a boundary of 64 pages nor within 256 bits.
    private static let whole = pages(100, 600)

    let object: MemoryObject
    let space = IOAddressSpace()
    let access = DMAAccess(needsPin: false, onUnmap: nil)

    init() throws {
        object = try .anonymous(byteCount: 1024 * Int(page))
        try access.attach(to: space)
    }

    deinit { access.destroy() }

    /// The numbers of the bits that a look at a range sets.
    private func dirty(
        _ range: IOVARange, pageSize: UInt64 = page, clearing: Bool = true
    ) throws(DMAError) -> [Int] {
        var bitmap = [UInt8](repeating: 0, count: Int((range.byteCount / pageSize + 7) / 8))
        try read(range, pageSize: pageSize, into: &bitmap, clearing: clearing)
        return bits(of: bitmap)
    }

    private func bits(of bitmap: [UInt8]) -> [Int] {
        (0..<bitmap.count * 8).filter { bitmap[$0 / 8] >> ($0 % 8) & 1 == 1 }
    }

    private func read(
        _ range: IOVARange, pageSize: UInt64, into bitmap: inout [UInt8], clearing: Bool = true,
        from start: Int = 0
    ) throws(DMAError) {
        let error = unsafe bitmap.withUnsafeMutableBytes { buffer in
            errorOf { () throws(DMAError) in
                try unsafe space.readDirty(
                    range, pageSize: pageSize,
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[start...]),
                    clearing: clearing)
            }
        }
        if let error { throw error }
    }

    private func error(_ range: IOVARange, pageSize: UInt64, byteCount: Int = 4096) -> DMAError? {
        var bitmap = [UInt8](repeating: 0x5a, count: byteCount)
        let error = errorOf { () throws(DMAError) in try read(range, pageSize: pageSize, into: &bitmap)
        }
        if error != nil { #expect(bitmap.allSatisfy { $0 == 0x5a }) }
        return error
    }

    private func write(_ byteCount: Int = 1, at address: UInt64) throws {
        try access.write([UInt8](repeating: 1, count: byteCount), to: iova(address))
    }

    @Test func `M55 a look makes sense or is refused before anything is written`() throws {
        try space.map(object, pages: Self.whole)
        #expect(error(Self.whole, pageSize: page) == .invalid)
        try space.startDirtyTracking()
        #expect(error(Self.whole, pageSize: page) == nil)
        #expect(error(Self.whole, pageSize: 0) == .invalid)
        // The first address, and the one behind the last, are multiples of the page size.
        #expect(error(range(100 * page + 512, 200 * page - 1), pageSize: page) == .invalid)
        #expect(error(range(100 * page, 200 * page - 513), pageSize: page) == .invalid)
        #expect(error(range(100 * page, 200 * page), pageSize: page) == .invalid)
        #expect(error(pages(101, 100), pageSize: 2 * page) == .invalid)
        #expect(error(pages(100, 101), pageSize: 2 * page) == .invalid)
        #expect(error(pages(100, 100), pageSize: 2 * page) == nil)
        #expect(throws: DMAError.invalid) { try IOVARange(first: iova(0), byteCount: 0) }
        #expect(throws: DMAError.overflow) { try IOVARange(first: iova(.max), byteCount: page) }
        space.stopDirtyTracking()
        #expect(error(Self.whole, pageSize: page) == .invalid)
    }

    @Test func `M55 the edges are multiples of the space's alignment too`() throws {
        try space.startDirtyTracking()
        let half = range(100 * page + 2048, 101 * page - 1)
        #expect(error(half, pageSize: 512) == nil)
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: space)
        #expect(error(half, pageSize: 512) == .invalid)
        #expect(error(range(100 * page, 101 * page - 513), pageSize: 512) == .invalid)
        #expect(error(pages(100), pageSize: 512) == nil)
        pinning.destroy()
    }

    @Test(arguments: [(1, 1), (8, 1), (9, 2), (256, 32), (257, 33), (600, 75)] as [(UInt64, Int)])
    func `M55 a bitmap without room for every bit is refused`(pageCount: UInt64, byteCount: Int)
        throws
    {
        try space.startDirtyTracking()
        #expect(error(pages(100, pageCount), pageSize: page, byteCount: byteCount - 1) == .invalid)
        #expect(error(pages(100, pageCount), pageSize: page, byteCount: byteCount) == nil)
    }

    @Test func `M55 consumers, which do not report, and tracking exclude each other`() throws {
        let table = PageTable()
        try space.attach(table)
        #expect(throws: DMAError.notSupported) { try space.startDirtyTracking() }
        space.detach(table)
        try space.startDirtyTracking()
        let isRefused = errorOf { () throws(DMAError) in try space.attach(table) } == .notSupported
        #expect(isRefused || error(Self.whole, pageSize: page) == .notSupported)
        space.stopDirtyTracking()
        if isRefused { try space.attach(table) }
        space.detach(table)
    }

    @Test func `M56 each bit is its page, the lowest of each byte first, however many there are`()
        throws
    {
        try space.map(object, pages: pages(90, 300))
        try space.map(object, pages: pages(390, 400))
        try space.startDirtyTracking()
        let expected = [0, 7, 8, 9, 63, 64, 127, 255, 256, 257, 289, 290, 511, 512, 599]
        for number in expected.shuffled() { try write(at: (100 + UInt64(number)) * page + 17) }
        // Outside on both sides.
        try write(at: 99 * page)
        try write(at: 700 * page)
        #expect(try dirty(Self.whole, clearing: false) == expected)
        #expect(try dirty(pages(356, 4), clearing: false) == [0, 1])
        #expect(
            try dirty(pages(363, 300), clearing: false)
                == expected.map { $0 - 263 }.filter { (0..<300).contains($0) })
        #expect(try dirty(pages(90, 700), clearing: false) == [9] + expected.map { $0 + 10 } + [610])
    }

    @Test func `M56 bits are only set, at any address of the bitmap, and none behind the last`()
        throws
    {
        try space.map(object, pages: Self.whole)
        try space.startDirtyTracking()
        try write(at: 103 * page)
        var bitmap: [UInt8] = [0xff, 0b0100_0001, 0, 0x80, 0xee]
        try read(pages(100, 19), pageSize: page, into: &bitmap, from: 1)
        #expect(bitmap == [0xff, 0b0100_1001, 0, 0x80, 0xee])
    }

    @Test(arguments: [512, 1024, 2048] as [UInt64])
    func `M57 pages smaller than what is tracked are dirty together or each for itself`(
        pageSize: UInt64
    ) throws {
        try space.map(object, pages: Self.whole)
        try space.startDirtyTracking()
        try write(at: 103 * page + 2100)
        let perPage = Int(page / pageSize)
        let found = try dirty(Self.whole, pageSize: pageSize, clearing: false)
        #expect(found.contains(3 * perPage + Int(2100 / pageSize)))
        #expect(found.allSatisfy { (3 * perPage..<4 * perPage).contains($0) })
        #expect(try dirty(Self.whole) == [3])
        #expect(try dirty(Self.whole, pageSize: pageSize) == [])
    }

    @Test(arguments: [2, 4, 20, 100] as [UInt64])
    func `M57 a page larger than what is tracked is dirty if a part of it is`(factor: UInt64) throws {
        try space.map(object, pages: pages(100, 400))
        try space.map(object, pages: pages(500, 200))
        try space.startDirtyTracking()
        let numbers = [0, 1, 99, 100, 399, 400, 401, 599] as [UInt64]
        for number in numbers { try write(at: (100 + number) * page) }
        let expected = Set(numbers.map { Int($0 / factor) }).sorted()
        #expect(try dirty(Self.whole, pageSize: factor * page, clearing: false) == expected)
        #expect(try dirty(Self.whole, pageSize: factor * page) == expected)
        #expect(try dirty(Self.whole) == [])
    }

    @Test func `M57 a page may be a sixteenth of the whole space`() throws {
        try space.map(object, pages: pages(100, 4))
        try space.map(
            .file(object, offset: 0), at: iova(.max - page + 1), byteCount: page, rights: .write)
        try space.startDirtyTracking()
        try write(at: 102 * page)
        #expect(try dirty(.everything, pageSize: 1 << 60, clearing: false) == [0])
        try write(at: .max)
        #expect(try dirty(.everything, pageSize: 1 << 60, clearing: false) == [0, 15])
        #expect(try dirty(range(.max - page + 1, .max)) == [0])
        #expect(try dirty(.everything, pageSize: 1 << 60) == [0])
        #expect(try dirty(.everything, pageSize: 1 << 60) == [])
    }

    @Test func `M58 a look cleans what it looked at, and only that, unless it only reads`() throws {
        try space.map(object, pages: Self.whole)
        try space.startDirtyTracking()
        for number in 0..<600 as Range<UInt64> where number % 3 == 0 {
            try write(at: (100 + number) * page)
        }
        let all = (0..<600).filter { $0 % 3 == 0 }
        #expect(try dirty(Self.whole, clearing: false) == all)
        #expect(try dirty(Self.whole, clearing: false) == all)
        #expect(try dirty(pages(400, 10)) == [0, 3, 6, 9])
        #expect(try dirty(pages(400, 10)) == [])
        #expect(try dirty(Self.whole, clearing: false) == all.filter { !(300..<310).contains($0) })
        #expect(try dirty(Self.whole) == all.filter { !(300..<310).contains($0) })
        #expect(try dirty(Self.whole) == [])
        try write(at: 403 * page)
        #expect(try dirty(Self.whole) == [303])
    }

    @Test func `M59 tracking starts clean each time, and ends`() throws {
        try space.map(object, pages: Self.whole)
        try write(at: 100 * page)
        try space.startDirtyTracking()
        #expect(try dirty(Self.whole) == [])
        try write(at: 101 * page)
        try space.startDirtyTracking()
        #expect(try dirty(Self.whole) == [])
        try write(at: 102 * page)
        space.stopDirtyTracking()
        try write(at: 103 * page)
        #expect(error(Self.whole, pageSize: page) == .invalid)
        space.stopDirtyTracking()
        try space.startDirtyTracking()
        #expect(try dirty(Self.whole) == [])
        try write(at: 104 * page)
        #expect(try dirty(Self.whole) == [4])
    }

    @Test func `M60 holes are clean, before, between and behind mappings`() throws {
        for number in [110, 111, 400, 690] as [UInt64] { try space.map(object, pages: pages(number)) }
        try space.startDirtyTracking()
        for number in [110, 400, 690] as [UInt64] { try write(at: number * page + 4095) }
        #expect(try dirty(Self.whole, clearing: false) == [10, 300, 590])
        #expect(try dirty(pages(112, 288)) == [])
        #expect(try dirty(pages(112, 289)) == [288])
        #expect(try dirty(Self.whole) == [10, 590])
    }

    @Test func `M60 a space without mappings is clean`() throws {
        try space.startDirtyTracking()
        #expect(try dirty(Self.whole) == [])
        try space.map(object, pages: pages(100, 10))
        try write(at: 105 * page)
        #expect(try dirty(Self.whole, clearing: false) == [5])
    }

    @Test func `M61 a write makes dirty what it has written, a read nothing`() throws {
        try space.map(object, pages: pages(100, 10))
        try space.map(object, pages: pages(110, 10))
        try space.map(object, pages: pages(125), rights: .read)
        let peer = PeerMemory(byteCount: 200 * Int(page))
        try space.map(
            .remote(peer), at: iova(120 * page), byteCount: 5 * page, rights: [.read, .write])
        try space.startDirtyTracking()
        _ = try access.read(pages(100, 26))
        #expect(try dirty(Self.whole) == [])
        try write(2, at: 101 * page - 1)
        #expect(try dirty(Self.whole) == [0, 1])
        // Over two mappings, and into remote memory.
        try write(Int(page) * 12, at: 109 * page + 5)
        #expect(try dirty(Self.whole) == Array(9...21))
        // What stops a write does not make it undone.
        #expect(throws: DMAError.notPermitted) { try write(Int(page) * 3, at: 123 * page) }
        #expect(try dirty(Self.whole) == [23, 24])
        #expect(throws: DMAError.notPermitted) { try write(at: 125 * page) }
        #expect(throws: DMAError.notFound) { try write(at: 126 * page) }
        #expect(try dirty(Self.whole) == [])
    }

    @Test func `M61 a pin for writing makes all of its pages dirty when it is released`() throws {
        try space.map(object, pages: pages(100, 300))
        try space.map(object, pages: pages(400, 300))
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: space)
        let early = try pinning.pin(pages(110), rights: .write)
        try space.startDirtyTracking()
        let pinned = try pinning.pin(range(395 * page, 403 * page), rights: [.read, .write])
        let other = try pinning.pin(pages(600), rights: .read)
        _ = try dirty(Self.whole)
        // Whatever was told before: the device may write until now.
        pinned.unpin()
        #expect(try dirty(Self.whole) == Array(295...303))
        other.unpin()
        #expect(try dirty(Self.whole) == [])
        early.unpin()
        #expect(try dirty(Self.whole) == [10])
        pinning.destroy()
    }

    @Test func `M61 a pin that is kept tells what was written when it is asked to, if it may write`() throws {
        try space.map(object, pages: pages(100, 3))
        try space.map(object, pages: pages(103, 3))
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: space)
        let pinned = try pinning.pin(range(101 * page, 104 * page), rights: .write)
        let other = try pinning.pin(pages(105), rights: .read)
        pinned.noteWrite()
        try space.startDirtyTracking()
        for _ in 0..<2 {
            pinned.noteWrite()
            other.noteWrite()
            #expect(try dirty(Self.whole) == [1, 2, 3, 4])
            #expect(try dirty(Self.whole) == [])
        }
        space.stopDirtyTracking()
        for pin in [PinnedBox(pinned), PinnedBox(other)] { pin.unpin() }
        pinning.destroy()
    }

    /// Remote memory whose owner does something before it has written, and then fails or not.
    private struct SlowMemory: RemoteMemory {
        let fails: Bool
        let meanwhile: @Sendable () -> Void

        func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {}
        func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
            meanwhile()
            if fails { throw .inputOutput }
        }
    }

    @Test(arguments: [false, true])
    func `M61 what a message wrote is dirty though it failed, or its access was detached meanwhile`(fails: Bool) throws
    {
        let access = access
        let memory = SlowMemory(fails: fails) { if !fails { try? access.detach() } }
        try space.map(.remote(memory), at: iova(100 * page), byteCount: 5 * page, rights: .write)
        try space.startDirtyTracking()
        let error = errorOf { () throws(DMAError) in
            try access.write([UInt8](repeating: 1, count: 2 * Int(page)), to: iova(101 * page))
        }
        #expect(error == (fails ? .inputOutput : nil))
        #expect(try dirty(Self.whole) == [1, 2])
    }

    @Test func `M58 a page that lies only partly in the range is reported and stays dirty`() throws {
        try space.map(object, pages: Self.whole)
        try space.startDirtyTracking()
        try write(at: 100 * page)
        let half = range(100 * page, 100 * page + page / 2 - 1)
        for _ in 0..<2 { #expect(try dirty(half, pageSize: page / 2) == [0]) }
        #expect(try dirty(pages(100)) == [0])
        #expect(try dirty(half, pageSize: page / 2) == [])
    }

    @Test func `M61 what was written is dirty though its mapping has gone`() throws {
        try space.map(object, pages: pages(100, 2))
        try space.startDirtyTracking()
        try write(at: 101 * page)
        try space.unmap(.everything)
        #expect(try dirty(Self.whole) == [1])
    }

    @Test
    func `M61 memory that is used in place for writing is dirty afterwards, for reading it is not`()
        throws
    {
        try space.map(object, pages: pages(100, 10))
        try space.map(object, pages: pages(110, 10))
        try space.startDirtyTracking()
        try unsafe access.withMemory(range(105 * page + 9, 106 * page + 8), rights: .read) { _ in }
        #expect(try dirty(Self.whole) == [])
        try unsafe access.withMemory(range(105 * page + 9, 106 * page + 8), rights: .write) { memory in
            unsafe memory[0] = 7
        }
        #expect(try dirty(Self.whole) == [5, 6])
        #expect(throws: DMAError.notFound) {
            try unsafe access.withMemory(pages(120), rights: .write) { _ in }
        }
        #expect(try dirty(Self.whole) == [])
    }

    /// As a migration does it: what was dirty is copied until nothing is, while a device goes on.
    @Test func `M58, M61 a copy of what was dirty becomes the same as the memory`() throws {
        try space.map(object, pages: Self.whole)
        let pinning = DMAAccess(needsPin: true) { _ in }
        try pinning.attach(to: space)
        let copy = try MemoryObject.anonymous(byteCount: object.byteCount)
        try space.startDirtyTracking()
        let isWriting = Shared(true)
        // Keeps the bytes of a write and of a copy apart, and nothing else.
        // (A state of no bytes would look to the thread sanitizer like its neighbour.)
        let bytes = Monitor(false)
        let access = access
        let threads = try (0..<2 as Range<UInt64>).map { index in
            try OSThread(name: "device \(index)") {
                var random = SeededNumbers(seed: index)
                for round in 0..<20_000 {
                    let first = (100 + UInt64.random(in: 0..<598, using: &random)) * page
                    let byte = UInt8(truncatingIfNeeded: round)
                    bytes.withLock { _ in
                        if round % 4 == 0,
                            let pinned = try? pinning.pin(range(first, first + page), rights: .write)
                        {
                            _ = pinned.segmentSizes(writing: byte)
                            pinned.unpin()
                        } else {
                            try? access.write(
                                [byte], to: iova(first + UInt64.random(in: 0..<page, using: &random)))
                        }
                    }
                }
            }
        }
        let waiter = try OSThread(name: "waiter") {
            for thread in threads { thread.join() }
            isWriting.update { $0 = false }
        }
        var isLast = false
        repeat {
            isLast = !isWriting.value
            for number in try dirty(Self.whole) {
                let target = pages(100 + UInt64(number))
                bytes.withLock { _ in
                    for place in Int(target.first.rawValue)...Int(target.last.rawValue) {
                        unsafe copy.bytes[place] = object.bytes[place]
                    }
                }
            }
        } while !isLast
        waiter.join()
        #expect(try dirty(Self.whole) == [])
        #expect(unsafe copy.bytes.elementsEqual(object.bytes))
        pinning.destroy()
    }
}
