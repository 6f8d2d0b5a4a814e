import CopyEngine
import Randomness
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Descriptor = CopyEngineDriver.Descriptor

@Suite struct `Random operations` {
    @Test(arguments: [1, 2] as [UInt64])
    func `end as the driver's guide says, with the bytes where they belong`(seed: UInt64) throws {
        try withDriver(ringSize: 64) { driver in
            var numbers = SeededNumbers(seed: seed)
            var model = GuideModel()
            for page in 0..<GuideModel.pageCount {
                driver.fill(page) { UInt8(truncatingIfNeeded: $0 &+ page) }
            }
            model.memory = driver.contents(0, count: GuideModel.pageCount)
            var statuses: Set<UInt8> = []
            for number in 0..<400 {
                let operation = numbers.operation()
                let before = model
                let expected = model.perform(operation)
                let completion = try driver.perform(operation, by: before)
                try #require(completion == expected, "seed \(seed), operation \(number): \(operation)")
                statuses.insert(completion.status)
                if number % 50 == 49 {
                    try #require(
                        driver.contents(0, count: GuideModel.pageCount) == model.memory, "seed \(seed), \(number)")
                }
            }
            // What can come of descriptors that make sense, each in every run.
            #expect(statuses.isSuperset(of: [1, 4, 5, 6, 7, 8, 11]))
        }
    }
}

/// What a driver may do, with the pages of its data as memory.
private enum Operation {
    case create(UInt32, hasDemandPaging: Bool)
    case destroy(UInt32)
    case map(UInt32, page: UInt64, count: Int, memoryPage: Int, rights: UInt16)
    case unmap(UInt32, page: UInt64, count: Int)
    case copy(Place, Place, length: Int)
    case fill(Place, pattern: UInt64, length: Int)

    /// An address, of memory for PASID 0.
    struct Place {
        let pasid: UInt32
        let address: UInt64
    }
}

extension SeededNumbers {
    fileprivate mutating func operation() -> Operation {
        let pasid = UInt32.random(in: 1...3, using: &self)
        let page = UInt64.random(in: 0..<64, using: &self)
        let count = Int.random(in: 1...8, using: &self)
        switch Int.random(in: 0..<20, using: &self) {
        case 0: return .create(pasid, hasDemandPaging: Bool.random(using: &self))
        case 1:
            return Int.random(in: 0..<4, using: &self) == 0 ? .destroy(pasid) : .create(pasid, hasDemandPaging: true)
        case 2...6:
            return .map(
                pasid, page: page, count: count,
                memoryPage: Int.random(in: 0..<GuideModel.pageCount - count, using: &self),
                rights: UInt16.random(in: 1...3, using: &self))
        case 7...10: return .unmap(pasid, page: page, count: count)
        case 11...16: return .copy(place(), place(), length: length())
        default: return .fill(place(), pattern: next(), length: length())
        }
    }

    private mutating func length() -> Int {
        Int.random(in: 0..<4, using: &self) == 0
            ? Int.random(in: 1...(40 * 4096), using: &self) : Int.random(in: 1...6000, using: &self)
    }

    private mutating func place() -> Operation.Place {
        let pasid = UInt32.random(in: 0...3, using: &self)
        let offset = UInt64.random(in: 0..<64 * 4096, using: &self)
        if pasid > 0 { return .init(pasid: pasid, address: offset) }
        return .init(pasid: 0, address: Int.random(in: 0..<8, using: &self) == 0 ? 1 << 50 : GuideModel.base + offset)
    }
}

/// The device as the driver's guide describes it, written a second time, one operation after the other.
private struct GuideModel {
    static let pageCount = 256
    /// Where the driver's data is.
    static let base = CopyEngineDriver.base + 0x100000
    private static let pageSize: UInt64 = 4096
    private static let pieceSize: UInt64 = 1 << 16

    struct Mapping {
        let page: UInt64
        let count: Int
        let memoryPage: Int
        let rights: UInt16

        var pages: Range<UInt64> { page..<page + UInt64(count) }
    }

    private struct Space {
        let hasDemandPaging: Bool
        var mappings: [Mapping] = []

        func mapping(of page: UInt64) -> Mapping? { mappings.first { $0.pages.contains(page) } }
    }

