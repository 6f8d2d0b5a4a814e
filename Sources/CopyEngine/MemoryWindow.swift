import DMA
import LinuxHost
import PCI
import Synchronization

/// What a page of an address space leads to: memory addresses, which the function's own accesses then take the way of.
///
/// So translation has two stages, as with a GPU behind an IOMMU: the address space's, and whatever is between the function
/// and memory. Nothing of the second is kept here: it is gone through at every access, with its bus master bit and its IOMMU.
final class MemoryWindow: RemoteMemory {
    private let memory: GuestMemory
    /// What is added to an address, modulo 2^64.
    private let shift: UInt64
    private let all: MemoryWindows
    /// The transfers under way; with `revoked` no more begin.
    private let transfers = Atomic<UInt64>(0)

    private static let revoked: UInt64 = 1 << 63

    /// A window that has to be revoked, by its mapping if it gets one.
    ///
    /// - Parameter shift: what is added to an address of the space to get the memory address.
    /// - Throws: `ENOSPC` when there are as many windows as there may be.
    init(_ memory: GuestMemory, shift: UInt64, in all: MemoryWindows) throws(DMAError) {
        try all.take()
        self.memory = memory
        self.shift = shift
        self.all = all
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try transfer(at: iova, buffer.count) { (range) throws(DMAError) in unsafe try memory.read(range, into: buffer) }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        try transfer(at: iova, bytes.count) { (range) throws(DMAError) in
            unsafe try memory.write(bytes, to: range.first)
        }
    }

    private func transfer(
        at iova: IOVA, _ byteCount: Int, _ body: (IOVARange) throws(DMAError) -> Void
    ) throws(DMAError) {
        let count = transfers.add(1, ordering: .acquiringAndReleasing).newValue
        defer { end() }
        // As if the page had been missed in the first place.
        guard count & MemoryWindow.revoked == 0 else { throw .notFound }
        do throws(DMAError) {
            try body(IOVARange(first: IOVA(iova.rawValue &+ shift), byteCount: UInt64(byteCount)))
        } catch {
            // The page is there; it is the memory behind it that is not.
            switch error {
            case .notFound, .notPermitted, .invalid: throw .badAddress
            default: throw error
            }
        }
    }

    private func end() {
        let count = transfers.subtract(1, ordering: .acquiringAndReleasing).newValue
        if count == MemoryWindow.revoked { all.didEnd() }
    }

    /// Waits for the transfers under way: the driver may use the memory for something else from now on.
    func revoke() {
        transfers.bitwiseOr(MemoryWindow.revoked, ordering: .acquiringAndReleasing)
        all.wait { transfers.load(ordering: .acquiring) == MemoryWindow.revoked }
        all.release()
    }
}

/// All windows of the device between one enabling and the next: how many there are, and who waits for the end of one.
final class MemoryWindows: Sendable {
    private let limit: Int
    private let count = Atomic<Int>(0)
    private let ends = Monitor(())

    init(limit: Int) {
        self.limit = limit
    }

    fileprivate func take() throws(DMAError) {
        let new = count.add(1, ordering: .relaxed).newValue
        guard new > limit else { return }
        release()
        throw .noSpace
    }

    fileprivate func release() { count.subtract(1, ordering: .relaxed) }

    /// The last transfer of a window that was revoked has ended.
    fileprivate func didEnd() { ends.update { _ in } }

    fileprivate func wait(until isDone: () -> Bool) { ends.wait { _ in isDone() ? () : nil } }
}
