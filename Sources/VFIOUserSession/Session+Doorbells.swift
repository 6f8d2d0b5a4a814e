import DeviceModel
public import LinuxHost
import VFIOUserNegotiation
import VFIOUserWire

/// The short cuts into a device's regions: event counters that a client signals instead of writing to a doorbell.
///
/// Counters belong to the session, not to the device, and end with it: a client may keep its descriptors for as long as
/// it likes, and must not ring for the next one.
extension Session {
    /// A doorbell that the client has been given the counter of.
    public struct GivenDoorbell: Sendable {
        public let counter: EventCounter
        fileprivate let doorbell: Doorbell
    }

    /// Does what a doorbell stands for, as if the client had sent a message that wants no reply: nothing where such a
    /// message would be refused.
    public func ring(_ given: GivenDoorbell) {
        guard agreement != nil, allowsRegionAccess else { return }
        let doorbell = given.doorbell
        var bytes = [UInt8](repeating: 0, count: doorbell.byteCount)
        for place in bytes.indices { bytes[place] = UInt8(truncatingIfNeeded: doorbell.value >> UInt64(place * 8)) }
        device.writeRegion(doorbell.region, at: doorbell.offset, from: bytes.span)
    }

    /// Gives the client the counters of a region's doorbells, as many as a message to it may have descriptors; the others
    /// it reaches by messages, as a client that never asks does.
    mutating func describeIODescriptors(
        _ request: RegionIODescriptorsRequest, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        let region = try region(request.index)
        guard region.byteCount > 0 else { throw .noSuchRegion(request.index) }
        let limit = min(agreement?.sending.maximumMessageDescriptors ?? 0, limits.messageDescriptors)
        let doorbells = device.doorbells.filter { $0.region == Int(request.index) }.prefix(limit)
        let entries = doorbells.enumerated().flatMap { number, doorbell in
            doorbell.triggers.map { $0.entry(at: doorbell.offset, descriptorIndex: UInt32(number)) }
        }
        let answer = RegionIODescriptors(index: request.index, entries: entries)
        if answer.fits(request.maximumReplySize), !header.expectsNoReply {
            do throws(Errno) {
                var descriptors = DescriptorBundle()
                for doorbell in doorbells { descriptors.append(try give(doorbell).duplicateDescriptor()) }
                reply.descriptors.append(contentsOf: descriptors)
            } catch {
                throw .descriptor(error)
            }
        }
        reply.answer(header) { answer.write(to: &$0, maximumReplySize: request.maximumReplySize) }
    }

    /// Traps on a doorbell that no write of its region could be.
    static func check(_ doorbells: [Doorbell], of regions: [Region]) {
        for doorbell in doorbells {
            precondition(regions.indices.contains(doorbell.region), "a doorbell lies in a region that there is")
            let region = regions[doorbell.region]
            precondition(
                region.isWritable && doorbell.offset <= region.byteCount
                    && UInt64(doorbell.byteCount) <= region.byteCount - doorbell.offset,
                "a doorbell is a register that can be written")
        }
    }

    private mutating func give(_ doorbell: Doorbell) throws(Errno) -> EventCounter {
        if let given = givenDoorbells.first(where: { $0.doorbell == doorbell }) { return given.counter }
        let counter = try EventCounter()
        givenDoorbells.append(GivenDoorbell(counter: counter, doorbell: doorbell))
        return counter
    }
}

extension Doorbell.Trigger {
    fileprivate func entry(at offset: UInt64, descriptorIndex: UInt32) -> RegionIODescriptor {
        switch self {
        case .value(let value, let byteCount):
            RegionIODescriptor(
                offset: offset, size: UInt64(byteCount), descriptorIndex: descriptorIndex,
                flags: RegionIODescriptor.matchesData,
                kind: .event(dataMatch: value))
        case .anyValue(let byteCount):
            RegionIODescriptor(
                offset: offset, size: UInt64(byteCount), descriptorIndex: descriptorIndex, kind: .event(dataMatch: 0))
        case .anyWrite:
            RegionIODescriptor(offset: offset, size: 0, descriptorIndex: descriptorIndex, kind: .event(dataMatch: 0))
        }
    }
}
