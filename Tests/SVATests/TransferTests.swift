import DMA
import LinuxHost
import SVA
import Testing

@Suite struct `Reading, writing and pinning with a PASID` {
    let system: System
    let process: Process
    let device: SVADevice

    init() throws {
        system = try System()
        process = try system.process(mark: 0, pageCount: 64)
        device = try system.device()
        _ = try device.bind(process.context)
        for number in 0..<64 {
            unsafe process.object.bytes.storeBytes(of: UInt8(number), toByteOffset: number * Int(page), as: UInt8.self)
        }
    }

    @Test func `a read brings the pages that it misses, a group at a time, and copies them all`() throws {
        let all = try device.read(pages(0, 64), pasid(1))
        #expect((0..<64).allSatisfy { all[$0 * Int(page)] == UInt8($0) })
        #expect(Set(process.pager.askedPages) == Set(0..<64))
        #expect(process.pager.askedPages.count == 64)
        _ = try device.read(pages(0, 64), pasid(1))
        #expect(process.pager.askedPages.count == 64)
        device.remove()
    }

    @Test func `a write that begins and ends within pages reaches exactly its bytes`() throws {
        let start = iova(page - 3)
        try device.write([UInt8](repeating: 0xee, count: Int(page) + 6), to: start, pasid(1))
        #expect(process.pager.askedPages == [0, 1, 2])
        let whole = try device.read(pages(0, 3), pasid(1))
        #expect(whole.count(where: { $0 == 0xee }) == Int(page) + 6)
        #expect(whole[Int(page) - 4] != 0xee)
        #expect(whole[Int(page) - 3] == 0xee)
        #expect(whole[2 * Int(page) + 2] == 0xee)
        #expect(whole[2 * Int(page) + 3] != 0xee)
        device.remove()
    }

    @Test func `a read that meets a page which is refused fails, and others do not`() throws {
        #expect(errorOf { () throws(AccessFailure) in _ = try device.read(pages(60, 8), pasid(1)) } == .refused)
        #expect(device.mark(pasid(1), page: 63) == .success(63))
        device.remove()
    }

    @Test func `pages up to the last byte of the space are asked for`() throws {
        let last = IOVARange(first: IOVA(.max - 5000), last: IOVA(.max))
        #expect(errorOf { () throws(AccessFailure) in _ = try device.read(last, pasid(1)) } == .refused)
        #expect(system.record.requests.map(\.page.rawValue) == [UInt64.max - 8191, UInt64.max - 4095])
        let past = errorOf { () throws(AccessFailure) in try device.write([1, 2], to: IOVA(.max), pasid(1)) }
        #expect(past == .memory(.overflow))
        let empty = errorOf { () throws(AccessFailure) in try device.write([], to: IOVA(0), pasid(1)) }
        #expect(empty == .memory(.invalid))
        device.remove()
    }

    @Test func `a pin brings all its pages and holds them`() throws {
        let pinned = try device.pin(pages(8, 40), pasid: pasid(1), rights: [.read, .write])
        #expect(pinned.byteCount == 40 * Int(page))
        #expect(process.pager.askedPages == Array(8..<48))
        #expect(process.space.mappings().allSatisfy { $0.pinCount == 1 })
        pinned.unpin()
        device.remove()
    }

    @Test func `the function's own accesses and those with a PASID reach what each is attached to`() throws {
        let other = try system.process(mark: 0x77)
        try other.map(0)
        try device.attach(other.space)
        #expect(device.mark(nil) == .success(0x77))
        #expect(device.mark(pasid(1), page: 5) == .success(5))
        device.remove()
    }

    @Test func `an access with no rights asks nobody and fails at once`() throws {
        let pin = errorOf { () throws(AccessFailure) in
            try device.pin(pages(0), pasid: pasid(1), rights: []).unpin()
        }
        #expect(pin == .memory(.invalid))
        let translations = errorOf { () throws(AccessFailure) in
            try unsafe device.withTranslations(of: pages(0), pasid: pasid(1), rights: []) { _ in }
        }
        #expect(translations == .memory(.invalid))
        #expect(system.record.requests == [])
        device.remove()
    }

