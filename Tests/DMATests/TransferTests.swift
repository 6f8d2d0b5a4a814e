import Glibc
import LinuxHost
import Randomness
import Testing

@testable import DMA

/// What stands behind the mappings of a transfer test.
enum Variant: String, CaseIterable, Sendable {
    case file, remote, both
}

@Suite struct `Reading and writing` {
    /// Sixteen pages of memory at addresses 0 and up, some of this process and some of a peer, known to both by the
    /// same offsets.
    final class Fixture {
        let space = IOAddressSpace()
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        let object: MemoryObject
        let variant: Variant

        init(_ variant: Variant) throws {
            self.variant = variant
            object = try .anonymous(byteCount: 16 * Int(page))
            try access.attach(to: space)
        }

        deinit { access.destroy() }

        func map(_ range: IOVARange, rights: AccessRights = [.read, .write]) throws {
            let isRemote = variant == .remote || (variant == .both && (range.first.rawValue / page) % 2 == 1)
            let backing: MappingBacking =
                isRemote
                ? .remote(PeerMemory(byteCount: 16 * Int(page))) : .file(object, offset: range.first.rawValue)
            try space.map(backing, at: range.first, byteCount: range.byteCount, rights: rights)
        }

        func readError(_ range: IOVARange) -> DMAError? {
            errorOf { () throws(DMAError) in _ = try access.read(range) }
        }

        func writeError(_ range: IOVARange) -> DMAError? {
            errorOf { () throws(DMAError) in
                try access.write([UInt8](repeating: 1, count: Int(range.byteCount)), to: range.first)
            }
        }
    }

    @Test(arguments: Variant.allCases)
    func `R68, R72 any bytes of any mappings come back as they were written`(variant: Variant) throws {
        let fixture = try Fixture(variant)
        for page in 0..<8 as Range<UInt64> { try fixture.map(pages(page)) }
        let bytes = (0..<Int(5 * page)).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        try fixture.access.write(bytes, to: iova(page / 2 + 3))
        #expect(try fixture.access.read(IOVARange(first: iova(page / 2 + 3), byteCount: 5 * page)) == bytes)
        #expect(try fixture.access.read(range(page + 5, page + 5)) == [bytes[Int(page / 2) + 2]])
        #expect(try fixture.access.read(range(0, 9)) == [UInt8](repeating: 0, count: 10))
    }

    @Test(arguments: Variant.allCases)
    func `R69 a hole is not found, and R70 the bytes before it have been transferred`(variant: Variant) throws {
        let fixture = try Fixture(variant)
        try fixture.map(pages(1))
        try fixture.map(pages(2))
        try fixture.map(pages(4))
        for hole in [pages(0), pages(0, 2), pages(2, 3), pages(3), range(5 * page - 1, 5 * page)] {
            #expect(fixture.readError(hole) == .notFound)
        }
        #expect(fixture.writeError(pages(2, 2)) == .notFound)
        #expect(try fixture.access.read(range(3 * page - 2, 3 * page - 1)) == [1, 1])
    }

    @Test(arguments: Variant.allCases)
    func `R69, R76 reading needs the read right and writing the write right, and neither the other`(
        variant: Variant
    ) throws {
        let fixture = try Fixture(variant)
        try fixture.map(pages(1), rights: .read)
        try fixture.map(pages(2), rights: .write)
        #expect(fixture.readError(pages(1)) == nil)
        #expect(fixture.writeError(pages(1)) == .notPermitted)
        #expect(fixture.readError(pages(2)) == .notPermitted)
        #expect(fixture.writeError(pages(2)) == nil)
    }

    @Test(arguments: Variant.allCases)
    func `R67 no bytes, bytes past the top and a missing attachment each have their error`(variant: Variant) throws {
        let fixture = try Fixture(variant)
        try fixture.map(pages(0))
        #expect(errorOf { () throws(DMAError) in try fixture.access.write([], to: iova(0)) } == .invalid)
        #expect(errorOf { () throws(DMAError) in try fixture.access.write([1, 2], to: iova(.max)) } == .overflow)
        try fixture.access.detach()
        #expect(errorOf { () throws(DMAError) in try fixture.access.write([1, 2], to: iova(.max)) } == .overflow)
        #expect(fixture.readError(pages(0)) == .notFound)
        #expect(fixture.writeError(pages(0)) == .notFound)
    }

