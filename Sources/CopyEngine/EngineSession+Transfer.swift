import DMA
import SVA

/// Transfers, which wait for pages where they have to.
extension EngineSession {
    /// Does a piece of work, as far as it goes.
    ///
    /// - Parameters:
    ///   - buffer: `CopyEngine.pieceByteCount` bytes of the worker's own.
    ///   - done: how many bytes have been transferred.
    func perform(_ work: Work, _ buffer: inout [UInt8], _ done: inout UInt64) throws(EngineFailure) {
        switch work {
        case .nothing: return
        case .copy(let source, let destination):
            let from = try pasid(of: source, .source)
            let to = try pasid(of: destination, .address)
            try inPieces(of: source.range.byteCount, &done) { (done, count) throws(EngineFailure) in
                try read(source.range.piece(after: done, count), from, into: &buffer)
                try write(buffer, from: 0, at: destination.range.piece(after: done, count), to)
            }
        case .fill(let destination, let pattern):
            let to = try pasid(of: destination, .address)
            for index in buffer.indices {
                buffer[index] = UInt8(truncatingIfNeeded: pattern >> UInt64(index % 8 * 8))
            }
            try inPieces(of: destination.range.byteCount, &done) { (done, count) throws(EngineFailure) in
                // A whole piece begins with the first byte of the pattern; a part of one may begin anywhere.
                try write(buffer, from: Int(done % 8), at: destination.range.piece(after: done, count), to)
            }
        }
    }

    /// Goes through a piece of work.
    ///
    /// Memory does not say how far an access came, so a piece that does not get through is tried again page by page, of the
    /// operand that failed. Not if nobody answered: that may take as long each time.
    ///
    /// - Parameter body: transfers `count` bytes after the first `done`; of memory that cannot be reached it names the first
    ///   of them.
    private func inPieces(
        of byteCount: UInt64, _ done: inout UInt64,
        _ body: (_ done: UInt64, _ count: UInt64) throws(EngineFailure) -> Void
    ) throws(EngineFailure) {
        // Where operands begin, of which a piece is to be in one page.
        var paged: [UInt64] = []
        while done < byteCount {
            var count = min(byteCount - done, UInt64(CopyEngine.pieceByteCount))
            for first in paged { count = min(count, CopyEngine.pageSize - (first &+ done) % CopyEngine.pageSize) }
            do throws(EngineFailure) {
                try body(done, count)
                done += count
            } catch {
                let restOfPage = CopyEngine.pageSize - error.faultAddress % CopyEngine.pageSize
                guard error.isUnreachableMemory, count > restOfPage else { throw error }
                paged.append(error.faultAddress &- done)
            }
        }
    }

    /// What an operand's accesses carry: `nil` for none.
    private func pasid(
        of operand: Work.Operand, _ name: CompletionRecord.Operand
    ) throws(EngineFailure) -> PASID? {
        if operand.pasid == 0 { return nil }
        guard let pasid = PASID(rawValue: operand.pasid), space(of: pasid) != nil else {
            throw EngineFailure(.noAddressSpace, about: name)
        }
        return pasid
    }

    private func read(_ piece: IOVARange, _ pasid: PASID?, into buffer: inout [UInt8]) throws(EngineFailure) {
        var span = buffer.mutableSpan
        do throws(AccessFailure) {
            unsafe try span.withUnsafeMutableBytes { (bytes) throws(AccessFailure) in
                let part = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[..<Int(piece.byteCount)])
                unsafe try device.read(piece, pasid: pasid, into: part)
            }
        } catch {
            throw EngineFailure(error, about: .source, in: piece) { firstFault(in: piece, pasid, .read) }
        }
    }

    private func write(
        _ buffer: [UInt8], from start: Int, at piece: IOVARange, _ pasid: PASID?
    ) throws(EngineFailure) {
        do throws(AccessFailure) {
            unsafe try buffer.span.withUnsafeBytes { (bytes) throws(AccessFailure) in
                let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<start + Int(piece.byteCount)])
                unsafe try device.write(part, to: piece.first, pasid: pasid)
            }
        } catch {
            throw EngineFailure(error, about: .address, in: piece) { firstFault(in: piece, pasid, .write) }
        }
    }

    /// The first address of a piece that cannot be reached; that of the piece when all of it is mapped.
    private func firstFault(in piece: IOVARange, _ pasid: PASID?, _ rights: AccessRights) -> IOVA {
        guard let pasid, let fault = space(of: pasid)?.firstFault(in: piece, for: rights) else { return piece.first }
        return fault.address
    }
}

extension IOVARange {
    /// `count` of its bytes after the first `done`.
    fileprivate func piece(after done: UInt64, _ count: UInt64) -> IOVARange {
        let start = first.rawValue + done
        return IOVARange(first: IOVA(start), last: IOVA(start + (count - 1)))
    }
}
