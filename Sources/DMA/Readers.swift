import Glibc
import LinuxHost
import Synchronization

/// The threads that are inside a read section of one access, and the pins that the access has.
///
/// Each thread has a slot of its own and a cache line for it, so that entering and leaving take no lock and touch nothing
/// that another thread writes. Whoever has closed something to readers drains them: it waits until each slot was seen
/// outside of a section, or in another one than at first. The counter of a slot is stored, and what was closed is looked
/// at, in sequentially consistent order on both sides, so a reader either sees what is closed or is waited for. The
/// kernel calls it SRCU, and draining `synchronize_srcu`.
///
/// A section is short: it copies a bounded number of bytes, and neither waits nor calls out.
@safe
final class Readers: @unchecked Sendable {  // The slots are atomic, and their memory goes with the object.
    struct Slot: ~Copyable {
        /// Odd while its thread is inside a section. Only that thread stores it.
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

    /// Begins a section of the current thread.
    @inline(__always)
    func enter() -> Section {
        let slot = unsafe currentSlot()
        let count = unsafe slot.pointee.section.load(ordering: .relaxed)
        if count & 1 == 1 { return unsafe Section(slot: slot, isNested: true) }
        unsafe slot.pointee.section.store(count &+ 1, ordering: .sequentiallyConsistent)
        return unsafe Section(slot: slot, isNested: false)
    }

    /// Ends a section, on the thread that began it. Nothing of the access may be touched afterwards: it may be gone.
    @inline(__always)
    func leave(_ section: consuming Section) {
        if section.isNested { return }
        let count = unsafe section.slot.pointee.section.load(ordering: .relaxed)
        unsafe section.slot.pointee.section.store(count &+ 1, ordering: .releasing)
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
        if number < Readers.firstBlockCount && number < usedCount.load(ordering: .relaxed) {
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
                expected: 0, desired: UInt(bitPattern: new), ordering: .acquiringAndReleasing)
            if !isFirst { unsafe new.deallocate() }
            unsafe block = isFirst ? new : Block(bitPattern: earlier)
        }
        var used = usedCount.load(ordering: .relaxed)
        while used <= number {
            used =
                usedCount.compareExchange(
                    expected: used, desired: number + 1, ordering: .sequentiallyConsistent
                ).original
        }
        guard let block = unsafe block else { preconditionFailure("a block was just entered") }
        return unsafe block + offset
    }

    /// Whether no section is under way. What was closed before is out of every reader's reach then.
    var areQuiet: Bool {
        for number in 0..<usedCount.load(ordering: .sequentiallyConsistent) {
            guard let slot = unsafe slot(number) else { continue }
            if unsafe slot.pointee.section.load(ordering: .sequentiallyConsistent) & 1 == 1 { return false }
        }
        return true
    }

    /// Waits until every section has ended that was under way when this began.
    ///
    /// - Precondition: the current thread is in none of them.
    func drain() {
        for number in 0..<usedCount.load(ordering: .sequentiallyConsistent) {
            guard let slot = unsafe slot(number) else { continue }
            let seen = unsafe slot.pointee.section.load(ordering: .sequentiallyConsistent)
            guard seen & 1 == 1 else { continue }
            precondition(number != ThreadNumber.current, "an address space is changed inside a read section")
            var patience = Patience()
            while unsafe slot.pointee.section.load(ordering: .sequentiallyConsistent) == seen { patience.wait() }
        }
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

    /// The slot of a thread number below `usedCount`; `nil` for one whose block nobody has needed.
    private func slot(_ number: Int) -> UnsafeMutablePointer<Slot>? {
        let (index, offset) = Readers.place(of: number)
        if index == 0 { return unsafe firstBlock + offset }
        guard let block = unsafe laterBlock(index) else { return nil }
        return unsafe block + offset
    }

    private func laterBlock(_ index: Int) -> Block? {
        unsafe Block(bitPattern: laterBlocks[index].load(ordering: .acquiring))
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

/// How a thread waits for something that is over in less than a microsecond unless its thread has lost the processor.
private struct Patience {
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
