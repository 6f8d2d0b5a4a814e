import DMA
import Testing

/// A program written against the module's documented face alone: every spelling that others compile against is used
/// here, with the type it is documented to have.
@Suite struct `The public face` {
    /// A second page table that only counts.
    final class PageTable: MappingConsumer {
        let aperture: IOVARange
        let granule: UInt64
        private let entries = Shared<[IOVARange]>([])

        init(aperture: IOVARange, granule: UInt64) {
            self.aperture = aperture
            self.granule = granule
        }

        var ranges: [IOVARange] { entries.value }

        func map(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) throws(DMAError) {
            entries.update { $0.append(range) }
        }

        func unmap(_ range: IOVARange) {
            entries.update { $0.removeAll { $0 == range } }
        }
    }

    /// Remote memory with the two requirements that the face names, and no more.
    struct Zeros: RemoteMemory {
        func read(at iova: IOVA, into: UnsafeMutableRawBufferPointer) throws(DMAError) {
            _ = unsafe into.initializeMemory(as: UInt8.self, repeating: 0)
        }

        func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
            throw .notPermitted
        }
    }

    @Test func `addresses and ranges`() throws {
        let address: IOVA = IOVA(rawValue: 0x1000)
        let raw: UInt64 = address.rawValue
        #expect(address < IOVA(rawValue: raw + 1) && Set([address]).contains(address))
        let range: IOVARange = IOVARange(first: address, last: IOVA(rawValue: 0x1fff))
        let counted: IOVARange = try IOVARange(first: address, byteCount: 0x1000)
        let ends: (IOVA, IOVA) = (range.first, range.last)
        #expect(range == counted && ends == (counted.first, counted.last))
        #expect(IOVARange.everything == IOVARange(first: IOVA(rawValue: 0), last: IOVA(rawValue: UInt64.max)))
        let empty = errorOf { () throws(DMAError) in _ = try IOVARange(first: address, byteCount: 0) }
        let tooLong = errorOf { () throws(DMAError) in _ = try IOVARange(first: address, byteCount: .max) }
        let errno: [Int32?] = [empty?.errno, tooLong?.errno]
        #expect(errno == [22, 75])
        #expect(empty != tooLong)
    }

    @Test func `an address space`() throws {
        var configuration: IOAddressSpace.Configuration = .init()
        #expect(configuration.pageSize == 4096 && configuration.unmapRounds == 100)
        #expect(configuration.unmapWait == .seconds(1) && configuration.maximumMappings == Int.max)
        configuration.pageSize = 4096 as UInt64
        configuration.unmapRounds = 3
        configuration.unmapWait = .milliseconds(30)
        configuration.maximumMappings = 4
        let space: IOAddressSpace = IOAddressSpace(configuration)
        let other: IOAddressSpace = IOAddressSpace()
        let object: MemoryObject = try MemoryObject.anonymous(byteCount: 16384)
        let rights: AccessRights = [.read, .write]

        let fixed: Void = try space.map(
            MappingBacking.file(object, offset: 0), at: IOVA(rawValue: 0), byteCount: 8192, rights: rights)
        _ = fixed
        let anywhere: IOVA = try space.mapAnywhere(.remote(Zeros()), byteCount: 4096, rights: .read)
        let copied: IOVA = try other.copy(
            IOVARange(first: IOVA(rawValue: 0), byteCount: 8192), from: space, to: nil, rights: .read)
        let placed: IOVA = try other.copy(
            IOVARange(first: IOVA(rawValue: 0), byteCount: 4096), from: space, to: IOVA(rawValue: 1 << 40),
            rights: .read)
        #expect(placed == IOVA(rawValue: 1 << 40) && copied != placed)

        let snapshots: [MappingSnapshot] = space.mappings()
        let first: MappingSnapshot = try #require(snapshots.first)
        let (range, snapshotRights): (IOVARange, AccessRights) = (first.range, first.rights)
        let (pinCount, isBlocked): (Int, Bool) = (first.pinCount, first.isBlocked)
        #expect(range.last == IOVA(rawValue: 8191) && snapshotRights == rights && pinCount == 0 && !isBlocked)
        #expect(snapshots.last?.range.first == anywhere)

        let reservation: Reservation = try space.reserve(
            IOVARange(first: IOVA(rawValue: 1 << 32), last: IOVA(rawValue: .max)))
        let usable: [IOVARange] = space.usableRanges
        #expect(usable == [IOVARange(first: IOVA(rawValue: 0), last: IOVA(rawValue: (1 << 32) - 1))])
        reservation.release()
        try space.allow([IOVARange(first: IOVA(rawValue: 0), last: IOVA(rawValue: (1 << 30) - 1))])

        let table = PageTable(aperture: .everything, granule: 4096)
        let consumer: any MappingConsumer = table
        try space.attach(consumer)
        let alignment: UInt64 = space.alignment
        #expect(alignment == 4096 && table.ranges.count == 2)
        space.detach(consumer)
        #expect(table.ranges.isEmpty)

        let bytes: UInt64 = try space.unmap(.everything)
        #expect(bytes == 8192 + 4096)
        #expect(try space.unmap(.everything) == 0)
        try other.unmap(.everything)  // the count may be dropped
    }

    @Test func `accesses and pins`() throws {
        let object = try MemoryObject.anonymous(byteCount: 8192)
        let memory: UnsafeMutableRawBufferPointer = unsafe object.bytes
        let memoryByteCount = memory.count
        #expect(memoryByteCount == 8192)
        let (space, other) = (IOAddressSpace(), IOAddressSpace())
        try space.map(.file(object, offset: 0), at: IOVA(rawValue: 0), byteCount: 8192, rights: [.read, .write])

        let told = Shared<[IOVARange]>([])
        let onUnmap: (@Sendable (IOVARange) -> Void)? = { range in told.update { $0.append(range) } }
        let access: DMAAccess = DMAAccess(needsPin: true, onUnmap: onUnmap)
        try access.attach(to: space)
        let range = IOVARange(first: IOVA(rawValue: 0), last: IOVA(rawValue: 8191))
        let pin: PinnedMemory = try access.pin(range, rights: [.read, .write])
        var sizes: [Int] = []
        unsafe pin.forEachSegment { (segment: UnsafeMutableRawBufferPointer) in
            sizes.append(segment.count)
            unsafe segment[0] = 7
        }
        pin.unpin()
        #expect(sizes == [8192])

        var buffer = [UInt8](repeating: 0, count: 2)
        try unsafe buffer.withUnsafeMutableBytes {
            unsafe try access.read(IOVARange(first: IOVA(rawValue: 0), byteCount: 2), into: $0)
        }
        #expect(buffer == [7, 0])
        try unsafe buffer.withUnsafeBytes { unsafe try access.write($0, to: IOVA(rawValue: 1)) }
        #expect(object.byte(1) == 7)

        try access.replace(with: other)
        try access.detach()
        #expect(told.value == [.everything, .everything])
        access.destroy()
        let error = misusing(.useAfterDestroy) { errorOf { () throws(DMAError) in try access.attach(to: space) } }
        #expect(error?.errno == 19)
        _ = DMAAccess(needsPin: false, onUnmap: nil)
    }

    @Test func `memory objects adopt a descriptor by its number`() throws {
        let error = errorOf { () throws(DMAError) in
            let number: Int32 = -1
            _ = try MemoryObject(adopting: number)
        }
        #expect(error != nil)
    }
}
