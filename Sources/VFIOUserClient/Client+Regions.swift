import LinuxHost
import VFIOUserNegotiation
public import VFIOUserWire

/// The device and its windows, which are regions by their index; those of a PCI device are in `PCIRegion`.
extension Client {
    /// What kind of device it is. `VFIO_USER_DEVICE_GET_INFO`
    public func deviceInfo() throws(ClientError) -> DeviceInfo {
        let reply = try perform(.getDeviceInfo(DeviceInfoRequest()))
        return try parse(reply) { (payload) throws(WireError) in try DeviceInfo(parsing: payload) }
    }

    /// What a region is like; asks again with more room when the answer needs it. `VFIO_USER_DEVICE_GET_REGION_INFO`
    public func regionInfo(_ index: Int) throws(ClientError) -> RegionInfo {
        try describeRegion(index).info
    }

    /// Maps the areas of a region that can be mapped; `nil` when there are none.
    public func mapRegion(_ index: Int) throws(ClientError) -> MappedRegion? {
        let (info, reply) = try describeRegion(index)
        guard info.flags.contains(.mappable), let descriptor = reply.takeDescriptor() else { return nil }
        return try systemCall { () throws(Errno) in try MappedRegion(info, descriptor) }
    }

    private func describeRegion(_ index: Int) throws(ClientError) -> (info: RegionInfo, reply: Reply) {
        let first = try describeRegion(index, maximumReplySize: RegionInfo.byteCount)
        let room = first.info.requiredReplySize
        guard room > RegionInfo.byteCount else { return first }
        // A size that a message cannot have is not asked for.
        guard room <= CapabilityBounds.regionInfo else { throw closeAfterUnexpected(first.reply) }
        let second = try describeRegion(index, maximumReplySize: room)
        // What a region is like does not change; a server for which it does would have us ask for ever.
        guard second.info.requiredReplySize <= room else { throw closeAfterUnexpected(second.reply) }
        return second
    }

    private func describeRegion(
        _ index: Int, maximumReplySize: Int
    ) throws(ClientError) -> (info: RegionInfo, reply: Reply) {
        let reply = try perform(
            .getRegionInfo(RegionInfoRequest(index: UInt32(index), maximumReplySize: maximumReplySize)))
        let info = try parse(reply) { (payload) throws(WireError) in try RegionInfo(parsing: payload) }
        return (info, reply)
    }

    private enum CapabilityBounds {
        /// Thousands of areas.
        static let regionInfo = 1 << 20
    }

    /// Reads bytes of a region, in as many messages as it takes. `VFIO_USER_REGION_READ`
    public func readRegion(_ index: Int, at offset: UInt64, byteCount: Int) throws(ClientError) -> [UInt8] {
        var data: [UInt8] = []
        data.reserveCapacity(byteCount)
        repeat {
            let count = min(byteCount - data.count, maximumAccess)
            let access = RegionAccess(offset: offset &+ UInt64(data.count), region: UInt32(index), count: count)
            let reply = try perform(.readRegion(access))
            let answer = try parse(reply) { (payload) throws(WireError) in
                try RegionAccess(parsingWithData: payload)
            }
            guard answer == access else { throw closeAfterUnexpected(reply) }
            data += reply.payload[RegionAccess.dataOffset...]
        } while data.count < byteCount
        return data
    }

    /// Writes bytes of a region, in as many messages as it takes. `VFIO_USER_REGION_WRITE`
    ///
    /// - Parameter posted: not to wait for the server; then a refusal is not heard of. A later request is carried out
    ///   after the write.
    public func writeRegion(
        _ index: Int, at offset: UInt64, _ data: [UInt8], posted: Bool = false
    ) throws(ClientError) {
        var done = 0
        repeat {
            let count = min(data.count - done, maximumAccess)
            let access = RegionAccess(offset: offset &+ UInt64(done), region: UInt32(index), count: count)
            let part = Array(data[done..<done + count])
            if posted {
                try post(.writeRegion(access), data: part)
            } else {
                let reply = try perform(.writeRegion(access), data: part)
                let answer = try parse(reply) { (payload) throws(WireError) in
                    try RegionAccess(parsingWithoutData: payload)
                }
                guard answer == access else { throw closeAfterUnexpected(reply) }
            }
            done += count
        } while done < data.count
    }

