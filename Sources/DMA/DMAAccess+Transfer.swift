/// The part of a transfer that is done at once.
enum TransferStep: Sendable {
    /// A copy between the caller's bytes and an object's; the mapping is not removed before its end is reported.
    case copy(Mapping, MemoryObject, offset: Int, byteCount: Int)
    /// A message to the peer, under the peer's address.
    case message(any RemoteMemory, IOVA, byteCount: Int)

    /// How many bytes are copied before an unmap is let in between.
    static let maximumCopy = 1 << 20
    /// How many bytes remote memory is asked to transfer before it is asked again whether the access is still attached:
    /// an attachment that ends, as in a reset, does not wait for messages, and ends them here.
    static let maximumMessage = 64 << 10
}

extension DMAAccess {
    /// Copies a range of memory, any bytes of any mappings, to the buffer, which has the size of the range.
    ///
    /// Not atomic: bytes below the one that an error is about have been transferred. Needs neither pins nor a callback.
    /// Remote memory is read by messages, with no lock held.
    ///
    /// - Throws: `EINVAL` for a buffer of another size; `ENOENT` when the access is not attached, or no longer to where
    ///   the transfer began, or an address is not mapped; `EINVAL` for a mapping that an unmap has closed; `EPERM` for one that cannot be read; and what remote
    ///   memory answers.
    public func read(_ range: IOVARange, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        guard UInt64(buffer.count) == range.byteCount else { throw .invalid }
        try transfer(at: range.first, byteCount: buffer.count, rights: .read) { (step, done) throws(DMAError) in
            // The step has at most as many bytes as are left of the buffer, and lies within its object.
            switch step {
            case .copy(_, let object, let offset, let count):
                let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
                unsafe part.copyMemory(from: UnsafeRawBufferPointer(object.slice(at: offset, count: count)))
            case .message(let memory, let iova, let count):
                let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
                unsafe try memory.read(at: iova, into: part)
            }
        }
    }

    /// Copies bytes to memory from `iova` on, any bytes of any mappings.
    ///
    /// Otherwise as `read`.
    ///
    /// - Throws: `EINVAL` for no bytes; `EOVERFLOW` past the top of the space; `ENOENT` when the access is not attached
    ///   or an address is not mapped; `EINVAL` for a mapping that an unmap has closed; `EPERM` for one that cannot be
    ///   written; and what remote memory answers.
    public func write(_ bytes: UnsafeRawBufferPointer, to iova: IOVA) throws(DMAError) {
        let range = try IOVARange(first: iova, byteCount: UInt64(bytes.count))
        try transfer(at: range.first, byteCount: bytes.count, rights: .write) { (step, done) throws(DMAError) in
            switch step {
            case .copy(_, let object, let offset, let count):
                let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[done..<done + count])
                unsafe object.slice(at: offset, count: count).copyMemory(from: part)
            case .message(let memory, let iova, let count):
                unsafe try memory.write(UnsafeRawBufferPointer(rebasing: bytes[done..<done + count]), at: iova)
            }
        }
    }

    /// Calls `body` with the steps of a transfer and the number of bytes before each. The end does not overflow: the
    /// caller has made a range of it.
    private func transfer(
        at first: IOVA, byteCount: Int, rights: AccessRights,
        _ body: (TransferStep, _ done: Int) throws(DMAError) -> Void
    ) throws(DMAError) {
        var done = 0
        var begun: IOAddressSpace?
        while done < byteCount {
            let iova = try first.advanced(by: UInt64(done))
            let (step, space) = try beginTransfer(at: iova, upTo: byteCount - done, rights: rights, in: begun)
            begun = space
            switch step {
            case .copy(let mapping, _, _, let count):
                defer { endCopy(mapping, in: space) }
                try body(step, done)
                done += count
            case .message(_, _, let count):
                try body(step, done)
                done += count
            }
        }
    }
}
