import DMA
import LinuxHost
import VFIOUserWire

extension Session {
    /// Maps client memory: a descriptor's file directly unless the client wants it read and written, anything else
    /// through messages.
    ///
    /// A client that sends the very same mapping again gets the same answer again.
    func map(_ request: MapDMA, _ descriptors: inout DescriptorBundle) throws(RequestRefusal) {
        do throws(DMAError) {
            let range = IOVARange(request.addresses)
            var rights: AccessRights = []
            if request.flags.contains(.read) { rights.insert(.read) }
            if request.flags.contains(.write) { rights.insert(.write) }
            // A mapping without any right is legal on the wire. It lets nobody in, as if nothing were mapped.
            guard !rights.isEmpty else { return }
            let backing = try backing(for: request, range.first, rights, &descriptors)
            do throws(DMAError) {
                try space.map(backing, at: range.first, byteCount: request.size, rights: rights)
            } catch .exists {
                // A file that is read and written has no identity to compare.
                if case .remote(let memory) = backing, memory is FileMemory { throw .exists }
                guard space.hasMapping(backing, at: range, rights: rights) else { throw .exists }
            }
        } catch {
            throw .memory(error)
        }
    }

    private func backing(
        for request: MapDMA, _ base: IOVA, _ rights: AccessRights, _ descriptors: inout DescriptorBundle
    ) throws(DMAError) -> MappingBacking {
        guard let descriptor = descriptors.takeFirst() else { return .remote(clientMemory.mapping()) }
        if request.flags.contains(.accessByFileIO), !request.flags.contains(.accessByMapping) {
            return .remote(
                try FileMemory(
                    adopting: descriptor, fileOffset: request.fileOffset, at: base, byteCount: request.size,
                    rights: rights))
        }
        return .file(try objects.object(adopting: descriptor), offset: request.fileOffset)
    }

    /// Removes every mapping in a range, of which there may be any number or none, and answers when the device has let
    /// go of them all. QEMU unmaps ranges that cover many maps, and some that it never mapped.
    func unmap(_ request: UnmapDMA, _ header: MessageHeader, _ reply: inout SessionReply) throws(RequestRefusal) {
        // Of an older edition of the standard, and never sent by the clients there are. Whoever wants to know of dirty pages
        // logs writes, and asks before it unmaps.
        guard request.dirtyBitmap == nil else { throw .unsupportedFeature }
        switch request.scope {
        case .everything: try unmap(.everything)
        case .addresses(let addresses):
            let range = IOVARange(addresses)
            // All or nothing: an address space would stop half-way at a mapping that sticks out.
            guard !space.splitsMapping(range) else { throw .splitsMapping }
            try unmap(range)
        }
        reply.answer(header) { request.write(to: &$0) }
    }

    private func unmap(_ range: IOVARange) throws(RequestRefusal) {
        do throws(DMAError) {
            try space.unmap(range)
        } catch .notFound {
            return
        } catch {
            throw .memory(error)
        }
    }
}

extension IOVARange {
    /// A range as the wire has it.
    fileprivate init(_ addresses: ClosedRange<UInt64>) {
        self.init(first: IOVA(rawValue: addresses.lowerBound), last: IOVA(rawValue: addresses.upperBound))
    }
}
