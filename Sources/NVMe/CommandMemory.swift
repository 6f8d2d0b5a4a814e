import BlockStorage
import DMA
import PCI
import Synchronization

/// Guest memory as one command reaches it.
///
/// Data moves straight between the store and guest memory that can be pinned; the pins end with the transfer, so unmap
/// notices need no answer. Memory that only messages reach cannot be pinned and takes a detour through a buffer. Whatever
/// needs messages happens before anything is pinned, so that an unmap never waits for a message through a pin.
///
/// The only file of the target that handles raw memory. Segments of pins are valid until they are released; a guest may
/// change the bytes under us at any time, and everything that is decided on is copied first.
struct CommandMemory {
    let store: any BlockStore
    /// What the function had when the command was taken up. A reset, or a client that leaves, ends it, and with it all that
    /// the command could still do to the guest.
    let guest: GuestMemory

    /// The command at an address of a submission queue; `nil` when it cannot be read.
    func readEntry(at address: IOVA) -> SubmissionEntry? {
        var dwords = InlineArray<16, UInt32>(repeating: 0)
        do throws(DMAError) {
            let range = try IOVARange(first: address, byteCount: UInt64(SubmissionEntry.byteCount))
            unsafe try withUnsafeMutableBytes(of: &dwords) { (bytes) throws(DMAError) in
                unsafe try guest.read(range, into: bytes)
            }
        } catch {
            return nil
        }
        for index in dwords.indices { dwords[index] = UInt32(littleEndian: dwords[index]) }
        return SubmissionEntry(parsing: dwords)
    }

    /// `count` addresses from a list of them. By message if need be, so never called with anything pinned.
    func readAddresses(at address: IOVA, count: Int) throws(Status) -> [IOVA] {
        var bytes = [UInt8](repeating: 0, count: count * 8)
        let result: Result<Void, DMAError> = unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(DMAError) {
                let range = try IOVARange(first: address, byteCount: UInt64(buffer.count))
                return .success(unsafe try guest.read(range, into: buffer))
            } catch {
                return .failure(error)
            }
        }
        guard case .success = result else { throw .dataTransferError }
        return (0..<count).map { IOVA(bytes.littleEndian(at: $0 * 8)) }
    }

    /// Makes a completion visible to the host, which polls the phase tag in its last dword: that is stored after the others,
    /// by a release store where the memory is ours, by a second message where it is not.
    ///
    /// - Returns: whether it could be written.
    func write(_ entry: CompletionEntry, at address: IOVA) -> Bool {
        var dwords = entry.dwords
        for index in dwords.indices { dwords[index] = UInt32(littleEndian: dwords[index]) }
        let phaseOffset = CompletionEntry.byteCount - 4
        do throws(Status) {
            let range = IOVARange(first: address, last: IOVA(address.rawValue + UInt64(CompletionEntry.byteCount - 1)))
            let isWritten: Void? = unsafe try withPins([range], .write) { (segments) throws(Status) in
                guard let segment = unsafe segments.first, let base = segment.baseAddress else { return }
                unsafe withUnsafeBytes(of: &dwords) { bytes in
                    unsafe base.copyMemory(from: bytes.baseAddress.unsafelyUnwrapped, byteCount: phaseOffset)
                }
                // Completion queues begin at pages and entries are 16 bytes, so the dword is aligned and in one segment.
                let last = unsafe (base + phaseOffset).assumingMemoryBound(to: Atomic<UInt32>.self)
                unsafe last.pointee.store(dwords[3], ordering: .releasing)
            }
            if isWritten != nil { return true }
            unsafe try withUnsafeMutableBytes(of: &dwords) { (bytes) throws(Status) in
                unsafe try copy(UnsafeRawBufferPointer(rebasing: bytes[..<phaseOffset]), to: address)
                unsafe try copy(
                    UnsafeRawBufferPointer(rebasing: bytes[phaseOffset...]),
                    to: IOVA(address.rawValue + UInt64(phaseOffset)))
            }
            return true
        } catch {
            return false
        }
    }

    /// Copies `bytes` to the guest.
    func write(_ bytes: [UInt8], to pages: DataPages) throws(Status) {
        unsafe try fill(pages, byteCount: bytes.count) { (segments) throws(Status) in
            unsafe bytes.withUnsafeBytes { source in
                var done = 0
                unsafe segments.forEach { segment in
                    let part = unsafe UnsafeRawBufferPointer(rebasing: source[done..<done + segment.count])
                    unsafe segment.copyMemory(from: part)
                    done += segment.count
                }
            }
        }
    }

    /// Copies `byteCount` bytes from the guest.
    func read(_ pages: DataPages, byteCount: Int) throws(Status) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(byteCount)
        unsafe try drain(pages, byteCount: byteCount) { (segments) throws(Status) in
            unsafe segments.forEach { unsafe bytes.append(contentsOf: $0) }
        }
        return bytes
    }
}

/// Transfers between guest memory and the store.
extension CommandMemory {
    func read(_ range: BlockRange, to pages: DataPages) throws(Status) {
        let byteCount = Int(range.count * store.blockSize.byteCount)
        unsafe try fill(pages, byteCount: byteCount) { (segments) throws(Status) in
            do throws(BlockStoreError) {
                unsafe try store.read(range, into: segments)
            } catch {
                throw Status(reading: error)
            }
        }
    }

    func write(_ range: BlockRange, from pages: DataPages) throws(Status) {
        let byteCount = Int(range.count * store.blockSize.byteCount)
        unsafe try drain(pages, byteCount: byteCount) { (segments) throws(Status) in
            do throws(BlockStoreError) {
                unsafe try store.write(range, from: segments)
            } catch {
                throw Status(writing: error)
            }
        }
    }

