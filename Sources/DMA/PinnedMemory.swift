import LinuxHost

/// Memory that stays where it is, mapped and reachable, until it is released.
///
/// It may be used and released on any thread, after its access was told to let go as well as before. Every pin is an
/// obligation: dropping one without `unpin()` traps, because the mapping could never be removed again. Counterpart of
/// `iommufd_access_pin_pages`.
public struct PinnedMemory: ~Copyable, Sendable {
    private let pieces: [PinnedPiece]
    private let access: DMAAccess
    private let space: IOAddressSpace
    private var isReleased = false

    init(_ pieces: [PinnedPiece], of access: DMAAccess, in space: IOAddressSpace) {
        self.pieces = pieces
        self.access = access
        self.space = space
    }

    deinit {
        precondition(isReleased, "pinned memory was dropped without unpin()")
    }

    /// The number of pinned bytes.
    public var byteCount: Int { pieces.reduce(0) { $0 + $1.byteCount } }

    /// How many segments `forEachSegment` has.
    public var segmentCount: Int {
        var count = 0
        forEachRun { _, _, _ in count += 1 }
        return count
    }

    /// Calls `body` with the memory in the order of its addresses, each time with as much as is contiguous in this
    /// process. The buffers are valid until `unpin`; those of a pin without write rights must not be written to.
    public func forEachSegment(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        // The pieces keep their objects alive, and each lies within its object.
        forEachRun { object, offset, byteCount in unsafe body(object.slice(at: offset, count: byteCount)) }
    }

    /// Lets go. Never waits for an unmap; legal inside the unmap callback.
    public consuming func unpin() {
        isReleased = true
        space.unpin(pieces)
        access.didUnpin()
    }

    /// Calls `body` with the pieces, joining those that follow each other in one object.
    private func forEachRun(_ body: (_ object: MemoryObject, _ offset: Int, _ byteCount: Int) -> Void) {
        var index = 0
        while index < pieces.count {
            let piece = pieces[index]
            var byteCount = piece.byteCount
            index += 1
            while index < pieces.count, pieces[index].object === piece.object,
                pieces[index].offset == piece.offset + byteCount
            {
                byteCount += pieces[index].byteCount
                index += 1
            }
            body(piece.object, piece.offset, byteCount)
        }
    }
}

/// The part of a pin that lies in one mapping.
struct PinnedPiece: Sendable {
    let mapping: Mapping
    let object: MemoryObject
    let offset: Int
    let byteCount: Int
}

extension IOAddressSpace {
    func pin(_ range: IOVARange, rights: AccessRights) throws(DMAError) -> [PinnedPiece] {
        try state.withLock { (state) throws(DMAError) in try state.pin(range, rights: rights) }
    }

    func unpin(_ pieces: [PinnedPiece]) {
        wakeWaiters(if: state.withLock { $0.unpin(pieces) })
    }
}
