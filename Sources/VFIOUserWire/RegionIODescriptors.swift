/// A request for the descriptors by which the client can short-cut accesses to a region.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | largest reply payload the client takes (`argsz`) |
/// | 4 | 4 | flags, 0 |
/// | 8 | 4 | region index |
/// | 12 | 4 | count, 0 |
///
/// `VFIO_USER_DEVICE_GET_REGION_IO_FDS`
public struct RegionIODescriptorsRequest: Hashable, Sendable {
    /// No reply is larger; the reference server's limit.
    public static let maximumReplySizeLimit = 1 << 20

    public var maximumReplySize: Int
    public var index: UInt32

    public init(index: UInt32, maximumReplySize: Int = RegionIODescriptors.byteCount) {
        self.index = index
        self.maximumReplySize = maximumReplySize
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: RegionIODescriptors.byteCount)
        maximumReplySize = try payload.argumentSize(
            atLeast: RegionIODescriptors.byteCount, atMost: RegionIODescriptorsRequest.maximumReplySizeLimit)
        try payload.integer(at: 4, as: UInt32.self).requireOnly(0)
        index = payload.integer(at: 8)
        try payload.integer(at: 12, as: UInt32.self).requireOnly(0)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(count32: maximumReplySize)
        writer.append(UInt32(0))
        writer.append(index)
        writer.append(UInt32(0))
    }
}

/// The short cuts into a region.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of the full answer (`argsz`) |
/// | 4 | 4 | flags, 0 |
/// | 8 | 4 | region index |
/// | 12 | 4 | number of entries |
/// | 16 | 40 each | entries |
public struct RegionIODescriptors: Hashable, Sendable {
    public static let byteCount = 16

    public var index: UInt32
    /// Empty also in a parsed answer that was cut short; see `requiredReplySize`.
    public let entries: [RegionIODescriptor]
    /// Bytes of the full answer; in a parsed answer that was cut short, more than what arrived.
    public let requiredReplySize: Int

    public init(index: UInt32, entries: [RegionIODescriptor]) {
        self.index = index
        self.entries = entries
        requiredReplySize = RegionIODescriptors.size(of: entries)
    }

    /// Whether the answer in full fits a client that takes `maximumReplySize` bytes. Only then descriptors go with it.
    public func fits(_ maximumReplySize: Int) -> Bool {
        requiredReplySize <= maximumReplySize
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: RegionIODescriptors.byteCount)
        let statedSize = try payload.argumentSize(
            atLeast: RegionIODescriptors.byteCount, atMost: RegionIODescriptorsRequest.maximumReplySizeLimit)
        try payload.integer(at: 4, as: UInt32.self).requireOnly(0)
        index = payload.integer(at: 8)
        if payload.count < statedSize {
            entries = []
            requiredReplySize = statedSize
        } else {
            entries = try RegionIODescriptors.parseEntries(
                in: payload, upTo: statedSize, count: payload.count32(at: 12))
            requiredReplySize = RegionIODescriptors.size(of: entries)
        }
    }

    /// Writes as much of the answer as the client takes: all of it, or the fixed part.
    public func write(to writer: inout MessageWriter, maximumReplySize: Int) {
        writer.append(count32: requiredReplySize)
        writer.append(UInt32(0))
        writer.append(index)
        writer.append(count32: entries.count)
        if fits(maximumReplySize) {
            for entry in entries { entry.write(to: &writer) }
        }
    }

    private static func size(of entries: [RegionIODescriptor]) -> Int {
        byteCount + entries.count * RegionIODescriptor.byteCount
    }

    /// The standard asks readers to take the distance of the entries from the sizes: other servers have longer ones.
    private static func parseEntries(
        in payload: Span<UInt8>, upTo end: Int, count: Int
    ) throws(WireError) -> [RegionIODescriptor] {
        if count == 0 { return [] }
        let (stride, rest) = (end - byteCount).quotientAndRemainder(dividingBy: count)
        if rest != 0 || stride < RegionIODescriptor.byteCount {
            throw .sizeMismatch(stated: UInt64(count), actual: end - byteCount)
        }
        var entries: [RegionIODescriptor] = []
        entries.reserveCapacity(count)
        for position in 0..<count {
            entries.append(RegionIODescriptor(parsing: payload, at: byteCount + position * stride))
        }
        return entries
    }
}

/// One short cut: accesses to a part of a region that a descriptor stands for.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | offset in the region |
/// | 8 | 8 | size, 0 for any |
/// | 16 | 4 | which of the message's descriptors |
/// | 20 | 4 | kind: 0 event, 1 region; other servers have more |
/// | 24 | 4 | flags, KVM's |
/// | 28 | 4 | padding |
/// | 32 | 8 | event: the value that fires it; region: the number KVM repeats in its messages |
public struct RegionIODescriptor: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// A write signals an event counter (`ioeventfd`).
        case event(dataMatch: UInt64)
        /// An access becomes a message on a socket (`ioregionfd`).
        case region(userData: UInt64)
        /// A kind of another server, whose fields behind the flags are left alone: the reference server's 2 is an event that
        /// also has memory.
        case other(UInt32)
    }

    public static let byteCount = 40
    /// The flag of an event that only its value fires. `KVM_IOEVENTFD_FLAG_DATAMATCH`
    public static let matchesData: UInt32 = 1 << 0

    public var offset: UInt64
    public var size: UInt64
    public var descriptorIndex: UInt32
    public var flags: UInt32
    public var kind: Kind

    public init(offset: UInt64, size: UInt64, descriptorIndex: UInt32, flags: UInt32 = 0, kind: Kind) {
        self.offset = offset
        self.size = size
        self.descriptorIndex = descriptorIndex
        self.flags = flags
        self.kind = kind
    }

    /// - Precondition: the payload has an entry's bytes there.
    init(parsing payload: Span<UInt8>, at start: Int) {
        offset = payload.integer(at: start)
        size = payload.integer(at: start + 8)
        descriptorIndex = payload.integer(at: start + 16)
        flags = payload.integer(at: start + 24)
        switch payload.integer(at: start + 20, as: UInt32.self) {
        case 0: kind = .event(dataMatch: payload.integer(at: start + 32))
        case 1: kind = .region(userData: payload.integer(at: start + 32))
        case let number: kind = .other(number)
        }
    }

    func write(to writer: inout MessageWriter) {
        writer.append(offset)
        writer.append(size)
        writer.append(descriptorIndex)
        switch kind {
        case .event: writer.append(UInt32(0))
        case .region: writer.append(UInt32(1))
        case .other(let number): writer.append(number)
        }
        writer.append(flags)
        writer.append(UInt32(0))
        switch kind {
        case .event(let value), .region(let value): writer.append(value)
        case .other: writer.append(UInt64(0))
        }
    }
}
