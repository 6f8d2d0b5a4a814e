/// Memory that stays where it is, mapped and reachable, until it is released.
///
/// It may be used and released on any thread, after its access was told to let go as well as before. Every pin is an
/// obligation: dropping one without `unpin()` traps, because the mapping could never be removed again. Counterpart of
/// `iommufd_access_pin_pages`.
@safe
public struct PinnedMemory: ~Copyable, @unchecked Sendable {  // What it refers to stays as it is while the pin counts.
    private let first: PinnedPiece
    private let others: [PinnedPiece]
    private let rights: AccessRights
    // An access is not let go of its address space, nor is that freed, as long as a pin counts on it.
    private let access: Unmanaged<DMAAccess>
    private let translation: Translation
    /// Its number among the pin records; zero when there is none.
    private let record: UInt64
    private var isReleased = false

    init(
        _ first: PinnedPiece, _ others: [PinnedPiece], rights: AccessRights, of access: DMAAccess,
        in translation: Translation, record: UInt64
    ) {
        self.first = first
        self.others = others
        self.rights = rights
        unsafe self.access = Unmanaged.passUnretained(access)
        self.translation = translation
        self.record = record
    }

    deinit {
        if !isReleased { PinnedMemory.tellDropped(record) }
        precondition(isReleased, "pinned memory was dropped without unpin()")
    }

    /// The number of pinned bytes; `Int.max` for more, which mappings of the same memory can add up to.
    public var byteCount: Int {
        others.reduce(first.byteCount) { sum, piece in
            let (total, overflow) = sum.addingReportingOverflow(piece.byteCount)
            return overflow ? .max : total
        }
    }

    /// How many segments `forEachSegment` has.
    public var segmentCount: Int {
        var count = 0
        unsafe forEachSegment { _ in count += 1 }
        return count
    }

    /// Calls `body` with the memory in the order of its addresses, each time with as much as is contiguous in one memory
    /// object. The buffers are valid until `unpin`; those of a pin without write rights must not be written to.
    public func forEachSegment(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        var segment = unsafe first.bytes
        var mapping = first.mapping
        for piece in others {
            let next = unsafe piece.bytes
            if let end = unsafe segment.baseAddress?.advanced(by: segment.count), unsafe end == next.baseAddress,
                piece.mapping.hasSameMemory(as: mapping)
            {
                unsafe segment = UnsafeMutableRawBufferPointer(
                    start: segment.baseAddress, count: segment.count + next.count)
            } else {
                unsafe body(segment)
                unsafe segment = next
            }
            mapping = piece.mapping
        }
        unsafe body(segment)
    }

    /// Notes all pinned bytes as written, for whoever tracks writes; without write rights nothing happens. Unpinning does
    /// so as well: this is for pins that are kept, after the device has written and before it tells anybody so.
    public func noteWrite() {
        guard rights.contains(.write) else { return }
        translation.noteWrite(to: first.range)
        for piece in others { translation.noteWrite(to: piece.range) }
    }

    /// Lets go. Never waits for an unmap; legal inside the unmap callback.
    public consuming func unpin() {
        isReleased = true
        if record != 0 { PinRecords.remove(record) }
        unsafe access._withUnsafeGuaranteedRef {
            $0.unpin(first, others, rights: rights, in: translation)
        }
    }
}

/// The part of a pin that lies in one mapping, which does not go as long as it is counted there.
struct PinnedPiece {
    let mapping: Mapping
    let range: IOVARange

    /// Memory of this process has no more bytes than `Int` counts.
    var byteCount: Int { Int(range.byteCount) }

    var bytes: UnsafeMutableRawBufferPointer { unsafe mapping.bytes(of: range) }
}