    /// Reads a register: an integer, least significant byte first, in one access.
    public func readRegister<Value: FixedWidthInteger & UnsignedInteger>(
        _ type: Value.Type, region index: Int, at offset: UInt64
    ) throws(ClientError) -> Value {
        let bytes = try readRegion(index, at: offset, byteCount: Value.bitWidth / 8)
        return bytes.reversed().reduce(0) { Value(truncatingIfNeeded: UInt64($0) << 8 | UInt64($1)) }
    }

    /// Writes a register in one access.
    public func writeRegister<Value: FixedWidthInteger & UnsignedInteger>(
        _ value: Value, region index: Int, at offset: UInt64, posted: Bool = false
    ) throws(ClientError) {
        let bytes = (0..<Value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
        try writeRegion(index, at: offset, bytes, posted: posted)
    }

    /// Does several small writes in one message, in order. `VFIO_USER_REGION_WRITE_MULTI`
    ///
    /// - Throws: `notAgreed` when the server does not take them together.
    public func writeRegions(_ writes: [WriteRegions.Write]) throws(ClientError) {
        guard agreement.writeMultiple else { throw .notAgreed }
        var data = MessageWriter()
        for write in writes { write.write(to: &data) }
        let reply = try perform(.writeRegions(WriteRegions(count: writes.count)), data: data.bytes)
        let answer = try parse(reply) { (payload) throws(WireError) in try WriteRegions(parsingReply: payload) }
        guard answer.count == writes.count else { throw closeAfterUnexpected(reply) }
    }

    /// What both sides take: the server the data of a write, this client that of a reply.
    private var maximumAccess: Int {
        min(agreement.sending.maximumTransferSize, agreement.receiving.maximumTransferSize)
    }
}

/// A region's mappable areas in this process's memory. Any thread may use it.
public final class MappedRegion: Sendable {
    /// Offsets within the region, as the server gave them, and within what it has.
    public let areas: [Range<Int>]
    public let isWritable: Bool
    private let mapping: MemoryMapping
    /// Where in the mapping the region begins.
    private let base: Int

    fileprivate init(_ info: RegionInfo, _ descriptor: borrowing OwnedDescriptor) throws(Errno) {
        var ranges: [Range<Int>] = []
        for area in info.mappableAreas where area.size > 0 {
            // The server's numbers are not to be trusted: mapping and areas must lie within what it says there is.
            guard area.offset <= info.size, area.size <= info.size - area.offset,
                let end = Int(exactly: area.offset + area.size)
            else { throw .invalidArgument }
            ranges.append(Int(area.offset)..<end)
        }
        guard let base = Int(exactly: info.mappingOffset), let last = ranges.map(\.upperBound).max(),
            case let (end, overflow) = base.addingReportingOverflow(last), !overflow,
            try descriptor.status().size >= Int64(end)
        else { throw .invalidArgument }
        areas = ranges
        isWritable = info.flags.contains(.write)
        self.base = base
        mapping = try MemoryMapping(of: descriptor, byteCount: end, isWritable: isWritable)
    }

    /// The bytes of an area, valid as long as the region is mapped.
    ///
    /// - Precondition: there is such an area.
    @unsafe public func bytes(ofArea number: Int) -> UnsafeMutableRawBufferPointer {
        let area = areas[number]
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: mapping.bytes[base + area.lowerBound..<base + area.upperBound])
    }
}

extension RegionInfo {
    /// What can be mapped: the areas that the server names, or all of a region for which it names none.
    public var mappableAreas: [RegionCapability.Area] {
        guard flags.contains(.mappable) else { return [] }
        for capability in capabilities {
            if case .mappableAreas(let areas) = capability { return areas }
        }
        return [RegionCapability.Area(offset: 0, size: size)]
    }
}
