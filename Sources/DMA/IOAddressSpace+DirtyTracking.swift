import LinuxHost

/// Which pages devices write to, for whoever copies the memory while they run.
///
/// A write through `write` or `withMemory` is noted when it is done, that of a pin with write rights when it is unpinned
/// and with `PinnedMemory.noteWrite()`; whoever stops its devices and then reads the log has all of them, but for pins
/// that are kept. Memory that is reached by messages counts as well, though its owner does the writing. What was written
/// stays in the log though its mapping goes.
///
/// Threads: as for the rest of the address space. Noting takes one of many locks, so that threads that write to different
/// places seldom meet; without tracking it costs a load.
extension IOAddressSpace {
    /// Begins to note writes, with none noted so far. `IOMMU_HWPT_SET_DIRTY_TRACKING`
    ///
    /// - Throws: `EOPNOTSUPP` while a consumer is attached, whose writes nobody would note.
    public func startDirtyTracking() throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard state.consumers.isEmpty else { throw .notSupported }
            dirtyLog.clear()
            setTracking(true, &state)
        }
    }

    /// Notes no more writes, and forgets those that were noted.
    public func stopDirtyTracking() {
        state.withLock { state in
            setTracking(false, &state)
            dirtyLog.clear()
        }
    }

    /// Sets a bit for every `pageSize` bytes of a range that were written to since they were last asked for: bit 0 of
    /// the first byte of the bitmap for the first of them, and so on. No bit of the bitmap is cleared, and none behind the
    /// range is touched; holes are clean. `IOMMU_HWPT_GET_DIRTY_BITMAP`
    ///
    /// Writes are noted in units of the configuration's page size: one that has bytes in the range sets all the bits it
    /// covers there.
    ///
    /// - Parameters:
    ///   - pageSize: in bytes; it need be no power of two.
    ///   - clearing: whether to forget what is reported. A unit that lies only partly in the range is reported and not
    ///     forgotten.
    /// - Throws: `EINVAL` when tracking is off, for a page size of zero, for a range whose edges are no multiples of the
    ///   page size and of `alignment`, and for a bitmap with fewer bits than pages. Nothing is forgotten then.
    public func readDirty(
        _ range: IOVARange, pageSize: UInt64, into bitmap: UnsafeMutableRawBufferPointer, clearing: Bool = true
    ) throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard state.tracksWrites, pageSize > 0 else { throw .invalid }
            // The end may be 2^64, of which nothing that is not a power of two is a divisor.
            for unit in [pageSize, state.alignment] {
                guard range.first.rawValue % unit == 0, range.last.rawValue % unit == unit - 1 else { throw .invalid }
            }
            let lastBit = (range.last.rawValue - range.first.rawValue) / pageSize
            guard lastBit / 8 < UInt64(bitmap.count) else { throw .invalid }
        }
        dirtyLog.visit(range, clearing: clearing) { written in
            let first = (written.first.rawValue - range.first.rawValue) / pageSize
            let last = (written.last.rawValue - range.first.rawValue) / pageSize
            for bit in first...last { unsafe bitmap[Int(bit / 8)] |= 1 << UInt8(bit % 8) }
        }
    }

    /// Calls `body` with each unit of a range that was written to since it was last asked for, or what of it lies there, in
    /// no particular order; with none when tracking is off. Units wholly in the range are forgotten.
    ///
    /// For who folds them into a bitmap of other pages, or into none. `body` must not use the address space.
    public func visitDirty(_ range: IOVARange, _ body: (IOVARange) -> Void) {
        dirtyLog.visit(range, clearing: true, body)
    }

    private func setTracking(_ isOn: Bool, _ state: inout AddressSpaceState) {
        state.tracksWrites = isOn
        translation.tracksWrites = isOn
    }
}
