import Glibc
import LinuxHost
import Synchronization

/// The threads that are inside a read section of one access, and the pins that the access has.
///
/// Each thread has a slot of its own and a cache line for it, so that entering and leaving take no lock and touch nothing
/// that another thread writes. A thread that enters says where it is going. Whoever has closed addresses to readers
/// drains them: it waits until each slot was seen outside of a section, elsewhere, or in another section than at first.
/// A slot is stored, and what was closed is looked at, in sequentially consistent order on both sides, so a reader either
/// sees what is closed or is waited for. The kernel calls it SRCU, and draining `synchronize_srcu`.
///
/// A section is short: it copies a bounded number of bytes, and neither waits nor calls out.
@safe
final class Readers: @unchecked Sendable {  // The slots are atomic, and their memory goes with the object.
    struct Slot: ~Copyable {
        /// A `SectionMark`. Only the slot's thread stores it.
        fileprivate let section = Atomic<UInt64>(0)
        /// The pins that its thread made less those it returned. Only that thread stores it, inside a section.
        fileprivate let pins = Atomic<Int>(0)
        private let restOfCacheLine = InlineArray<6, UInt64>(repeating: 0)
    }

    /// The proof that the current thread is inside a section.
    @safe
    struct Section: ~Copyable {
        fileprivate let slot: UnsafeMutablePointer<Slot>
        /// Whether it lies within another one of the thread, which goes on when this one ends.
        fileprivate let isNested: Bool
    }

    private typealias Block = UnsafeMutablePointer<Slot>

    /// Slots for the thread numbers from 0 on: the first block has as many as this, each further one twice as many as
    /// the one before.
    private static let firstBlockCount = 64
    private static let blockCount = 11

    private let firstBlock: Block
    private let laterBlocks: UnsafeMutablePointer<Atomic<UInt>>
    /// Slots at this number and above were never used.
    private let usedCount = Atomic<Int>(0)

    init() {
        unsafe firstBlock = Readers.allocateBlock(0)
        unsafe laterBlocks = .allocate(capacity: Readers.blockCount)
        for index in 0..<Readers.blockCount { unsafe (laterBlocks + index).initialize(to: Atomic(0)) }
    }

    deinit {
        for index in 1..<Readers.blockCount {
            if let block = unsafe laterBlock(index) { unsafe block.deallocate() }
        }
        unsafe laterBlocks.deallocate()
        unsafe firstBlock.deallocate()
    }

    /// Begins a section of the current thread, which will touch the mappings within `reach` and no others.
    @inline(__always)
    func enter(_ reach: Reach) -> Section {
        let slot = unsafe currentSlot()
        let mark = SectionMark(bits: unsafe slot.pointee.section.load(ordering: .relaxed))
        if mark.isInside {
            unsafe slot.pointee.section.store(mark.widened(by: reach).bits, ordering: .sequentiallyConsistent)
            return unsafe Section(slot: slot, isNested: true)
        }
        unsafe slot.pointee.section.store(mark.next(reach).bits, ordering: .sequentiallyConsistent)
        return unsafe Section(slot: slot, isNested: false)
    }

    /// Ends a section, on the thread that began it. Nothing of the access may be touched afterwards: it may be gone.
    @inline(__always)
    func leave(_ section: consuming Section) {
        if section.isNested { return }
        let mark = SectionMark(bits: unsafe section.slot.pointee.section.load(ordering: .relaxed))
        unsafe section.slot.pointee.section.store(mark.outside.bits, ordering: .releasing)
    }

    /// Notes that the current thread made pins, or returned them.
    @inline(__always)
    func addPins(_ count: Int, in section: borrowing Section) {
        let pins = unsafe section.slot.pointee.pins.load(ordering: .relaxed)
        unsafe section.slot.pointee.pins.store(pins &+ count, ordering: .releasing)
    }

    @inline(__always)
    private func currentSlot() -> UnsafeMutablePointer<Slot> {
        let number = ThreadNumber.current
        // Whoever drains has to look at as many slots as this thread has heard of.
        if number < Readers.firstBlockCount && number < usedCount.load(ordering: .acquiring) {
            return unsafe firstBlock + number
        }
        return unsafe otherSlot(number)
    }

