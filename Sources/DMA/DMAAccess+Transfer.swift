public import LinuxHost

/// What a transfer does inside and after one section.
private enum TransferStep {
    /// So many bytes were copied.
    case copied(Int)
    /// A message to the peer has to transfer them, under the peer's address.
    case message(any RemoteMemory, IOVA, byteCount: Int)
}

extension DMAAccess {
    /// Copies a range of memory, any bytes of any mappings, to the buffer, which has the size of the range.
    ///
    /// Not atomic: bytes below the one that an error is about have been transferred. Needs neither pins nor a callback,
    /// and takes no lock. Remote memory is read by messages.
    ///
    /// - Throws: `EINVAL` for a buffer of another size; `ENOENT` when the access is not attached, or no longer to where
    ///   the transfer began, or an address is not mapped; `EINVAL` for a mapping that an unmap has closed; `EPERM` for one
    ///   that cannot be read; and what remote memory answers.
    public func read(
        _ range: IOVARange, into buffer: UnsafeMutableRawBufferPointer, file: StaticString = #fileID,
        line: UInt32 = #line
    ) throws(DMAError) {
        guard UInt64(buffer.count) == range.byteCount else { throw .invalid }
        let place = LockChecker.isOn ? SourcePlace(file: file, line: line) : nil
        unsafe try transfer(at: range.first, byteCount: buffer.count, rights: .read, place) { (done, memory) in
            // A step has at most as many bytes as are left of the buffer.
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + memory.count])
            unsafe part.copyMemory(from: UnsafeRawBufferPointer(memory))
        } message: { (done, memory, iova, count) throws(DMAError) in
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
            unsafe try memory.read(at: iova, into: part)
        }
    }

    /// Copies bytes to memory from `iova` on, any bytes of any mappings.
    ///
    /// Otherwise as `read`.
    ///
    /// - Throws: `EINVAL` for no bytes; `EOVERFLOW` past the top of the space; `ENOENT` when the access is not attached
    ///   or an address is not mapped; `EINVAL` for a mapping that an unmap has closed; `EPERM` for one that cannot be
    ///   written; and what remote memory answers.
    public func write(
        _ bytes: UnsafeRawBufferPointer, to iova: IOVA, file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) {
        let range = try IOVARange(first: iova, byteCount: UInt64(bytes.count))
        let place = LockChecker.isOn ? SourcePlace(file: file, line: line) : nil
        unsafe try transfer(at: range.first, byteCount: bytes.count, rights: .write, place) { (done, memory) in
            unsafe memory.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: bytes[done..<done + memory.count]))
        } message: { (done, memory, iova, count) throws(DMAError) in
            unsafe try memory.write(UnsafeRawBufferPointer(rebasing: bytes[done..<done + count]), at: iova)
        }
    }

    /// Calls `body` with the memory of a range where it is, in the order of addresses, without copying or pinning it.
    ///
    /// For a few bytes at a time, such as a ring's index or a descriptor. Unmaps wait while `body` runs: it must be
    /// short, must not wait for anything, and must not change an address space. The memory must not be used afterwards,
    /// nor written to without write rights. Takes no lock.
    ///
    /// - Parameter body: called once for each mapping that the range touches.
    /// - Throws: as `read` and `write`, and `EINVAL` for remote memory. Mappings below the one that an error is about
    ///   have been visited.
    @inlinable
    public func withMemory(
        _ range: IOVARange, rights: AccessRights, file: StaticString = #fileID, line: UInt32 = #line,
        _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(DMAError) {
        if LockChecker.isOn {
            unsafe try withMemoryWatched(range, rights, at: SourcePlace(file: file, line: line), body)
        } else {
            unsafe try withMemoryUnwatched(range, rights, body)
        }
    }

    @usableFromInline
    func withMemoryUnwatched(
        _ range: IOVARange, _ rights: AccessRights, _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(DMAError) {
        unsafe try visit(range, rights, at: nil, body)
    }

    @usableFromInline
    @inline(never)
    func withMemoryWatched(
        _ range: IOVARange, _ rights: AccessRights, at place: SourcePlace,
        _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(DMAError) {
        unsafe try visit(range, rights, at: place, body)
    }

    /// - Parameter place: where, if somebody watches.
    @inline(__always)
    private func visit(
        _ range: IOVARange, _ rights: AccessRights, at place: SourcePlace?,
        _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(DMAError) {
        guard !rights.isEmpty else { throw .invalid }
        try inSection(range, at: place) { (_, translation) throws(DMAError) in
            var next: IOVA? = range.first
            while let first = next, first <= range.last {
                let mapping = try translation.find(first, for: rights)
                guard !mapping.isRemote else { throw .invalid }
                let part = IOVARange(first: first, last: min(mapping.range.last, range.last))
                unsafe body(mapping.bytes(of: part))
                if rights.contains(.write) { translation.noteWrite(to: part) }
                next = part.last.successor
            }
        }
    }

    /// Goes through a range in steps of one section each. The end does not overflow: the caller has made a range of it.
    ///
    /// A step is as large as one section copies. Messages are as small because an attachment that ends, as in a reset,
    /// does not wait for them: the transfer ends at the next step.
    ///
    /// - Parameters:
    ///   - copy: transfers what follows the first `done` bytes to or from memory of this process.
    ///   - message: the same with memory that is reached by messages, outside of any section.
    @inline(__always)
    private func transfer(
        at first: IOVA, byteCount: Int, rights: AccessRights, _ place: SourcePlace?,
        copy: (_ done: Int, UnsafeMutableRawBufferPointer) -> Void,
        message: (_ done: Int, any RemoteMemory, IOVA, _ byteCount: Int) throws(DMAError) -> Void
    ) throws(DMAError) {
        var done = 0
        var begun: Translation?
        while done < byteCount {
            let iova = IOVA(first.rawValue + UInt64(done))
            let attempt = min(byteCount - done, Reach.maximumCopy)
            let range = IOVARange(first: iova, last: IOVA(iova.rawValue + UInt64(attempt - 1)))
            let step = try inSection(range, at: place) { (_, translation) throws(DMAError) -> TransferStep in
                // A transfer does not follow its access to another address space.
                guard begun == nil || begun == translation else { throw .notFound }
                begun = translation
                let mapping = try translation.find(iova, for: rights)
                let rest = mapping.range.last.rawValue - iova.rawValue
                let count = rest < UInt64(attempt) ? Int(rest) + 1 : attempt
                if mapping.isRemote, case .remote(let link, let shift) = mapping.backing {
                    return .message(link.memory, IOVA(iova.rawValue &+ shift), byteCount: count)
                }
                let part = IOVARange(first: iova, last: IOVA(iova.rawValue + UInt64(count - 1)))
                unsafe copy(done, mapping.bytes(of: part))
                if rights.contains(.write) { translation.noteWrite(to: part) }
                return .copied(count)
            }
            switch step {
            case .copied(let count):
                done += count
            case .message(let memory, let peerAddress, let count):
                if let place { tellMessage(at: place) }
                try message(done, memory, peerAddress, count)
                if rights.contains(.write) { noteWrite(to: range, byteCount: count, in: begun, at: place) }
                done += count
            }
        }
    }

    /// Notes what a message has written at the start of a range, if the access is still attached to where it was written.
    private func noteWrite(to range: IOVARange, byteCount: Int, in begun: Translation?, at place: SourcePlace?) {
        let written = IOVARange(first: range.first, last: IOVA(range.first.rawValue + UInt64(byteCount - 1)))
        try? inSection(written, at: place) { (_, translation) throws(DMAError) in
            if translation == begun { translation.noteWrite(to: written) }
        }
    }
}
