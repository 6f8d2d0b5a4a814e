public import LinuxHost

/// What a transfer does inside and after one section.
private enum TransferStep {
    /// So many bytes were copied.
    case copied(Int)
    /// A message to the peer has to transfer them, under the peer's address. The address space notes what it writes,
    /// though the access may have left by then.
    case message(any RemoteMemory, IOVA, byteCount: Int, IOAddressSpace)
}

extension DMAAccess {
    /// Copies a range of memory, any bytes of any mappings, to the buffer, which has the size of the range.
    ///
    /// Not atomic: bytes below the one that an error is about have been transferred. Needs neither pins nor a callback,
    /// and takes no lock to find the memory. Remote memory is read by messages.
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
    /// Otherwise as `read`. While writes are tracked it takes a lock to note what it has written.
    ///
    /// - Throws: `EINVAL` for no bytes; `EOVERFLOW` past the top of the space; `ENOENT` when the access is not attached,
    ///   or no longer to where the transfer began, or an address is not mapped; `EINVAL` for a mapping that an unmap has closed; `EPERM` for one that cannot be
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
    /// For a few bytes at a time, such as a ring's index or a descriptor. Unmaps of what is near wait while `body` runs,
    /// all of them if the range is larger than 64 KiB, and so does a change of the attachment: `body` must be short, must
    /// not wait for anything, and must change neither an address space nor an attachment, which traps rather than wait
    /// for itself. The memory must not be used afterwards, nor written to without write rights. Takes no lock to find it.
    ///
    /// - Parameter body: called once for each mapping that the range touches, so not at all when the first is missing.
    /// - Throws: the first that applies of `EINVAL` for no rights; `ENOENT` when the access is not attached; then, by
    ///   ascending address, `ENOENT` for what is not mapped; `EINVAL` for a mapping that an unmap has closed; `EPERM` for
    ///   rights that it does not have; `EINVAL` for remote memory. Mappings below the one that an error is about have
    ///   been visited.
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
                let mapping = try translation.findOpen(first, for: rights)
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
        var begun: UInt64?
        while done < byteCount {
            let iova = IOVA(first.rawValue + UInt64(done))
            let attempt = min(byteCount - done, Reach.maximumCopy)
            let range = IOVARange(first: iova, last: IOVA(iova.rawValue + UInt64(attempt - 1)))
            let step = try inSection(range, at: place) { (_, translation) throws(DMAError) -> TransferStep in
                // A transfer does not follow its access to another address space.
                guard begun == nil || begun == translation.serial else { throw .notFound }
                begun = translation.serial
                let mapping = try translation.findOpen(iova, for: rights)
                let rest = mapping.range.last.rawValue - iova.rawValue
                let count = rest < UInt64(attempt) ? Int(rest) + 1 : attempt
                if mapping.isRemote, case .remote(let link, let shift) = mapping.backing {
                    return .message(
                        link.memory, IOVA(iova.rawValue &+ shift), byteCount: count, translation.space)
                }
                let part = IOVARange(first: iova, last: IOVA(iova.rawValue + UInt64(count - 1)))
                unsafe copy(done, mapping.bytes(of: part))
                if rights.contains(.write) { translation.noteWrite(to: part) }
                return .copied(count)
            }
            switch step {
            case .copied(let count):
                done += count
            case .message(let memory, let peerAddress, let count, let space):
                if let place { tellMessage(at: place) }
                // What fails may have written a part.
                defer {
                    let part = IOVARange(first: iova, last: IOVA(iova.rawValue + UInt64(count - 1)))
                    if rights.contains(.write) { space.translation.noteWrite(to: part) }
                }
                try message(done, memory, peerAddress, count)
                done += count
            }
        }
    }
}
