import VFIOUserWire

/// What the server may ask for by messages: the memory that was mapped without a descriptor.
struct MessageMemory {
    struct Mapping {
        /// Addresses, both ends included.
        let addresses: ClosedRange<UInt64>
        let memory: SharedMemory
        /// Where in the memory the first address lies.
        let offset: Int
        let rights: MapDMA.Flags
    }

    /// Why the server does not get what it asks for, as the Linux error number that QEMU gives.
    enum Refusal: Int32, Error {
        /// Part of the range is not mapped. `ENODEV`
        case notMapped = 19
        /// `EPERM`
        case notPermitted = 1
        /// More bytes than this client takes in one message. `E2BIG`
        case tooManyBytes = 7
        /// `EINVAL`
        case malformed = 22
        /// `ENOSYS`
        case unknownRequest = 38
    }

    /// Ascending by address, not overlapping: the server has agreed to each, or is being asked to.
    private var mappings: [Mapping] = []

    func overlaps(_ addresses: ClosedRange<UInt64>) -> Bool {
        mappings.contains { $0.addresses.overlaps(addresses) }
    }

    mutating func insert(_ mapping: Mapping) {
        remove(mapping.addresses)
        let place = mappings.firstIndex { $0.addresses.lowerBound > mapping.addresses.lowerBound } ?? mappings.count
        mappings.insert(mapping, at: place)
    }

    /// Forgets all mappings that lie in a range, as the server has.
    mutating func remove(_ addresses: ClosedRange<UInt64>) {
        mappings.removeAll { $0.addresses.overlaps(addresses) }
    }

    func read(at address: UInt64, count: Int) throws(Refusal) -> [UInt8] {
        var data: [UInt8] = []
        data.reserveCapacity(count)
        for (mapping, place) in try pieces(at: address, count: count, .read) { data += mapping.memory.read(place) }
        return data
    }

    func write(_ data: ArraySlice<UInt8>, at address: UInt64) throws(Refusal) {
        var rest = data
        for (mapping, place) in try pieces(at: address, count: data.count, .write) {
            mapping.memory.write(rest.prefix(place.count), at: place.lowerBound)
            rest = rest.dropFirst(place.count)
        }
    }

    /// The parts of memory that stand behind a range, all of which must be mapped with the right.
    private func pieces(
        at address: UInt64, count: Int, _ right: MapDMA.Flags
    ) throws(Refusal) -> [(Mapping, Range<Int>)] {
        var found: [(Mapping, Range<Int>)] = []
        var done = 0
        while done < count {
            let (next, overflow) = address.addingReportingOverflow(UInt64(done))
            guard !overflow, let mapping = mappings.first(where: { $0.addresses.contains(next) }) else {
                throw .notMapped
            }
            guard mapping.rights.contains(right) else { throw .notPermitted }
            let room = mapping.addresses.upperBound - next
            let size = UInt64(count - done - 1) < room ? count - done : Int(room) + 1
            let first = mapping.offset + Int(next - mapping.addresses.lowerBound)
            found.append((mapping, first..<first + size))
            done += size
        }
        return found
    }
}