    /// The slot of a thread that has not been here before or has a high number.
    @inline(never)
    private func otherSlot(_ number: Int) -> UnsafeMutablePointer<Slot> {
        let (index, offset) = Readers.place(of: number)
        precondition(index < Readers.blockCount, "too many threads")
        var block = unsafe index == 0 ? firstBlock : laterBlock(index)
        if unsafe block == nil {
            let new = unsafe Readers.allocateBlock(index)
            let (isFirst, earlier) = unsafe laterBlocks[index].compareExchange(
                expected: 0, desired: UInt(bitPattern: new), ordering: .sequentiallyConsistent)
            if !isFirst { unsafe new.deallocate() }
            unsafe block = isFirst ? new : Block(bitPattern: earlier)
        }
        var used = usedCount.load(ordering: .acquiring)
        while used <= number {
            used =
                usedCount.compareExchange(
                    expected: used, desired: number + 1, ordering: .sequentiallyConsistent
                ).original
        }
        guard let block = unsafe block else { preconditionFailure("a block was just entered") }
        return unsafe block + offset
    }

    /// Whether a section is under way that may touch one of these mappings, which are given in ascending order.
    func mayBe(in claims: [MappingClaim]) -> Bool {
        for number in 0..<usedCount.load(ordering: .sequentiallyConsistent) {
            if let mark = mark(number), mark.mayTouch(claims) { return true }
        }
        return false
    }

    /// Waits until every section has ended that was under way when this began and may touch one of these mappings,
    /// which are given in ascending order.
    ///
    /// - Precondition: the current thread is in none of them.
    func drain(_ claims: [MappingClaim]) {
        for number in 0..<usedCount.load(ordering: .sequentiallyConsistent) {
            guard let seen = mark(number), seen.mayTouch(claims) else { continue }
            precondition(number != ThreadNumber.current, "an address space is changed inside a read section")
            var patience = Patience()
            while mark(number)?.isSameSection(as: seen) == true { patience.wait() }
        }
    }

    /// Waits until every section has ended that was under way when this began.
    func drain() {
        for section in sections {
            precondition(
                section.number != ThreadNumber.current, "an attachment or a space is changed inside a read section")
            var patience = Patience()
            while isUnderWay(section) { patience.wait() }
        }
    }

    /// A section that was under way when it was looked for.
    struct Seen {
        fileprivate let number: Int
        fileprivate let mark: SectionMark
    }

    /// The sections that are under way.
    var sections: [Seen] {
        var sections: [Seen] = []
        for number in 0..<usedCount.load(ordering: .sequentiallyConsistent) {
            if let mark = mark(number), mark.isInside { sections.append(Seen(number: number, mark: mark)) }
        }
        return sections
    }

    func isUnderWay(_ section: Seen) -> Bool {
        mark(section.number)?.isSameSection(as: section.mark) == true
    }

    /// The number of pins. While the access is closed it only falls; what is read then is never too low.
    var pinCount: Int {
        var count = 0
        for number in 0..<usedCount.load(ordering: .sequentiallyConsistent) {
            guard let slot = unsafe slot(number) else { continue }
            count &+= unsafe slot.pointee.pins.load(ordering: .acquiring)
        }
        return count
    }

    private func mark(_ number: Int) -> SectionMark? {
        guard let slot = unsafe slot(number) else { return nil }
        return SectionMark(bits: unsafe slot.pointee.section.load(ordering: .sequentiallyConsistent))
    }

    /// The slot of a thread number below `usedCount`; `nil` for one whose block nobody has needed.
    private func slot(_ number: Int) -> UnsafeMutablePointer<Slot>? {
        let (index, offset) = Readers.place(of: number)
        if index == 0 { return unsafe firstBlock + offset }
        guard let block = unsafe laterBlock(index) else { return nil }
        return unsafe block + offset
    }

    private func laterBlock(_ index: Int) -> Block? {
        unsafe Block(bitPattern: laterBlocks[index].load(ordering: .sequentiallyConsistent))
    }

