import DMA

/// A queue as the driver has set it up.
struct QueueSetup: Hashable, Sendable {
    var size: Int
    /// The three areas. Virtio 1.2, 2.6
    var descriptors: UInt64 = 0
    var driver: UInt64 = 0
    var device: UInt64 = 0
}

/// Where the entries of a queue lie. Checked once, so that no address overflows later.
struct QueueLayout: Sendable {
    private let descriptors, driver, device: UInt64
    private let size: Int

    init(_ setup: QueueSetup) throws(VirtqueueError) {
        let size = setup.size
        let table = try Self.area(
            setup.descriptors, SplitRing.descriptorAreaByteCount(size: size), SplitRing.descriptorAlignment)
        let available = try Self.area(
            setup.driver, SplitRing.driverAreaByteCount(size: size), SplitRing.driverAlignment)
        let used = try Self.area(setup.device, SplitRing.deviceAreaByteCount(size: size), SplitRing.deviceAlignment)
        guard !used.shares(with: table), !used.shares(with: available) else { throw .overlappingRings }
        (descriptors, driver, device) = (setup.descriptors, setup.driver, setup.device)
        self.size = size
    }

    private static func area(
        _ address: UInt64, _ byteCount: UInt64, _ alignment: UInt64
    ) throws(VirtqueueError) -> IOVARange {
        let (last, overflow) = address.addingReportingOverflow(byteCount - 1)
        guard !overflow, IOVA(address).isAligned(to: alignment) else { throw .misplacedRing }
        return IOVARange(first: IOVA(address), last: IOVA(last))
    }

    func descriptor(_ number: Int) -> IOVA { IOVA(descriptors + UInt64(number * SplitRing.descriptorByteCount)) }
    var availableFlags: IOVA { IOVA(driver + SplitRing.flagsOffset) }
    var availableIndex: IOVA { IOVA(driver + SplitRing.indexOffset) }
    func availableEntry(_ place: Int) -> IOVA {
        IOVA(driver + SplitRing.entriesOffset + UInt64(place * SplitRing.availableEntryByteCount))
    }
    var usedEvent: IOVA { IOVA(driver + SplitRing.usedEventOffset(size: size)) }
    var usedFlags: IOVA { IOVA(device + SplitRing.flagsOffset) }
    var usedIndex: IOVA { IOVA(device + SplitRing.indexOffset) }
    func usedEntry(_ place: Int) -> IOVA {
        IOVA(device + SplitRing.entriesOffset + UInt64(place * SplitRing.usedEntryByteCount))
    }
    var availableEvent: IOVA { IOVA(device + SplitRing.availableEventOffset(size: size)) }
}

extension IOVARange {
    /// Whether the two have a byte in common.
    func shares(with other: IOVARange) -> Bool { first <= other.last && other.first <= last }
}
