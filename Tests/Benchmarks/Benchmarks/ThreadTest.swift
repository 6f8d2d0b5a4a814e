import DMA
import Glibc
import Synchronization

/// Whether nobody touches memory after its unmap has returned, while threads read and pin all the time.
///
/// Each page is overwritten while it is not mapped, and restored before it is mapped again: who sees what it was
/// overwritten with has come too late. There are few pages and more threads than processors, so that some thread is often
/// stopped in the midst of reading a page that is unmapped meanwhile, and goes on when the page is overwritten.
struct ThreadTest {
    private static let forbidden: UInt8 = 0xde
    private static let pageCount = 3
    private static let unmaps = 1000
    /// Reads and pins of all threads, of which many are refused.
    private static let attempts = 3_000_000

    private let contender: any Contender
    private let memory: MemoryObject
    private let ranges: [IOVARange]
    private let faults = Faults()

    init(_ kind: ContenderKind) throws {
        let population = Population(mappingCount: ThreadTest.pageCount)
        memory = try MemoryObject.anonymous(byteCount: SharedMemory.pageCount * Int(SharedMemory.pageSize))
        contender = kind.make(memory)
        population.populate(contender)
        ranges = (0..<ThreadTest.pageCount).map(population.range)
    }

    /// Returns what went wrong, `nil` when nothing did.
    func run() throws -> String? {
        let crew = try Crew("device", count: 4) { [contender, ranges, faults] number, turn in
            let range = ranges[(turn + number) % ranges.count]
            do throws(DMAError) {
                if number == 0 {
                    try faults.pin(range, of: contender)
                } else {
                    try faults.read(range, of: contender)
                }
            } catch {
                faults.count(error)
            }
            return 1
        }
        crew.begin()
        var turn = 0
        while turn < ThreadTest.unmaps || faults.attempts < ThreadTest.attempts {
            let range = ranges[turn % ranges.count]
            unmap(range)
            fill(range, with: ThreadTest.forbidden)
            sched_yield()
            fill(range, with: 0)
            contender.mapEach([range].span)
            turn += 1
        }
        _ = crew.end()
        return faults.summary
    }

    /// Again and again while the pins of the other threads are in the way.
    private func unmap(_ range: IOVARange) {
        while true {
            do throws(DMAError) {
                _ = try contender.unmap(range)
                return
            } catch {
                guard error == .deadlock else { fail("unmap", error) }
            }
        }
    }

    private func fill(_ range: IOVARange, with byte: UInt8) {
        let offset = SharedMemory.offset(of: range.first)
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory.bytes[offset..<offset + Int(range.byteCount)])
            .initializeMemory(as: UInt8.self, repeating: byte)
    }
}

/// What the threads of a test came across.
private final class Faults: Sendable {
    private let made = Atomic(0)
    private let late = Atomic(0)
    private let refusals = Atomic(0)

    var attempts: Int { made.load(ordering: .relaxed) }

    func read(_ range: IOVARange, of contender: any Contender) throws(DMAError) {
        // All but the copy is kept short, so that a thread that is stopped is most often stopped within it.
        let isLate = try unsafe withUnsafeTemporaryAllocation(byteCount: Int(range.byteCount), alignment: 8) {
            (page) throws(DMAError) in
            try unsafe contender.read(range.first, into: page)
            var bytes: UInt8 = 0
            for offset in stride(from: 0, to: page.count, by: 256) { unsafe bytes |= page[offset] }
            return bytes != 0
        }
        made.wrappingAdd(1, ordering: .relaxed)
        if isLate { late.wrappingAdd(1, ordering: .relaxed) }
    }

    func pin(_ range: IOVARange, of contender: any Contender) throws(DMAError) {
        let pin = try contender.hold(range)
        made.wrappingAdd(1, ordering: .relaxed)
        if pin.value != 0 { late.wrappingAdd(1, ordering: .relaxed) }
        pin.release()
    }

    /// A page that is not mapped at the moment, or soon will not be, may be refused.
    func count(_ error: DMAError) {
        made.wrappingAdd(1, ordering: .relaxed)
        if error != .notFound && error != .invalid { refusals.wrappingAdd(1, ordering: .relaxed) }
    }

    var summary: String? {
        let late = late.load(ordering: .relaxed)
        let refusals = refusals.load(ordering: .relaxed)
        return late + refusals == 0 ? nil : "\(late) late reads, \(refusals) wrong refusals"
    }
}