    private static func place(of number: Int) -> (block: Int, offset: Int) {
        let block = (Int.bitWidth - 1 - (number / firstBlockCount + 1).leadingZeroBitCount)
        return (block, number - firstBlockCount * ((1 << block) - 1))
    }

    private static func allocateBlock(_ index: Int) -> Block {
        let count = firstBlockCount << index
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count * MemoryLayout<Slot>.stride, alignment: 64)
        let block = unsafe memory.bindMemory(to: Slot.self, capacity: count)
        for offset in 0..<count { unsafe (block + offset).initialize(to: Slot()) }
        return unsafe block
    }
}

/// Where a section goes.
struct Reach {
    fileprivate let bits: UInt64

    /// It touches memory of mappings that a pin counts on, or none at all.
    static let nowhere = Reach(bits: SectionMark.nowhere)

    /// What one section copies at most.
    static let maximumCopy = 64 << 10

    private init(bits: UInt64) { self.bits = bits }

    /// The pages of a range.
    @inline(__always)
    init(_ range: IOVARange) {
        let page = range.first.rawValue & SectionMark.addressMask
        let distance = range.last.rawValue - page
        bits =
            distance < SectionMark.pageSpan
            ? page | SectionMark.page : distance < SectionMark.copySpan ? page | SectionMark.copy : SectionMark.anywhere
    }
}

/// What a slot says: whether its thread is inside a section, which one, and where it goes.
///
///     63            12   11      10   9        1   0
///     first address      where it     count        inside
///                        goes
///
/// It goes nowhere; to the page at the address; to as many pages as one copy can have; or anywhere. The count only has
/// to differ from one section to the next: should a thread begin exactly 512 sections between two looks at it, it is
/// waited for a little longer.
private struct SectionMark {
    let bits: UInt64

    static let inside: UInt64 = 1
    static let oneSection: UInt64 = 1 << 1
    static let countMask: UInt64 = 0x3fe
    static let destinationMask: UInt64 = 0xc00
    static let nowhere: UInt64 = 0x000
    static let page: UInt64 = 0x400
    static let copy: UInt64 = 0x800
    static let anywhere: UInt64 = 0xc00
    static let addressMask: UInt64 = ~0xfff
    static let pageSpan: UInt64 = 1 << 12
    static let copySpan = UInt64(Reach.maximumCopy) + pageSpan

    var isInside: Bool { bits & SectionMark.inside != 0 }

    /// Inside the thread's next section.
    func next(_ reach: Reach) -> SectionMark {
        SectionMark(bits: (bits &+ SectionMark.oneSection) & SectionMark.countMask | SectionMark.inside | reach.bits)
    }

    /// Inside the same section, which goes further.
    func widened(by reach: Reach) -> SectionMark {
        if reach.bits == SectionMark.nowhere { return self }
        return SectionMark(bits: bits & (SectionMark.countMask | SectionMark.inside) | SectionMark.anywhere)
    }

    var outside: SectionMark { SectionMark(bits: bits & SectionMark.countMask) }

    func isSameSection(as other: SectionMark) -> Bool {
        let mask = SectionMark.countMask | SectionMark.inside
        return bits & mask == other.bits & mask
    }

    /// - Parameter claims: ascending, and not empty.
    func mayTouch(_ claims: [MappingClaim]) -> Bool {
        if !isInside { return false }
        let span: UInt64
        switch bits & SectionMark.destinationMask {
        case SectionMark.nowhere: return false
        case SectionMark.page: span = SectionMark.pageSpan
        case SectionMark.copy: span = SectionMark.copySpan
        default: return true
        }
        let first = bits & SectionMark.addressMask
        let (sum, overflow) = first.addingReportingOverflow(span - 1)
        return claims.touch(IOVARange(first: IOVA(first), last: IOVA(overflow ? .max : sum)))
    }
}

/// How a thread waits for something that is over in less than a microsecond unless its thread has lost the processor.
struct Patience {
    private var turns = 0

    mutating func wait() {
        turns += 1
        if turns < 16 {
            sched_yield()
        } else {
            var time = timespec(tv_sec: 0, tv_nsec: 50_000)
            unsafe nanosleep(&time, nil)
        }
    }
}
