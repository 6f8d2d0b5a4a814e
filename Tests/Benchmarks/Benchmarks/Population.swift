import DMA
import Randomness

/// The memory behind all mappings of a measurement: one object of a few pages, which every mapping shows again.
///
/// So what is measured is how the memory is found: the bytes themselves are always in the nearest cache. Every eight bytes
/// of it have a value of their own.
enum SharedMemory {
    static let pageSize: UInt64 = 4096
    static let pageCount = 16

    static func make() throws(DMAError) -> MemoryObject {
        let object = try MemoryObject.anonymous(byteCount: pageCount * Int(pageSize))
        for offset in stride(from: 0, to: object.byteCount, by: 8) {
            unsafe object.bytes.storeBytes(of: value(at: offset), toByteOffset: offset, as: UInt64.self)
        }
        return object
    }

    /// What lies at an offset that is a multiple of eight.
    static func value(at offset: Int) -> UInt64 { UInt64(offset) &* 0x9e37_79b9_7f4a_7c15 | 1 }

    /// Where the page of an address is in the object.
    static func offset(of iova: IOVA) -> Int {
        Int(iova.rawValue / pageSize % UInt64(pageCount) * pageSize)
    }
}

/// Mappings of a page each, in runs of 64 with holes of 64 pages between them, from 4 GiB on.
struct Population {
    static let run = 64
    private static let base: UInt64 = 1 << 32

    let mappingCount: Int

    private var runCount: Int { (mappingCount + Population.run - 1) / Population.run }

    private static func page(_ number: Int) -> IOVARange {
        let first = base + UInt64(number) * SharedMemory.pageSize
        return IOVARange(first: IOVA(first), last: IOVA(first + SharedMemory.pageSize - 1))
    }

    /// The mapping with a number from zero on, ascending.
    func range(_ number: Int) -> IOVARange {
        Population.page(number / Population.run * 2 * Population.run + number % Population.run)
    }

    /// The pages of the hole behind one of the runs.
    func hole(_ run: Int) -> [IOVARange] {
        let first = (run % runCount * 2 + 1) * Population.run
        return (first..<first + Population.run).map(Population.page)
    }

    /// All holes in random order, over and over if there are few.
    func holes(count: Int, using random: inout SeededNumbers) -> [[IOVARange]] {
        let order = (0..<runCount).shuffled(using: &random)
        return (0..<count).map { hole(order[$0 % order.count]) }
    }

    func populate(_ contender: any Contender) {
        let ranges = (0..<mappingCount).map(range)
        contender.mapEach(ranges.span)
    }

    /// An address in one mapping, with its own cache line among 16: the bytes stay in the nearest cache.
    private func key(_ number: Int) -> IOVA {
        IOVA(range(number).first.rawValue + UInt64(number % 16) * 64)
    }

    /// Addresses in all mappings in random order: each mapping once before any comes again, and at least `atLeast`.
    func randomKeys(atLeast count: Int, using random: inout SeededNumbers) -> [IOVA] {
        var keys: [IOVA] = []
        while keys.count < count {
            keys += (0..<mappingCount).shuffled(using: &random).map(key)
        }
        return keys
    }

    /// One address over and over.
    func hotKeys(count: Int) -> [IOVA] {
        Array(repeating: key(mappingCount / 2), count: count)
    }
}
