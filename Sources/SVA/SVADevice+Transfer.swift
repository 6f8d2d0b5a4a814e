public import DMA
import LinuxHost

/// How a device model reaches memory.
extension SVADevice {
    /// What one step of a transfer copies at most, so that what is asked for at once is little.
    private static let stepSize: UInt64 = 64 << 10

    /// Copies memory of a PASID, or of the function itself, to the buffer, which has the size of the range.
    ///
    /// Waits for pages that have to be asked for. Not atomic: bytes below the one that an error is about have been
    /// transferred. What came before a page that had to be asked for is not transferred again.
    public func read(
        _ range: IOVARange, pasid: PASID? = nil, into buffer: UnsafeMutableRawBufferPointer,
        file: StaticString = #fileID, line: UInt32 = #line
    ) throws(AccessFailure) {
        guard UInt64(buffer.count) == range.byteCount else { throw .memory(.invalid) }
        let place = SourcePlace(file: file, line: line)
        unsafe try transfer(range, pasid, .read, at: place) { (done, memory) in
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + memory.count])
            unsafe part.copyMemory(from: UnsafeRawBufferPointer(memory))
        } message: { (access, done, rest) throws(DMAError) in
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + Int(rest.byteCount)])
            unsafe try access.read(rest, into: part, file: file, line: line)
        }
    }

    /// Copies bytes to memory of a PASID, or of the function itself.
    ///
    /// Otherwise as `read`.
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
        unsafe try transfer(range, pasid, .write, at: place) { (done, memory) in
            unsafe memory.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: bytes[done..<done + memory.count]))
        } message: { (access, done, rest) throws(DMAError) in
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[done..<done + Int(rest.byteCount)])
            unsafe try access.write(part, to: rest.first, file: file, line: line)
        }
    }

    /// Holds a range of memory in place, all or nothing. Waits for pages that have to be asked for.
    ///
    /// A pin holds up unmaps and the end of the attachment: release it when `onUnmap` is told of its range.
    public func pin(
        _ range: IOVARange, pasid: PASID? = nil, rights: AccessRights, file: StaticString = #fileID,
        line: UInt32 = #line
    ) throws(AccessFailure) -> PinnedMemory {
        try withFaults(pasid, range, rights, at: SourcePlace(file: file, line: line)) { (slot) throws(DMAError) in
            try slot.access.pin(range, rights: rights, file: file, line: line)
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

    /// Goes through a range in steps, and each try of a step goes on where the last one missed.
    ///
    /// - Parameters:
    ///   - copy: transfers what follows the first `done` bytes to or from memory of this process.
    ///   - message: transfers what is mapped of the rest of a step, after the first `done` bytes, when it comes to memory
    ///     that is reached by messages. Should it fail, nobody says how far it came.
    private func transfer(
        _ range: IOVARange, _ pasid: PASID?, _ rights: AccessRights, at place: SourcePlace,
        copy: (_ done: Int, UnsafeMutableRawBufferPointer) -> Void,
        message: (DMAAccess, _ done: Int, _ rest: IOVARange) throws(DMAError) -> Void
    ) throws(AccessFailure) {
        let count = Int(range.byteCount)
        var done = 0
        while done < count {
            try withFaults(pasid, SVADevice.step(of: range, after: done), rights, at: place) {
                (slot) throws(DMAError) in
                do throws(DMAError) {
                    let rest = SVADevice.step(of: range, after: done)
                    unsafe try slot.access.withMemory(
                        rest, rights: rights, file: place.file, line: place.line
                    ) { memory in
                        unsafe copy(done, memory)
                        done += memory.count
                    }
                } catch {
                    guard error == .invalid else { throw error }
                    let rest = SVADevice.step(of: range, after: done)
                    let fault = slot.space?.firstFault(in: rest, for: rights)
                    if let part = rest.part(before: fault?.address) {
                        try message(slot.access, done, part)
                        done += Int(part.byteCount)
                    }
                    if let fault { throw fault.error }
                }
            }
        }
    }

    /// The rest of a transfer after so many bytes, up to the next boundary of a step.
    private static func step(of range: IOVARange, after done: Int) -> IOVARange {
        let first = range.first.rawValue + UInt64(done)
        return IOVARange(first: IOVA(first), last: IOVA(min(first | (stepSize - 1), range.last.rawValue)))
    }
}

extension IOVARange {
    /// What lies below an address of the range, all of it for none.
    fileprivate func part(before address: IOVA?) -> IOVARange? {
        guard let address else { return self }
        return address > first ? IOVARange(first: first, last: IOVA(address.rawValue - 1)) : nil
    }
}

extension AccessFault {
    /// What an access is told that meets it.
    fileprivate var error: DMAError {
        switch reason {
        case .notMapped: .notFound
        case .closed: .invalid
        case .notPermitted: .notPermitted
        }
    }
}