    /// - Throws: `compareFailure` unless the guest's bytes equal those of the blocks.
    func compare(_ range: BlockRange, with pages: DataPages) throws(Status) {
        let blocks = try contents(of: range)
        let isEqual = try read(pages, byteCount: blocks.count) == blocks
        guard isEqual else { throw .compareFailure }
    }

    /// Reads blocks for what is wrong with them, a megabyte at a time.
    func verify(_ range: BlockRange) throws(Status) {
        let step = ControllerIdentity.maximumTransferByteCount / store.blockSize.byteCount
        var done: UInt64 = 0
        while done < range.count {
            let count = min(step, range.count - done)
            _ = try contents(
                of: BlockRange(first: LogicalBlock(rawValue: range.first.rawValue + done), count: count))
            done += count
        }
    }

    private func contents(of range: BlockRange) throws(Status) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(range.count * store.blockSize.byteCount))
        let result: Result<Void, BlockStoreError> = unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(BlockStoreError) {
                return .success(unsafe try store.read(range, into: [buffer]))
            } catch {
                return .failure(error)
            }
        }
        if case .failure(let error) = result { throw Status(reading: error) }
        return bytes
    }
}

extension CommandMemory {
    private typealias Segments = [UnsafeMutableRawBufferPointer]

    /// Lets `produce` fill the guest's memory, or a buffer that is then copied there.
    private func fill(
        _ pages: DataPages, byteCount: Int, from produce: (Segments) throws(Status) -> Void
    ) throws(Status) {
        if unsafe try withPins(pages.ranges, .write, produce) != nil { return }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 4096)
        defer { unsafe buffer.deallocate() }
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0)
        unsafe try produce([buffer])
        var done = 0
        for range in pages.ranges {
            let next = done + Int(range.byteCount)
            unsafe try copy(UnsafeRawBufferPointer(rebasing: buffer[done..<next]), to: range.first)
            done = next
        }
    }

    /// Lets `consume` use the guest's memory, or a copy of it.
    private func drain(
        _ pages: DataPages, byteCount: Int, to consume: (Segments) throws(Status) -> Void
    ) throws(Status) {
        if unsafe try withPins(pages.ranges, .read, consume) != nil { return }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 4096)
        defer { unsafe buffer.deallocate() }
        var done = 0
        for range in pages.ranges {
            let next = done + Int(range.byteCount)
            do throws(DMAError) {
                unsafe try guest.read(range, into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<next]))
            } catch {
                throw .dataTransferError
            }
            done = next
        }
        unsafe try consume([buffer])
    }

    /// Writes by message if need be.
    private func copy(_ bytes: UnsafeRawBufferPointer, to address: IOVA) throws(Status) {
        do throws(DMAError) {
            unsafe try guest.write(bytes, to: address)
        } catch {
            throw .dataTransferError
        }
    }

    /// Runs `body` with the ranges pinned.
    ///
    /// - Returns: `nil` when some of them cannot be pinned; a copy will work or tell what is wrong.
    /// - Throws: `dataTransferError` for what no copy will reach either, which an IOMMU hears of once; what `body` throws.
    private func withPins<Result>(
        _ ranges: [IOVARange], _ rights: AccessRights, _ body: (Segments) throws(Status) -> Result
    ) throws(Status) -> Result? {
        var pins = PinnedRanges(capacity: ranges.count)
        for range in ranges {
            do throws(DMAError) {
                try pins.pin(range, rights, guest)
            } catch .notFound, .notPermitted {
                throw .dataTransferError
            } catch {
                return nil
            }
        }
        return unsafe try body(pins.segments)
    }
}

/// Pinned memory in several ranges, released together when the owner lets go.
@safe
private struct PinnedRanges: ~Copyable {
    private let pins: UnsafeMutableBufferPointer<PinnedMemory>
    private var count = 0
    /// The memory in the order of the ranges; valid while the pins are held.
    @unsafe private(set) var segments: [UnsafeMutableRawBufferPointer] = unsafe []

    /// Pins begin at pages; the bytes before a range in its first page are held, but not shown.
    private static let pinGranularity: UInt64 = 4096

    init(capacity: Int) {
        unsafe pins = .allocate(capacity: capacity)
    }

    /// - Precondition: there is capacity for another range.
    mutating func pin(_ range: IOVARange, _ rights: AccessRights, _ guest: GuestMemory) throws(DMAError) {
        let excess = range.first.rawValue & (PinnedRanges.pinGranularity - 1)
        let whole = IOVARange(first: IOVA(range.first.rawValue - excess), last: range.last)
        unsafe pins.initializeElement(at: count, to: try guest.pin(whole, rights: rights))
        count += 1
        var hidden = Int(excess)
        unsafe pins[count - 1].forEachSegment { segment in
            let skipped = min(hidden, segment.count)
            hidden -= skipped
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: segment[skipped...])
            if unsafe !rest.isEmpty { unsafe segments.append(rest) }
        }
    }

    deinit {
        for index in 0..<count { unsafe pins.moveElement(from: index).unpin() }
        unsafe pins.deallocate()
    }
}

extension Status {
    init(reading error: BlockStoreError) {
        self =
            switch error {
            case .outOfRange: .blockOutOfRange
            case .badMemory: .dataTransferError
            case .readOnly, .noSpace, .failed: .unrecoveredReadError
            }
    }

    init(writing error: BlockStoreError) {
        self =
            switch error {
            case .outOfRange: .blockOutOfRange
            case .readOnly: .namespaceWriteProtected
            case .noSpace: .capacityExceeded
            case .badMemory: .dataTransferError
            case .failed: .writeFault
            }
    }
}