    @Test(arguments: [false, true])
    func `what was transferred before a page was missing is not transferred again`(isRemote: Bool) throws {
        let object = try MemoryObject.anonymous(byteCount: 3 * Int(page))
        let peer = PeerBytes(count: 3 * Int(page), at: 0)
        let space = IOAddressSpace()
        @Sendable func map(_ number: UInt64) -> DMAError? {
            let backing = isRemote ? MappingBacking.remote(peer) : .file(object, offset: number * page)
            return errorOf { () throws(DMAError) in
                try space.map(backing, at: IOVA(number * page), byteCount: page, rights: [.read, .write])
            }
        }
        @Sendable func contents() -> [UInt8] { isRemote ? peer.bytes : unsafe [UInt8](object.bytes) }
        #expect(map(0) == nil)
        let seen = Shared<[UInt8]>([])
        let handler = GroupKeeper { group in
            // Whoever waits for the first bytes has them, and goes on to use their place.
            seen.update { $0.append(contents()[0]) }
            if isRemote { peer.setFirst(0x55) } else { unsafe object.bytes[0] = 0x55 }
            for number in group.pageNumbers { #expect(map(number) == nil) }
            group.respond(.success)
        }
        let device = try system.device { $0.requestsPerGroup = 1 }
        try device.attach(space, to: pasid(9), handler: handler)
        try device.write([UInt8](repeating: 0xee, count: 3 * Int(page)), to: iova(0), pasid(9))
        #expect(seen.value == [0xee, 0x55])
        #expect(contents()[0] == 0x55)
        #expect(contents().dropFirst().allSatisfy { $0 == 0xee })
        try space.unmap(pages(1, 2))
        if isRemote { peer.setFirst(0x77) } else { unsafe object.bytes[0] = 0x77 }
        #expect(try device.read(pages(0, 3), pasid(9))[0] == 0x77, "it was read before the handler was asked")
        device.remove()
        self.device.remove()
    }

    @Test func `memory that is reached by messages is read and written, beside memory whose pages are asked for`()
        throws
    {
        let peer = PeerBytes(count: Int(page))
        try process.space.map(.remote(peer), at: iova(page), byteCount: page, rights: [.read, .write])
        try device.write([UInt8](repeating: 9, count: 3 * Int(page)), to: iova(0), pasid(1))
        #expect(process.pager.askedPages == [0, 2])
        #expect(peer.bytes.allSatisfy { $0 == 9 })
        #expect(try device.read(pages(0, 4), pasid(1)).prefix(3 * Int(page)).allSatisfy { $0 == 9 })
        #expect(process.pager.askedPages == [0, 2, 3])
        #expect(try device.read(bytes(16, ofPage: 1), pasid(1)) == [UInt8](repeating: 9, count: 16))
        #expect(try device.read(pages(0, 64), pasid(1))[Int(page)] == 9)
        device.remove()
    }

    @Test func `what cannot be pinned is not asked for, however long it is`() throws {
        let peer = PeerBytes(count: Int(page))
        let length: UInt64 = 1 << 60
        let long = IOVARange(first: IOVA(length), last: IOVA(2 * length - 1))
        try process.space.map(.remote(peer), at: long.first, byteCount: length, rights: [.read, .write])
        for range in [long, IOVARange(first: long.first, last: IOVA(long.first.rawValue + 99))] {
            let error = errorOf { () throws(AccessFailure) in
                try device.pin(range, pasid: pasid(1), rights: .read).unpin()
            }
            #expect(error == .memory(.invalid))
        }
        #expect(system.record.requests == [])
        device.remove()
    }

    @Test func `a page that is unmapped while devices read is asked for again and never read wrong`() throws {
        let isOver = Shared(false)
        let (process, device) = (process, device)
        let wrong = Shared<[String]>([])
        let readers = try (0..<3 as Range<UInt64>).map { seed in
            try OSThread(name: "reader") {
                var random = SeededGenerator(seed: seed)
                for _ in 0..<400 {
                    let number = UInt64.random(in: 0..<4, using: &random)
                    let mark = device.mark(pasid(1), page: number)
                    // A page that is taken away each time may be missed too often; nothing else may happen.
                    if mark != .success(UInt8(number)) && mark != .failure(.tooManyFaults) {
                        wrong.update { $0.append("page \(number): \(mark)") }
                    }
                }
            }
        }
        let thief = try OSThread(name: "thief") {
            var random = SeededGenerator(seed: 99)
            while !isOver.value {
                let number = UInt64.random(in: 0..<4, using: &random)
                let error = errorOf { () throws(DMAError) in try process.space.unmap(pages(number)) }
                if let error, error != .notFound, error != .busy { wrong.update { $0.append("unmap: \(error)") } }
            }
        }
        for reader in readers { reader.join() }
        isOver.update { $0 = true }
        thief.join()
        #expect(wrong.value == [])
        #expect(system.record.unbalanced.isEmpty)
        device.remove()
    }
}

@Suite struct `Translations that a device keeps` {
    let system: System
    let process: Process
    let device: SVADevice

