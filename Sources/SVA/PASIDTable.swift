import DMA
import LinuxHost
import Synchronization

/// The slots of a device by PASID, which accesses look up without a lock.
///
/// A directory of leaves with 1024 places each. A leaf and a slot are made when they are first needed, published with one
/// store, and live as long as the table; nothing is taken out, so nobody who looks has to be waited for. A slot takes
/// about five kilobytes, so what a driver can make the table grow to is bounded by the device's number of PASIDs.
@safe
final class PASIDTable: @unchecked Sendable {  // Words are atomic; what they point to lives as long as the table.
    private typealias Word = Atomic<UInt>

    private static let leafCount = 1024

    /// PASIDs of the table are below; its slot 0 is that of accesses without one.
    let limit: UInt32
    private let directory: UnsafeMutablePointer<Word>
    private let directoryCount: Int
    /// The slots in the order of their making. Its lock is held to make one.
    private let made = Monitor<[PASIDSlot]>([], as: .slotList)
    private let makeSlot: @Sendable (PASID?) -> PASIDSlot

    init(limit: UInt32, makeSlot: @escaping @Sendable (PASID?) -> PASIDSlot) {
        self.limit = max(1, min(limit, PASID.limit))
        self.makeSlot = makeSlot
        directoryCount = (Int(self.limit) + PASIDTable.leafCount - 1) / PASIDTable.leafCount
        unsafe directory = PASIDTable.allocateWords(directoryCount)
    }

    deinit {
        for index in 0..<directoryCount {
            guard let leaf = unsafe PASIDTable.leaf(directory[index]) else { continue }
            for place in 0..<PASIDTable.leafCount {
                let bits = unsafe leaf[place].load(ordering: .relaxed)
                if let slot = unsafe PASIDTable.reference(bits) { unsafe slot.release() }
            }
            unsafe leaf.deallocate()
        }
        unsafe directory.deallocate()
    }

    /// The slots that were made so far.
    var slots: [PASIDSlot] { made.withLock { $0 } }

    /// The slot of a PASID or of none; `nil` when it was never attached or is past the limit.
    func slot(of pasid: PASID?) -> PASIDSlot? {
        let number = pasid?.rawValue ?? 0
        guard number < limit else { return nil }
        let (index, place) = Int(number).quotientAndRemainder(dividingBy: PASIDTable.leafCount)
        guard let leaf = unsafe PASIDTable.leaf(directory[index]) else { return nil }
        return unsafe PASIDTable.reference(leaf[place].load(ordering: .acquiring))?.takeUnretainedValue()
    }

    /// The slot of a PASID or of none, made if it has to be.
    ///
    /// - Precondition: the PASID is below the limit.
    func slotMade(for pasid: PASID?) -> PASIDSlot {
        if let slot = slot(of: pasid) { return slot }
        let number = pasid?.rawValue ?? 0
        precondition(number < limit, "a PASID is compared with the limit before it gets a slot")
        let (index, place) = Int(number).quotientAndRemainder(dividingBy: PASIDTable.leafCount)
        let new = makeSlot(pasid)
        return made.withLock { made in
            let leaf = unsafe leafMade(index)
            if let slot = unsafe PASIDTable.reference(leaf[place].load(ordering: .acquiring)) {
                return unsafe slot.takeUnretainedValue()
            }
            let bits = UInt(bitPattern: unsafe Unmanaged.passRetained(new).toOpaque())
            unsafe leaf[place].store(bits, ordering: .releasing)
            made.append(new)
            return new
        }
    }

    /// With the lock held.
    private func leafMade(_ index: Int) -> UnsafeMutablePointer<Word> {
        if let leaf = unsafe PASIDTable.leaf(directory[index]) { return unsafe leaf }
        let leaf = unsafe PASIDTable.allocateWords(PASIDTable.leafCount)
        unsafe directory[index].store(UInt(bitPattern: leaf), ordering: .releasing)
        return unsafe leaf
    }

    private static func leaf(_ word: borrowing Word) -> UnsafeMutablePointer<Word>? {
        unsafe UnsafeMutablePointer<Word>(bitPattern: word.load(ordering: .acquiring))
    }

    private static func reference(_ bits: UInt) -> Unmanaged<PASIDSlot>? {
        guard let opaque = unsafe UnsafeRawPointer(bitPattern: bits) else { return nil }
        return unsafe Unmanaged<PASIDSlot>.fromOpaque(opaque)
    }

    private static func allocateWords(_ count: Int) -> UnsafeMutablePointer<Word> {
        let words = UnsafeMutablePointer<Word>.allocate(capacity: count)
        for index in 0..<count { unsafe (words + index).initialize(to: Word(0)) }
        return unsafe words
    }
}
