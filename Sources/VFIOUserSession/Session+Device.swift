import DeviceModel
import LinuxHost
import VFIOUserNegotiation
import VFIOUserWire

/// Questions about the device.
extension Session {
    func describeDevice(_ header: MessageHeader, _ reply: inout SessionReply) {
        let info = DeviceInfo(
            flags: [.reset, .pci], regionCount: device.regions.count,
            interruptIndexCount: InterruptKind.allCases.count)
        reply.answer(header) { info.write(to: &$0) }
    }

    /// Sends the region's descriptor along when the client can map it, exactly one, and only with a complete answer: a
    /// client that gave too little room asks again. One that takes no descriptors is not told of what it could map.
    func describeRegion(
        _ request: RegionInfoRequest, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        let region = try region(request.index)
        var flags: RegionInfo.Flags = []
        if region.isReadable { flags.insert(.read) }
        if region.isWritable { flags.insert(.write) }
        var capabilities: [RegionCapability] = []
        let memory = (agreement?.sending.maximumMessageDescriptors ?? 0) > 0 ? region.memory : nil
        if let memory {
            flags.insert(.mappable)
            capabilities = [
                .mappableAreas(memory.areas.map { .init(offset: $0.lowerBound, size: UInt64($0.count)) })
            ]
        }
        let info = RegionInfo(
            index: request.index, flags: flags, size: region.byteCount, mappingOffset: memory?.fileOffset ?? 0,
            capabilities: capabilities)
        if let memory, info.fits(request.maximumReplySize), !header.expectsNoReply {
            do throws(Errno) {
                reply.descriptors.append(try memory.descriptor.duplicate())
            } catch {
                throw .descriptor(error)
            }
        }
        reply.answer(header) { info.write(to: &$0, maximumReplySize: request.maximumReplySize) }
    }

    func region(_ index: UInt32) throws(RequestRefusal) -> Region {
        guard let index = Int(exactly: index), index < device.regions.count else { throw .noSuchRegion(index) }
        return device.regions[index]
    }
}

/// Accesses to regions.
extension Session {
    func readRegion(
        _ access: RegionAccess, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        let region = try check(access.region, access.offset, access.count)
        guard region.isReadable || access.count == 0 else { throw .forbiddenAccess }
        guard !header.expectsNoReply else { return }
        reply.writer.beginReply(to: header)
        access.write(to: &reply.writer)
        let place = reply.writer.appendZeros(access.count)
        reply.writer.withBytes(in: place) { bytes in
            device.readRegion(Int(access.region), at: access.offset, into: &bytes)
        }
        reply.writer.finish()
    }

    func writeRegion(
        _ access: RegionAccess, _ payload: Span<UInt8>, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        let region = try check(access.region, access.offset, access.count)
        guard region.isWritable || access.count == 0 else { throw .forbiddenAccess }
        let data = payload.extracting(RegionAccess.dataOffset..<RegionAccess.dataOffset + access.count)
        device.writeRegion(Int(access.region), at: access.offset, from: data)
        reply.answer(header) { access.write(to: &$0) }
    }

    /// Performs the writes in order; a list with one that cannot be done is refused before any is.
    func writeRegions(
        _ writes: WriteRegions, _ payload: Span<UInt8>, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        for index in 0..<writes.count {
            let write = try entry(index, of: writes, payload)
            guard try check(write.region, write.offset, write.count).isWritable else { throw .forbiddenAccess }
        }
        for index in 0..<writes.count {
            let write = try entry(index, of: writes, payload)
            let start = WriteRegions.offset(of: index) + WriteRegions.Write.dataOffset
            let data = payload.extracting(start..<start + write.count)
            device.writeRegion(Int(write.region), at: write.offset, from: data)
        }
        reply.answer(header) { writes.write(to: &$0) }
    }

    private func entry(
        _ index: Int, of writes: WriteRegions, _ payload: Span<UInt8>
    ) throws(RequestRefusal) -> WriteRegions.Write {
        do throws(WireError) {
            return try writes.write(at: index, in: payload)
        } catch {
            throw .malformed(error)
        }
    }

    /// The region of an access, all of which must lie in it.
    private func check(_ index: UInt32, _ offset: UInt64, _ count: Int) throws(RequestRefusal) -> Region {
        let region = try region(index)
        guard count <= maximumIncoming else { throw .tooManyBytes }
        guard offset <= region.byteCount, UInt64(count) <= region.byteCount - offset else { throw .outsideRegion }
        return region
    }
}
