public import LinuxHost

/// Memory that a client shows to a server, whole or in parts: a memfd that is mapped into this process as well.
///
/// Any thread may use it; the server, and the devices in it, may change the bytes at any time.
public final class SharedMemory: Sendable {
    public let descriptor: OwnedDescriptor
    private let mapping: MemoryMapping

    /// New zeroed memory.
    public convenience init(byteCount: Int) throws(Errno) {
        try self.init(
            adopting: try OwnedDescriptor.anonymousMemory(name: "vfio-user client", byteCount: byteCount),
            byteCount: byteCount)
    }

    /// The first `byteCount` bytes of a file that is open for reading and writing.
    public init(adopting descriptor: consuming OwnedDescriptor, byteCount: Int) throws(Errno) {
        mapping = try MemoryMapping(of: descriptor, byteCount: byteCount, isWritable: true)
        self.descriptor = descriptor
    }

    public var byteCount: Int { unsafe mapping.bytes.count }

    /// All bytes, valid as long as the memory lives.
    @unsafe public var bytes: UnsafeMutableRawBufferPointer { unsafe mapping.bytes }

    /// A copy of the bytes in `range`.
    ///
    /// - Precondition: the memory has them all.
    public func read(_ range: Range<Int>) -> [UInt8] {
        precondition(range.lowerBound >= 0 && range.upperBound <= byteCount, "a range outside of the memory")
        return unsafe [UInt8](bytes[range])
    }

    /// Stores bytes from `offset` on.
    ///
    /// - Precondition: the memory has room for them all.
    public func write(_ newBytes: some Collection<UInt8>, at offset: Int) {
        precondition(offset >= 0 && newBytes.count <= byteCount - offset, "a range outside of the memory")
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + newBytes.count])
            .copyBytes(from: newBytes)
    }
}
