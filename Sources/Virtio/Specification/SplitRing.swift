/// Offsets and sizes of the three parts of a split virtqueue. Virtio 1.2, 2.7
///
///     descriptor area        driver area (available)          device area (used)
///     16 bytes each:         0  flags          u16            0  flags           u16
///     0  address   u64       2  index          u16            2  index           u16
///     8  length    u32       4  ring[size]     u16 each       4  ring[size]      8 bytes each: head u32, length u32
///     12 flags     u16       …  used_event     u16            …  avail_event     u16
///     14 next      u16
enum SplitRing {
    static let descriptorByteCount = 16
    static let flagsOffset: UInt64 = 0
    static let indexOffset: UInt64 = 2
    static let entriesOffset: UInt64 = 4
    static let availableEntryByteCount = 2
    static let usedEntryByteCount = 8

    static let descriptorAlignment: UInt64 = 16
    static let driverAlignment: UInt64 = 2
    static let deviceAlignment: UInt64 = 4

    /// In the available ring's flags: the driver does not want to be told of used buffers. `VIRTQ_AVAIL_F_NO_INTERRUPT`
    static let noInterrupt: UInt16 = 1
    /// In the used ring's flags: the device does not want to be told of available buffers. `VIRTQ_USED_F_NO_NOTIFY`
    static let noNotification: UInt16 = 1

    static func descriptorAreaByteCount(size: Int) -> UInt64 { UInt64(size * descriptorByteCount) }
    static func driverAreaByteCount(size: Int) -> UInt64 { usedEventOffset(size: size) + 2 }
    static func deviceAreaByteCount(size: Int) -> UInt64 { availableEventOffset(size: size) + 2 }
    static func usedEventOffset(size: Int) -> UInt64 { entriesOffset + UInt64(size * availableEntryByteCount) }
    static func availableEventOffset(size: Int) -> UInt64 { entriesOffset + UInt64(size * usedEntryByteCount) }

    /// Whether an index that moved from `old` to `new` has passed `event`, all of them counting modulo 2^16. `vring_need_event`
    static func passes(event: UInt16, from old: UInt16, to new: UInt16) -> Bool {
        new &- event &- 1 < new &- old
    }
}

/// An entry of a table of descriptors, as it was when it was read.
struct VirtqueueDescriptor: BitwiseCopyable {
    let address: UInt64
    let byteCount: UInt32
    let flags: Flags
    let next: UInt16

    struct Flags: OptionSet, BitwiseCopyable {
        let rawValue: UInt16

        /// Another descriptor follows. `VIRTQ_DESC_F_NEXT`
        static let next = Flags(rawValue: 1)
        /// The device writes. `VIRTQ_DESC_F_WRITE`
        static let write = Flags(rawValue: 2)
        /// The memory has a table of descriptors in it. `VIRTQ_DESC_F_INDIRECT`
        static let indirect = Flags(rawValue: 4)
    }

    /// From the two halves of the entry as little-endian numbers.
    init(_ low: UInt64, _ high: UInt64) {
        address = low
        byteCount = UInt32(truncatingIfNeeded: high)
        flags = Flags(rawValue: UInt16(truncatingIfNeeded: high >> 32))
        next = UInt16(truncatingIfNeeded: high >> 48)
    }
}