    @Test func `a buffer of another size than the range is refused`() throws {
        let fixture = try Fixture(.file)
        try fixture.map(pages(0))
        var bytes = [UInt8](repeating: 0, count: 10)
        for last in [8, 10] as [UInt64] {
            let error = unsafe bytes.withUnsafeMutableBytes { buffer in
                errorOf { () throws(DMAError) in unsafe try fixture.access.read(range(0, last), into: buffer) }
            }
            #expect(error == .invalid)
        }
    }

    @Test func `R69 what remote memory answers is the caller's error`() throws {
        let fixture = try Fixture(.remote)
        try fixture.space.map(
            .remote(PeerMemory(byteCount: 10)), at: iova(0), byteCount: 20, rights: [.read, .write])
        #expect(fixture.readError(range(0, 9)) == nil)
        #expect(fixture.readError(range(0, 10)) == .badAddress)
        #expect(fixture.writeError(range(5, 15)) == .badAddress)
    }

    /// Remote memory that moves the access elsewhere while a transfer through it is under way.
    private struct MovingMemory: RemoteMemory {
        let move: @Sendable () throws(DMAError) -> Void

        func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) { try move() }
        func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) { try move() }
    }

    @Test(arguments: [false, true])
    func `R40 a transfer never goes on in the address space that replaced its own`(isWrite: Bool) throws {
        let fixture = try Fixture(.file)
        let other = IOAddressSpace()
        let access = fixture.access
        fixture.object.fill(pages(1), with: 9)
        try other.map(fixture.object, pages: pages(1))
        try fixture.map(pages(1))
        try fixture.space.map(
            .remote(MovingMemory { () throws(DMAError) in try access.replace(with: other) }), at: iova(0),
            byteCount: page, rights: [.read, .write])
        #expect((isWrite ? fixture.writeError(pages(0, 2)) : fixture.readError(pages(0, 2))) == .notFound)
        #expect(fixture.object.isFilled(pages(1), with: 9))
        #expect(try access.read(pages(1)) == [UInt8](repeating: 9, count: Int(page)))
    }

    @Test func `a transfer does not go on in an address space that took the memory of its own`() throws {
        let object = try MemoryObject.anonymous(byteCount: 2 * Int(page))
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        let spaces = Shared([IOAddressSpace()])
        let move: @Sendable () throws(DMAError) -> Void = { () throws(DMAError) in
            let roots = spaces.value[0].translation.bits
            try access.detach()
            spaces.update { $0 = [] }
            // The memory of what is gone is given out again, sooner or later.
            var random = SeededNumbers(seed: 1)
            for _ in 0..<10_000 where spaces.value.last?.translation.bits != roots {
                spaces.update { spaces in
                    let count = Int.random(in: 0..<8, using: &random)
                    spaces.removeFirst(min(spaces.count, count))
                    for _ in 0..<count { spaces.append(IOAddressSpace()) }
                }
            }
            guard let last = spaces.value.last else { throw .invalid }
            try last.map(object, pages: pages(1))
            try access.attach(to: last)
        }
        try access.attach(to: spaces.value[0])
        try spaces.value[0].map(.remote(MovingMemory(move: move)), at: iova(0), byteCount: page, rights: .write)
        try spaces.value[0].map(object, pages: pages(1))
        let error = errorOf { () throws(DMAError) in
            try access.write([UInt8](repeating: 1, count: 2 * Int(page)), to: iova(0))
        }
        #expect(error == .notFound)
        #expect(object.isFilled(pages(1), with: 0))
        access.destroy()
    }

    @Test func `R72 a transfer larger than one copy step arrives whole`() throws {
        let count = 5 << 20
        let object = try MemoryObject.anonymous(byteCount: count)
        let space = IOAddressSpace()
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        try space.map(.file(object, offset: 0), at: iova(7), byteCount: UInt64(count), rights: [.read, .write])
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 % 251) }
        try access.write(bytes, to: iova(7))
        #expect(try access.read(IOVARange(first: iova(7), byteCount: UInt64(count))) == bytes)
        access.destroy()
    }

    @Test func `R68 memory at the top of the space is read to its last byte`() throws {
        let fixture = try Fixture(.file)
        fixture.object.fill(pages(0), with: 3)
        try fixture.space.map(
            .file(fixture.object, offset: 0), at: iova(.max - 9), byteCount: 10, rights: [.read, .write])
        #expect(try fixture.access.read(range(.max - 9, .max)) == [UInt8](repeating: 3, count: 10))
        #expect(fixture.writeError(range(.max, .max)) == nil)
        #expect(fixture.object.byte(9) == 1)
    }

    @Test(arguments: Variant.allCases)
    func `R70 what was read before the hole is in the buffer, and nothing behind it is touched`(variant: Variant) throws
    {
        let fixture = try Fixture(variant)
        for number in [1, 2, 4] as [UInt64] { try fixture.map(pages(number)) }
        try fixture.access.write([UInt8](repeating: 5, count: 2 * Int(page)), to: iova(page))
        var buffer = [UInt8](repeating: 0xee, count: 4 * Int(page))
        let error = unsafe buffer.withUnsafeMutableBytes { buffer in
            errorOf { () throws(DMAError) in unsafe try fixture.access.read(pages(1, 4), into: buffer) }
        }
        #expect(error == .notFound)
        #expect(buffer[..<(2 * Int(page))].allSatisfy { $0 == 5 })
        #expect(buffer[(2 * Int(page))...].allSatisfy { $0 == 0xee })
        #expect(fixture.writeError(pages(0, 3)) == .notFound)
        #expect(try fixture.access.read(range(page, page)) == [5])
    }

    @Test func `R70 a mapping without the right stops a transfer where it begins`() throws {
        let fixture = try Fixture(.file)
        try fixture.map(pages(1))
        try fixture.map(pages(2), rights: .read)
        #expect(fixture.writeError(pages(1, 2)) == .notPermitted)
        #expect(fixture.object.isFilled(pages(1), with: 1))
        #expect(fixture.object.isFilled(pages(2), with: 0))
    }

    @Test(arguments: Variant.allCases)
    func `R71 a transfer is no pin: nobody is asked to let go, and nothing is counted`(variant: Variant) throws {
        let fixture = try Fixture(variant)
        let calls = Shared(0)
        let witness = DMAAccess(needsPin: false) { _ in calls.update { $0 += 1 } }
        try witness.attach(to: fixture.space)
        let isOver = Shared(false)
        let (access, unexpected) = (fixture.access, Shared<[DMAError]>([]))
        let thread = try OSThread(name: "reader") {
            while !isOver.value {
                let error = errorOf { () throws(DMAError) in _ = try access.read(pages(0, 2)) }
                if let error, error != .notFound, error != .invalid, error != .cancelled {
                    unexpected.update { $0.append(error) }
                }
            }
        }
        for _ in 0..<300 {
            for number in [0, 1] as [UInt64] { try fixture.map(pages(number)) }
            sched_yield()
            #expect(fixture.space.mappings().allSatisfy { $0.pinCount == 0 })
            try fixture.space.unmap(pages(0, 2))
        }
        isOver.update { $0 = true }
        thread.join()
        #expect(calls.value == 0)
        #expect(unexpected.value == [])
        witness.destroy()
    }

    @Test func `R74 neither a promise to pin nor a callback is needed to read and write`() throws {
        let space = IOAddressSpace()
        try space.map(
            .file(try .anonymous(byteCount: Int(page)), offset: 1), at: iova(3), byteCount: 9, rights: [.read, .write])
        let deaf = DMAAccess(needsPin: false, onUnmap: nil)
        let hearing = DMAAccess(needsPin: false) { _ in }
        for access in [deaf, hearing] {
            try access.attach(to: space)
            try access.write([4, 5], to: iova(10))
            #expect(try access.read(range(9, 11)) == [0, 4, 5])
        }
        for access in [deaf, hearing] { access.destroy() }
    }
}
