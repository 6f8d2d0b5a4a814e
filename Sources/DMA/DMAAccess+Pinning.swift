import LinuxHost

extension DMAAccess {
    /// Holds a range of memory in place: until it is unpinned, its mappings are not removed.
    ///
    /// All or nothing. A pin counts on each mapping it touches; the same range may be pinned several times. Takes no lock.
    ///
    /// - Throws: the first that applies of `EINVAL` for no rights, or an access that was not made to pin or has no
    ///   callback; `ENOENT` when it is not attached; then, by ascending address, `ENOENT` for what is not mapped;
    ///   `EINVAL` for a mapping that an unmap has closed, remote memory, or memory that is not made of whole pages but
    ///   for the end of the range; `EPERM` for rights that the mapping does not have.
    public func pin(
        _ range: IOVARange, rights: AccessRights, file: StaticString = #fileID, line: UInt32 = #line
    ) throws(DMAError) -> PinnedMemory {
        let place = LockChecker.isOn ? SourcePlace(file: file, line: line) : nil
        guard mayPin, !rights.isEmpty else { throw .invalid }
        return try inSection(range, at: place) { (section, translation) throws(DMAError) in
            let first = try translation.pin(range.first, range, rights)
            var others: [PinnedPiece] = []
            if first.range.last < range.last {
                do throws(DMAError) {
                    try translation.pinRest(of: range, behind: first, rights, &others)
                } catch {
                    translation.unpin(first)
                    throw error
                }
            }
            readers.addPins(1, in: section)
            let record = place.map { PinRecords.add(range, of: self, at: $0) } ?? 0
            return PinnedMemory(first, others, rights: rights, of: self, in: translation, record: record)
        }
    }

    /// Gives the pieces of a pin back.
    func unpin(
        _ first: PinnedPiece, _ others: [PinnedPiece], rights: AccessRights,
        in translation: Translation
    ) {
        // As long as the pin counts on the access, that is attached and its address space alive; and as long as the
        // section lasts, the access is.
        let section = readers.enter(.nowhere)
        if rights.contains(.write) {
            translation.noteWrite(to: first.range)
            for piece in others { translation.noteWrite(to: piece.range) }
        }
        translation.unpin(first)
        for piece in others { translation.unpin(piece) }
        readers.addPins(-1, in: section)
        wakeIfClosing()
        readers.leave(section)
    }
}

extension Translation {
    /// Counts a pin on the mapping at `iova`, and returns the part of it that lies in `range`.
    @inline(__always)
    fileprivate func pin(_ iova: IOVA, _ range: IOVARange, _ rights: AccessRights) throws(DMAError) -> PinnedPiece {
        let mapping = try findOpen(iova)
        guard !mapping.isRemote else { throw .invalid }
        let part = IOVARange(first: iova, last: min(mapping.range.last, range.last))
        // Only the very first and the very last page of a pin may be partly of it.
        let mask = (1 << pageShift) - 1 as UInt64
        let offset = mapping.offset &+ (iova.rawValue &- mapping.range.first.rawValue)
        guard offset & mask == 0 else { throw .invalid }
        guard part.last == range.last || (offset &+ part.byteCount) & mask == 0 else { throw .invalid }
        guard mapping.rights.isSuperset(of: rights) else { throw .notPermitted }
        do throws(DMAError) {
            try mapping.count()
        } catch {
            unpin(PinnedPiece(mapping: mapping, range: part))
            throw error
        }
        return PinnedPiece(mapping: mapping, range: part)
    }

    /// Pins what follows the first piece, or throws with none of it pinned.
    fileprivate func pinRest(
        of range: IOVARange, behind first: PinnedPiece, _ rights: AccessRights, _ pieces: inout [PinnedPiece]
    ) throws(DMAError) {
        var last = first.range.last
        do throws(DMAError) {
            while last < range.last, let next = last.successor {
                let piece = try pin(next, range, rights)
                pieces.append(piece)
                last = piece.range.last
            }
        } catch {
            for piece in pieces { unpin(piece) }
            throw error
        }
    }

    /// Takes a pin off a mapping, and wakes an unmap that may be waiting for that.
    @inline(__always)
    fileprivate func unpin(_ piece: PinnedPiece) {
        if piece.mapping.uncount() { wakeWaiters() }
    }
}
