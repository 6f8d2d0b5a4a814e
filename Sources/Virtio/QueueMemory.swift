import DMA
import PCI
import Synchronization

/// Guest memory as a queue reaches it: rings, descriptors and the bytes of buffers.
///
/// The only file of the target that handles raw memory. The driver may change any byte at any time, so whatever is decided on
/// is copied first; a ring's indices and flags are read and written in one access each, with the order that they need.
/// Memory that only messages reach is accessed by messages, which come one after the other.
struct QueueMemory: Sendable {
    let guest: GuestMemory

    /// Reads two bytes, before anything that is read later.
    func load(at address: IOVA) throws(VirtqueueError) -> UInt16 {
        let range = try range(address, 2)
        var value: UInt16?
        do throws(DMAError) {
            unsafe try guest.withMemory(range, rights: .read) { bytes in
                // The address is aligned, so both bytes are unless a mapping is made of odd pieces.
                guard let place = unsafe Self.word(bytes) else { return }
                value = unsafe UInt16(littleEndian: place.pointee.load(ordering: .acquiring))
            }
        } catch {
            guard error == .invalid else { throw .memory(error, range) }
        }
        if let value { return value }
        var bytes = [0, 0] as InlineArray<2, UInt8>
        var span = bytes.mutableSpan
        try read(range, into: &span)
        return UInt16(bytes[0]) | UInt16(bytes[1]) << 8
    }

    /// Writes two bytes, after everything that was written before.
    func store(_ value: UInt16, at address: IOVA) throws(VirtqueueError) {
        let range = try range(address, 2)
        var isStored = false
        do throws(DMAError) {
            unsafe try guest.withMemory(range, rights: .write) { bytes in
                guard let place = unsafe Self.word(bytes) else { return }
                unsafe place.pointee.store(value.littleEndian, ordering: .releasing)
                isStored = true
            }
        } catch {
            guard error == .invalid else { throw .memory(error, range) }
        }
        if isStored { return }
        let bytes = [UInt8(truncatingIfNeeded: value), UInt8(value >> 8)] as InlineArray<2, UInt8>
        try write(bytes.span, to: address)
    }

    private static func word(_ bytes: UnsafeMutableRawBufferPointer) -> UnsafePointer<Atomic<UInt16>>? {
        guard bytes.count == 2, let base = bytes.baseAddress else { return nil }
        guard UInt(bitPattern: base) % 2 == 0 else { return nil }
        return unsafe UnsafePointer(base.assumingMemoryBound(to: Atomic<UInt16>.self))
    }

    func descriptor(at address: IOVA) throws(VirtqueueError) -> VirtqueueDescriptor {
        var words = [0, 0] as InlineArray<2, UInt64>
        let range = try range(address, UInt64(SplitRing.descriptorByteCount))
        unsafe try withUnsafeMutableBytes(of: &words) { (bytes) throws(VirtqueueError) in
            unsafe try read(range, into: bytes)
        }
        return VirtqueueDescriptor(UInt64(littleEndian: words[0]), UInt64(littleEndian: words[1]))
    }

    /// Fills `elements` from its start on with `count` entries of a ring or of a table, as they lie in memory.
    ///
    /// - Precondition: there is room, and `count` is not zero.
    func read<Element: FixedWidthInteger & BitwiseCopyable>(
        _ count: Int, at address: IOVA, into elements: inout [Element], from start: Int
    ) throws(VirtqueueError) {
        let byteCount = count * MemoryLayout<Element>.size
        let range = try range(address, UInt64(byteCount))
        var span = elements.mutableSpan
        unsafe try span.withUnsafeMutableBytes { (bytes) throws(VirtqueueError) in
            let first = start * MemoryLayout<Element>.size
            unsafe try read(range, into: UnsafeMutableRawBufferPointer(rebasing: bytes[first..<first + byteCount]))
        }
    }

    /// Writes some of `words`, as they lie in memory.
    func write(_ words: [UInt64], _ part: Range<Int>, to address: IOVA) throws(VirtqueueError) {
        unsafe try words.span.withUnsafeBytes { (bytes) throws(VirtqueueError) in
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes[part.lowerBound * 8..<part.upperBound * 8])
            unsafe try write(bytes, to: address)
        }
    }

    /// Fills `bytes` from `start` on with as many as the range has.
    ///
    /// - Precondition: there is room.
    func read(
        _ range: IOVARange, into bytes: inout MutableSpan<UInt8>, from start: Int = 0
    ) throws(VirtqueueError) {
        let end = start + Int(range.byteCountOfSegment)
        unsafe try bytes.withUnsafeMutableBytes { (bytes) throws(VirtqueueError) in
            unsafe try read(range, into: UnsafeMutableRawBufferPointer(rebasing: bytes[start..<end]))
        }
    }

    func write(_ bytes: Span<UInt8>, to address: IOVA) throws(VirtqueueError) {
        unsafe try bytes.withUnsafeBytes { (bytes) throws(VirtqueueError) in unsafe try write(bytes, to: address) }
    }

    private func read(_ range: IOVARange, into bytes: UnsafeMutableRawBufferPointer) throws(VirtqueueError) {
        do throws(DMAError) {
            unsafe try guest.read(range, into: bytes)
        } catch {
            throw .memory(error, range)
        }
    }

    private func write(_ bytes: UnsafeRawBufferPointer, to address: IOVA) throws(VirtqueueError) {
        let range = try range(address, UInt64(bytes.count))
        do throws(DMAError) {
            unsafe try guest.write(bytes, to: address)
        } catch {
            throw .memory(error, range)
        }
    }

    private func range(_ address: IOVA, _ byteCount: UInt64) throws(VirtqueueError) -> IOVARange {
        do throws(DMAError) {
            return try IOVARange(first: address, byteCount: byteCount)
        } catch {
            throw .addressOverflow
        }
    }
}