    init() throws {
        system = try System()
        process = try system.process(mark: 5, pageCount: 16)
        device = try system.device { $0.cachedTranslations = 4 }
        _ = try device.bind(process.context)
    }

    /// Reads the first byte of a page through a translation, and calls `body` while that is in use.
    private func look(_ number: UInt64, rights: AccessRights = .read, _ body: () -> Void = {}) throws -> UInt8 {
        var mark: UInt8 = 0
        try unsafe device.withTranslations(of: bytes(1, ofPage: number), pasid: pasid(1), rights: rights) { memory in
            mark = unsafe memory[0]
            body()
        }
        return mark
    }

    private func pinCounts() -> [UInt64: Int] {
        Dictionary(
            uniqueKeysWithValues: process.space.mappings().map { ($0.range.first.rawValue / page, Int($0.pinCount)) })
    }

    @Test func `a page stays pinned after its use, once for each kind of rights`() throws {
        #expect(try look(1) == 5)
        #expect(try look(1) == 5)
        #expect(pinCounts() == [1: 1])
        #expect(device.cachedTranslationCount == 1)
        #expect(try look(1, rights: .write) == 5)
        #expect(pinCounts() == [1: 2])
        #expect(process.pager.askedPages == [1])
        device.remove()
        #expect(pinCounts() == [1: 0])
    }

    @Test func `no more are kept than there is room for, and one that was used lately is not the first to go`() throws {
        for number in 0..<4 as Range<UInt64> { _ = try look(number) }
        #expect(device.cachedTranslationCount == 4)
        _ = try look(4)
        #expect(device.cachedTranslationCount == 4)
        for number in [5, 4, 6, 4, 7, 4] as [UInt64] { _ = try look(number) }
        #expect(pinCounts()[4] == 1)
        #expect(pinCounts().values.reduce(0, +) == 4)
        device.remove()
    }

