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
            while let piece = source.range.piece(after: done) {
                try read(piece, from, into: &buffer)
                done += try write(buffer, at: destination.range.piece(after: done), to)
            }
        case .fill(let destination, let pattern):
            let to = try pasid(of: destination, .address)
            // A piece holds the pattern a whole number of times, so each begins with its first byte.
            for index in buffer.indices {
                buffer[index] = UInt8(truncatingIfNeeded: pattern >> UInt64(index % 8 * 8))
            }
            while let piece = destination.range.piece(after: done) { done += try write(buffer, at: piece, to) }
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
            throw EngineFailure(error, about: .source) { firstFault(in: piece, pasid, .read) }
        }
    }

    /// - Returns: how many bytes were written; none for no piece.
    private func write(_ buffer: [UInt8], at piece: IOVARange?, _ pasid: PASID?) throws(EngineFailure) -> UInt64 {
        guard let piece else { return 0 }
        do throws(AccessFailure) {
            unsafe try buffer.span.withUnsafeBytes { (bytes) throws(AccessFailure) in
                let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<Int(piece.byteCount)])
                unsafe try device.write(part, to: piece.first, pasid: pasid)
            }
        } catch {
            throw EngineFailure(error, about: .address) { firstFault(in: piece, pasid, .write) }
        }
        return piece.byteCount
    }

    /// The first address of a piece that cannot be reached; that of the piece when all of it is mapped.
    private func firstFault(in piece: IOVARange, _ pasid: PASID?, _ rights: AccessRights) -> IOVA {
        guard let pasid, let fault = space(of: pasid)?.firstFault(in: piece, for: rights) else { return piece.first }
        return fault.address
    }
}

extension IOVARange {
    /// What is transferred next, once so many bytes have been; `nil` when all have.
    fileprivate func piece(after done: UInt64) -> IOVARange? {
        let left = byteCount - done
        guard left > 0 else { return nil }
        let start = first.rawValue + done
        let count = min(left, UInt64(CopyEngine.pieceByteCount))
        return IOVARange(first: IOVA(start), last: IOVA(start + (count - 1)))
    }
}
