public import LinuxHost

/// A sized array of equal blocks that outlives the process, whichever device shows it.
///
/// Any thread may call any method at any time; concurrent operations on the same blocks happen in some order, block by
/// block. Every method returns when its work is done or has failed. A range outside the store is refused before
/// anything happens.
public protocol BlockStore: AnyObject, Sendable {
    var blockSize: BlockSize { get }
    var blockCount: UInt64 { get }
    /// Whether every operation that would change a block throws `readOnly`.
    var isReadOnly: Bool { get }
    /// What a block reads as after `deallocate`.
    var deallocatedContents: DeallocatedContents { get }

    /// Fills `segments`, one after another, with the blocks in `range`. Precondition: together they have its size.
    func read(_ range: BlockRange, into segments: [UnsafeMutableRawBufferPointer]) throws(BlockStoreError)

    /// Writes the bytes of `segments`, one after another, to the blocks in `range`. Precondition: together they have
    /// its size. The bytes are durable after the next `flush`.
    func write(_ range: BlockRange, from segments: [UnsafeMutableRawBufferPointer]) throws(BlockStoreError)

    /// Returns once everything that was written before the call survives a loss of power. Once it has thrown, it always
    /// throws: what was lost then is not known.
    func flush() throws(BlockStoreError)

    /// Says that the contents of `range` are not needed any more, so that its storage may be given back.
    func deallocate(_ range: BlockRange) throws(BlockStoreError)

    /// Makes `range` read as zeroes, giving its storage back where that is possible if `deallocating`.
    func writeZeroes(_ range: BlockRange, deallocating: Bool) throws(BlockStoreError)
}

/// What deallocated blocks read as.
public enum DeallocatedContents: Sendable {
    case zeroes, anything
}

/// The size of a block; the two that drivers know how to use.
public enum BlockSize: Int, CaseIterable, Sendable {
    case bytes512 = 512
    case bytes4096 = 4096

    public var byteCount: UInt64 { UInt64(rawValue) }
}

/// The position of a block in its store, counted from zero. `LBA`
public struct LogicalBlock: RawRepresentable, Hashable, Comparable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    public static func < (left: LogicalBlock, right: LogicalBlock) -> Bool { left.rawValue < right.rawValue }
}

/// Consecutive blocks; may be empty, and may be nonsense until a store has been asked whether it contains them.
public struct BlockRange: Hashable, Sendable {
    public let first: LogicalBlock
    public let count: UInt64

    public init(first: LogicalBlock, count: UInt64) {
        self.first = first
        self.count = count
    }
}

extension BlockStore {
    public func contains(_ range: BlockRange) -> Bool {
        range.count <= blockCount && range.first.rawValue <= blockCount - range.count
    }
}

/// Why a store could not do what it was asked to.
public enum BlockStoreError: Error, Equatable, Sendable {
    /// The range is not within the store.
    case outOfRange
    /// The store was opened for reading only.
    case readOnly
    /// No storage is left for blocks that had none. `ENOSPC`, `EDQUOT`
    case noSpace
    /// Memory that bytes were to come from or go to is gone; the storage itself is well. `EFAULT`
    case badMemory
    /// The storage failed.
    case failed(Errno)
}