    private enum Right: UInt16 {
        case read = 1
        case write = 2
    }

    /// Of the driver's data.
    var memory: [UInt8] = []
    private var spaces: [UInt32: Space] = [:]

    /// How the driver answers a page request: with the memory that it maps, or not.
    func memoryPage(for page: UInt64, of pasid: UInt32) -> Int? {
        if page % 11 == 3 || spaces[pasid]?.mapping(of: page) != nil { return nil }
        return Int((page * 5 + UInt64(pasid) * 17) % UInt64(GuideModel.pageCount))
    }

    mutating func perform(_ operation: Operation) -> Completion {
        switch operation {
        case .create(let pasid, let hasDemandPaging):
            guard spaces[pasid] == nil else { return Completion(status: 6, error: 17) }
            spaces[pasid] = Space(hasDemandPaging: hasDemandPaging)
            return Completion()
        case .destroy(let pasid):
            return spaces.removeValue(forKey: pasid) == nil ? Completion(status: 5) : Completion()
        case .map(let pasid, let page, let count, let memoryPage, let rights):
            guard let space = spaces[pasid] else { return Completion(status: 5) }
            let new = Mapping(page: page, count: count, memoryPage: memoryPage, rights: rights)
            if space.mappings.contains(where: { $0.pages.overlaps(new.pages) }) {
                return Completion(status: 6, operand: 2, error: 17, faultAddress: page * GuideModel.pageSize)
            }
            spaces[pasid]?.mappings.append(new)
            return Completion()
        case .unmap(let pasid, let page, let count): return unmap(pasid, page..<page + UInt64(count))
        case .copy(let source, let destination, let length): return copy(source, destination, UInt64(length))
        case .fill(let destination, let pattern, let length):
            let bytes = (0..<length).map { UInt8(truncatingIfNeeded: pattern >> UInt64($0 % 8 * 8)) }
            return transfer(nil, destination, UInt64(length)) { _, range in Array(bytes[range]) }
        }
    }

    private mutating func unmap(_ pasid: UInt32, _ pages: Range<UInt64>) -> Completion {
        guard let space = spaces[pasid] else { return Completion(status: 5) }
        let inside = space.mappings.filter { $0.pages.overlaps(pages) }
        guard !inside.isEmpty, inside.allSatisfy({ pages.contains($0.pages) }) else {
            return Completion(status: 6, operand: 2, error: 2, faultAddress: pages.lowerBound * GuideModel.pageSize)
        }
        var bytes: UInt64 = 0
        for mapping in inside {
            spaces[pasid]?.mappings.removeAll { $0.page == mapping.page }
            bytes += UInt64(mapping.count) * GuideModel.pageSize
        }
        return Completion(bytes: bytes)
    }

    private mutating func copy(
        _ source: Operation.Place, _ destination: Operation.Place, _ length: UInt64
    ) -> Completion {
        let (from, to) = (source.address, destination.address)
        if source.pasid == destination.pasid, from < to + length, to < from + length { return Completion(status: 4) }
        return transfer(source, destination, length) { bytes, _ in bytes }
    }

    /// Moves piece by piece: reads if there is a source, and writes what `make` makes of it.
    private mutating func transfer(
        _ source: Operation.Place?, _ destination: Operation.Place, _ length: UInt64,
        _ make: ([UInt8], Range<Int>) -> [UInt8]
    ) -> Completion {
        for (operand, place) in [(1, source), (2, destination)] as [(UInt8, Operation.Place?)] {
            if let place, place.pasid != 0, spaces[place.pasid] == nil {
                return Completion(status: 5, operand: operand)
            }
        }
        var done: UInt64 = 0
        while done < length {
            let count = min(GuideModel.pieceSize, length - done)
            var bytes: [UInt8] = []
            if let source {
                let (places, failure) = reach(source.pasid, source.address + done, count, .read, operand: 1)
                if let failure { return failure.after(done) }
                bytes = places.map { memory[$0] }
            }
            let new = make(bytes, Int(done)..<Int(done + count))
            let (places, failure) = reach(destination.pasid, destination.address + done, count, .write, operand: 2)
            for (place, byte) in zip(places, new) { memory[place] = byte }
            if let failure { return failure.after(done) }
            done += count
        }
        return Completion(bytes: length)
    }