    @Test func `when all are in use a page is pinned for one use`() throws {
        var marks: [UInt8] = []
        func nest(_ number: UInt64) throws {
            marks.append(
                try look(number) { if number < 5 { #expect(throws: Never.self) { try nest(number + 1) } } })
        }
        try nest(0)
        #expect(marks.count == 6)
        #expect(device.cachedTranslationCount == 4)
        #expect(pinCounts().values.reduce(0, +) == 4)
        device.remove()
    }

    @Test func `an unmap is the invalidation, and is complete when the device has let go`() throws {
        _ = try look(2)
        try process.space.unmap(pages(2))
        #expect(device.cachedTranslationCount == 0)
        let isInUse = Shared(false)
        let isReleased = Shared(false)
        let isUnmapped = Shared(false)
        let device = device
        let user = try OSThread(name: "user") {
            let error = errorOf { () throws(AccessFailure) in
                try unsafe device.withTranslations(of: pages(3), pasid: pasid(1), rights: .read) { _ in
                    isInUse.update { $0 = true }
                    isReleased.wait { $0 }
                }
            }
            #expect(error == nil)
        }
        isInUse.wait { $0 }
        let process = process
        let unmapper = try OSThread(name: "unmapper") {
            // The page is struck out at once; the pin holds it up for as long as its user has it.
            var error: DMAError?
            keepingPins {
                repeat {
                    error = errorOf { () throws(DMAError) in try process.space.unmap(pages(3)) }
                } while error == .deadlock
            }
            #expect(error == nil)
            isUnmapped.update { $0 = true }
        }
        while device.cachedTranslationCount > 0 {}
        #expect(!isUnmapped.value)
        #expect(process.space.mappings().count == 1)
        isReleased.update { $0 = true }
        unmapper.join()
        user.join()
        #expect(process.space.mappings().isEmpty)
        #expect(try look(3) == 5)
        #expect(process.pager.askedPages == [2, 3, 3])
        device.remove()
    }

    @Test func `the end of a PASID takes its translations along and leaves others`() throws {
        let other = try system.process(mark: 6)
        let handle = try device.bind(other.context)
        _ = try look(0)
        try unsafe device.withTranslations(of: pages(0), pasid: pasid(2), rights: .read) { _ in }
        #expect(device.cachedTranslationCount == 2)
        try handle.unbind()
        #expect(device.cachedTranslationCount == 1)
        #expect(other.space.mappings().map(\.pinCount) == [0])
        #expect(pinCounts() == [0: 1])
        device.remove()
    }

    @Test func `a range is walked page by page, and what follows a refused page is not seen`() throws {
        var sizes: [Int] = []
        let first = IOVA(14 * page + 100)
        let error = errorOf { () throws(AccessFailure) in
            try unsafe device.withTranslations(
                of: IOVARange(first: first, last: IOVA(17 * page)), pasid: pasid(1), rights: .read
            ) { memory in
                sizes.append(memory.count)
            }
        }
        #expect(error == .refused)
        #expect(sizes == [Int(page) - 100, Int(page)])
        device.remove()
    }

    @Test func `a space with smaller pages than a request's is refused, and its pins are given back`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.pageSize = 512
        let space = IOAddressSpace(configuration)
        for part in 0..<8 as Range<UInt64> {
            let offset = (7 - part) * 512
            try space.map(.file(process.object, offset: offset), at: IOVA(part * 512), byteCount: 512, rights: .read)
        }
        try device.attach(space, to: pasid(9))
        let error = errorOf { () throws(AccessFailure) in
            try unsafe device.withTranslations(of: pages(0), pasid: pasid(9), rights: .read) { _ in }
        }
        #expect(error == .memory(.invalid))
        #expect(space.mappings().allSatisfy { $0.pinCount == 0 })
        #expect(device.mark(pasid(9)) == .success(5))
        device.remove()
    }

    @Test func `a device that keeps none pins for each use`() throws {
        let device = try system.device { $0.cachedTranslations = 0 }
        _ = try device.bind(process.context)
        try unsafe device.withTranslations(of: pages(0), pasid: pasid(1), rights: .read) { _ in
            #expect(pinCounts() == [0: 1])
        }
        #expect(pinCounts() == [0: 0])
        device.remove()
        self.device.remove()
    }

    @Test func `what is written through a kept translation is tracked at each use`() throws {
        _ = try look(1, rights: .write)
        try process.space.startDirtyTracking()
        func dirty() -> [IOVARange] {
            var ranges: [IOVARange] = []
            process.space.visitDirty(.everything) { ranges.append($0) }
            return ranges
        }
        _ = try look(1, rights: .write)
        #expect(dirty() == [pages(1)])
        _ = try look(1)
        #expect(dirty() == [])
        device.remove()
        #expect(dirty() == [pages(1)], "a pin that could have been written through counts as written when it goes")
    }
}
