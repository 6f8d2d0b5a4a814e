public import DMA
import LinuxHost

/// How a device model reaches memory.
extension SVADevice {
    /// What one step of a transfer copies at most, so that what is asked for at once is little.
    private static let stepSize: UInt64 = 64 << 10

    /// Copies memory of a PASID, or of the function itself, to the buffer, which has the size of the range.
    ///
    /// Waits for pages that have to be asked for. Not atomic: bytes below the one that an error is about have been
    /// transferred.
    public func read(
        _ range: IOVARange, pasid: PASID? = nil, into buffer: UnsafeMutableRawBufferPointer,
        file: StaticString = #fileID, line: UInt32 = #line
    ) throws(AccessFailure) {
        guard UInt64(buffer.count) == range.byteCount else { throw .memory(.invalid) }
        let place = SourcePlace(file: file, line: line)
        var done = 0
        while done < buffer.count {
            let step = SVADevice.step(of: range, after: done)
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + Int(step.byteCount)])
            try withFaults(pasid, step, .read, at: place) { (access) throws(DMAError) in
                unsafe try access.read(step, into: part, file: file, line: line)
            }
            done += part.count
        }
    }

    /// Copies bytes to memory of a PASID, or of the function itself.
    ///
    /// Otherwise as `read`. Bytes near a page that had to be asked for may be written twice.
    public func write(
        _ bytes: UnsafeRawBufferPointer, to iova: IOVA, pasid: PASID? = nil, file: StaticString = #fileID,
        line: UInt32 = #line
    ) throws(AccessFailure) {
        let range: IOVARange
        do throws(DMAError) {
            range = try IOVARange(first: iova, byteCount: UInt64(bytes.count))
        } catch {
            throw .memory(error)
        }
        let place = SourcePlace(file: file, line: line)
        var done = 0
        while done < bytes.count {
            let step = SVADevice.step(of: range, after: done)
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[done..<done + Int(step.byteCount)])
            try withFaults(pasid, step, .write, at: place) { (access) throws(DMAError) in
                unsafe try access.write(part, to: step.first, file: file, line: line)
            }
            done += part.count
        }
    }

    /// Holds a range of memory in place, all or nothing. Waits for pages that have to be asked for.
    ///
    /// A pin holds up unmaps and the end of the attachment: release it when `onUnmap` is told of its range.
    public func pin(
        _ range: IOVARange, pasid: PASID? = nil, rights: AccessRights, file: StaticString = #fileID,
        line: UInt32 = #line
    ) throws(AccessFailure) -> PinnedMemory {
        try withFaults(pasid, range, rights, at: SourcePlace(file: file, line: line)) { (access) throws(DMAError) in
            try access.pin(range, rights: rights, file: file, line: line)
        }
    }

    /// Calls `body` with the memory of a range where it is, a page or less at a time, in the order of addresses.
    ///
    /// Looks the pages up in the translations that the device keeps, and keeps those that it had to look up elsewhere,
    /// pinned, until they are unmapped or others take their place. Waits for pages that have to be asked for, before the
    /// body has seen them. Unmaps of a page wait while `body` has it, so that must be short and wait for nothing.
    ///
    /// - Throws: what stopped it; `body` has been called for what is below. `EINVAL` for an address space whose pages are
    ///   not of 4096 bytes.
    public func withTranslations(
        of range: IOVARange, pasid: PASID? = nil, rights: AccessRights, file: StaticString = #fileID,
        line: UInt32 = #line, _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(AccessFailure) {
        var next: UInt64? = range.first.rawValue
        while let first = next, first <= range.last.rawValue {
            guard isRunning else { throw .stopped }
            let page = first & ~(PageRequest.pageSize - 1)
            let last = min(page | (PageRequest.pageSize - 1), range.last.rawValue)
            let key = TranslationCache.Key(pasid: pasid, page: IOVA(page), rights: rights)
            unsafe try cache.withPage(key) { () throws(AccessFailure) in
                let pinned = try pin(key.range, pasid: pasid, rights: rights, file: file, line: line)
                if pinned.segmentCount == 1 { return pinned }
                pinned.unpin()
                throw .memory(.invalid)
            } _: { memory in
                unsafe body(UnsafeMutableRawBufferPointer(rebasing: memory[Int(first - page)...Int(last - page)]))
            }
            next = last == .max ? nil : last + 1
        }
    }

    /// The step of a transfer that comes after so many bytes: up to the next boundary of a step.
    private static func step(of range: IOVARange, after done: Int) -> IOVARange {
        let first = range.first.rawValue + UInt64(done)
        return IOVARange(first: IOVA(first), last: IOVA(min(first | (stepSize - 1), range.last.rawValue)))
    }
}