    /// Where the bytes of a range are in memory, up to the first that cannot be reached.
    private mutating func reach(
        _ pasid: UInt32, _ first: UInt64, _ count: UInt64, _ right: Right, operand: UInt8
    ) -> ([Int], Completion?) {
        guard pasid != 0 else {
            if first >= 1 << 50 {
                return ([], Completion(status: 11, operand: operand, error: 14, faultAddress: first))
            }
            let start = Int(first - GuideModel.base)
            return (Array(start..<start + Int(count)), nil)
        }
        var places: [Int] = []
        let end = first + count
        var next = first
        while next < end {
            let stepEnd = min(end, (next | (GuideModel.pieceSize - 1)) + 1)
            if let failure = bring(pasid, next..<stepEnd, right, operand: operand) {
                while next < failure.faultAddress {
                    places.append(place(of: next, pasid))
                    next += 1
                }
                return (places, failure)
            }
            places += (next..<stepEnd).map { place(of: $0, pasid) }
            next = stepEnd
        }
        return (places, nil)
    }

    private func place(of address: UInt64, _ pasid: UInt32) -> Int {
        guard let mapping = spaces[pasid]?.mapping(of: address / GuideModel.pageSize) else { return 0 }
        return mapping.memoryPage * Int(GuideModel.pageSize) + Int(address - mapping.page * GuideModel.pageSize)
    }

    /// Has the pages that are missing in a step mapped, or says why they are not.
    private mutating func bring(
        _ pasid: UInt32, _ step: Range<UInt64>, _ right: Right, operand: UInt8
    ) -> Completion? {
        let size = GuideModel.pageSize
        let pages = step.lowerBound / size...(step.upperBound - 1) / size
        let missing = pages.filter { (spaces[pasid]?.mapping(of: $0)?.rights ?? 0) & right.rawValue == 0 }
        guard let first = missing.first else { return nil }
        let address = max(step.lowerBound, first * size)
        guard spaces[pasid]?.hasDemandPaging == true else {
            let isMapped = spaces[pasid]?.mapping(of: first) != nil
            return Completion(status: 7, operand: operand, error: isMapped ? 1 : 2, faultAddress: address)
        }
        let answers = missing.map { memoryPage(for: $0, of: pasid) }
        guard !answers.contains(nil) else { return Completion(status: 8, operand: operand, faultAddress: address) }
        for (page, memoryPage) in zip(missing, answers) {
            spaces[pasid]?.mappings.append(
                Mapping(page: page, count: 1, memoryPage: memoryPage ?? 0, rights: 0b11))
        }
        return nil
    }
}

extension CopyEngineDriver.Completion {
    fileprivate func after(_ done: UInt64) -> Self {
        var completion = self
        completion.bytes = done
        return completion
    }
}

extension CopyEngineDriver {
    /// Has the device do an operation, and answers its page requests as the model would.
    fileprivate func perform(_ operation: Operation, by model: GuideModel) throws -> Completion {
        switch operation {
        case .create(let pasid, let hasDemandPaging):
            return try command(.create(pasid, hasDemandPaging: hasDemandPaging))
        case .destroy(let pasid): return try command(.destroy(pasid))
        case .map(let pasid, let page, let count, let number, let rights):
            return try command(
                .map(
                    pasid, at: page * 4096, to: memoryPage(number), length: UInt64(count) * 4096, rights: rights))
        case .unmap(let pasid, let page, let count):
            return try command(.unmap(pasid, at: page * 4096, length: UInt64(count) * 4096))
        case .copy(let source, let destination, let length):
            return try finish(
                .copy(
                    (source.pasid, source.address), to: (destination.pasid, destination.address),
                    length: UInt64(length)), by: model)
        case .fill(let destination, let pattern, let length):
            return try finish(
                .fill(destination.pasid, at: destination.address, pattern: pattern, length: UInt64(length)), by: model)
        }
    }

    private func finish(_ descriptor: Descriptor, by model: GuideModel) throws -> Completion {
        let work = try submit(descriptor, .work)
        try serve(until: { completion(of: work) != nil }) { request in
            model.memoryPage(for: request.page / 4096, of: request.pasid).map { memoryPage($0) }
        }
        return try finish(work)
    }
}
