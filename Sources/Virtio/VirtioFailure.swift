public import DMA

/// Why a queue cannot be gone on with: its driver has broken a rule, or its memory is not there.
///
/// Nothing more is done with the queue until a reset.
public enum VirtqueueError: Error, Hashable, Sendable {
    /// A ring's address is not aligned as rings are, or the ring runs past 2^64. Virtio 1.2, 2.7
    case misplacedRing
    /// The part of the rings that the device writes lies over what the driver writes.
    case overlappingRings
    /// The available index is further ahead than the queue has entries.
    case availableIndexTooFar(UInt16)
    /// An entry or a descriptor names a descriptor that the table does not have.
    case noSuchDescriptor(UInt16)
    /// A descriptor is made available that the device already has.
    case descriptorInUse(UInt16)
    /// A chain has more descriptors than its table, and so a loop.
    case endlessChain
    /// A descriptor of no bytes.
    case emptyDescriptor
    /// A descriptor runs past 2^64.
    case addressOverflow
    /// A buffer has 4 GiB or more, which a used entry cannot count.
    case bufferTooLarge
    /// A descriptor that the device reads comes after one that it writes.
    case readableAfterWritable
    /// The device is to write where it is to read from.
    case readableOverlapsWritable
    /// A table of descriptors where the driver has not accepted them, in another table, or with a descriptor to follow.
    case misplacedIndirectTable
    /// A table that is empty, is no whole number of descriptors, or has more than `Virtqueue.maximumTableCount`.
    case indirectTableSize(UInt32)
    /// Memory that a ring, a table or a descriptor names cannot be accessed.
    case memory(DMAError, IOVARange)
}

/// Why a device stopped working until its driver, or somebody above that, resets it. `DEVICE_NEEDS_RESET`
public enum VirtioFailure: Error, Hashable, Sendable {
    /// The driver has broken a queue.
    case queue(number: Int, VirtqueueError)
    /// The device cannot go on, for a reason that it gives.
    case device(String)
    /// The device has not let go of its work in the time that a reset of the function waits. It starts nothing new before
    /// it has.
    case slowReset
}

extension VirtqueueError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .misplacedRing: "a ring is not aligned or has no room at its address"
        case .overlappingRings: "the used ring lies over another part of the queue"
        case .availableIndexTooFar(let index): "available index \(index) is too far ahead"
        case .noSuchDescriptor(let number): "there is no descriptor \(number)"
        case .descriptorInUse(let number): "descriptor \(number) is made available twice"
        case .endlessChain: "a chain of descriptors has no end"
        case .emptyDescriptor: "a descriptor has no bytes"
        case .addressOverflow: "a descriptor runs past the top of memory"
        case .bufferTooLarge: "a buffer has 4 GiB or more"
        case .readableAfterWritable: "a readable descriptor follows a writable one"
        case .readableOverlapsWritable: "a buffer is to be read where it is to be written"
        case .misplacedIndirectTable: "an indirect table where there may be none"
        case .indirectTableSize(let byteCount): "an indirect table of \(byteCount) bytes"
        case .memory(let error, let range): "no access to \(range.first) to \(range.last): \(error)"
        }
    }
}

extension VirtioFailure: CustomStringConvertible {
    public var description: String {
        switch self {
        case .queue(let number, let error): "queue \(number): \(error)"
        case .device(let reason): reason
        case .slowReset: "the device takes long to be reset"
        }
    }
}
