public import LinuxHost
import VFIOUserNegotiation
import VFIOUserWire

/// A register that can be told of a write without a message.
public struct RegionDoorbell: Sendable {
    /// Where in the region the register is, in bytes.
    public let offset: UInt64
    /// How many bytes a write that it stands for has; `nil` for any number.
    public let byteCount: Int?
    /// What such a write writes; `nil` for anything.
    public let value: UInt64?
    /// What the server waits for. A VMM hands its descriptor to KVM (`KVM_IOEVENTFD`), which then signals it for the guest.
    public let counter: EventCounter

    /// Tells the server of one write. It comes after everything that was posted before, unless a reply is still awaited
    /// then, and before every request that is made afterwards and waits for its reply.
    public func ring() { counter.signal() }

    /// Whether it stands for a write.
    public func standsFor(_ value: UInt64, byteCount: Int, at offset: UInt64) -> Bool {
        self.offset == offset && (self.byteCount ?? byteCount) == byteCount && (self.value ?? value) == value
    }
}

extension Client {
    /// The doorbells of a region, of which the server may have any number or none. Registers that several of them stand for
    /// may share a counter. `VFIO_USER_DEVICE_GET_REGION_IO_FDS`
    public func doorbells(_ index: Int) throws(ClientError) -> [RegionDoorbell] {
        let first = try describeDoorbells(index, maximumReplySize: RegionIODescriptors.byteCount)
        let room = first.answer.requiredReplySize
        guard room > RegionIODescriptors.byteCount else { return try doorbells(first.answer, in: first.reply) }
        let second = try describeDoorbells(index, maximumReplySize: room)
        // What a device has does not change.
        guard second.answer.requiredReplySize <= room else { throw closeAfterUnexpected(second.reply) }
        return try doorbells(second.answer, in: second.reply)
    }

    private func describeDoorbells(
        _ index: Int, maximumReplySize: Int
    ) throws(ClientError) -> (answer: RegionIODescriptors, reply: Reply) {
        let request = RegionIODescriptorsRequest(index: UInt32(index), maximumReplySize: maximumReplySize)
        let reply = try perform(.getRegionIODescriptors(request))
        let answer = try parse(reply) { (payload) throws(WireError) in try RegionIODescriptors(parsing: payload) }
        return (answer, reply)
    }

    private func doorbells(
        _ answer: RegionIODescriptors, in reply: Reply
    ) throws(ClientError) -> [RegionDoorbell] {
        var counters: [EventCounter?] = []
        while let descriptor = reply.takeDescriptor() {
            // Whatever is not an event counter is of no use here.
            counters.append(try? EventCounter(adopting: descriptor))
        }
        var doorbells: [RegionDoorbell] = []
        for entry in answer.entries {
            guard case .event(let dataMatch) = entry.kind else { continue }
            guard counters.indices.contains(Int(entry.descriptorIndex)),
                let counter = counters[Int(entry.descriptorIndex)], entry.size <= 8
            else { throw closeAfterUnexpected(reply) }
            doorbells.append(
                RegionDoorbell(
                    offset: entry.offset, byteCount: entry.size == 0 ? nil : Int(entry.size),
                    value: entry.flags & RegionIODescriptor.matchesData != 0 ? dataMatch : nil, counter: counter))
        }
        return doorbells
    }
}
