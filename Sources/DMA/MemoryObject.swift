public import LinuxHost

/// A memfd or other shared file, mapped into this process as a whole, once, however many mappings name it.
///
/// The size is the file's when it was adopted and never changes here; a file that grew is adopted again. The descriptor
/// is closed as soon as the pages are mapped, which keep the file alive; they are unmapped with the last reference.
///
/// Nobody may touch bytes past the end of a file: the kernel answers with `SIGBUS`. A peer that shrinks its file after
/// it was mapped can do that to this process unless the file is sealed (`F_SEAL_SHRINK`), which is the peer's to do:
/// sealing changes the file for everybody. `isSealedAgainstShrinking` tells whether it was done.
public final class MemoryObject: Sendable {
    /// Whether the bytes may be written; a store to a read-only object raises `SIGSEGV`.
    public let isWritable: Bool
    /// Whether the file can never become shorter than it was when adopted.
    public let isSealedAgainstShrinking: Bool
    private let mapping: MemoryMapping

    /// Takes over a descriptor, which is closed whatever happens.
    ///
    /// The object is writable when the descriptor was opened for reading and writing and no seal forbids writing.
    ///
    /// - Throws: `ENODEV` for anything but a regular file, `EINVAL` for an empty one, `EACCES` for a descriptor that
    ///   cannot be read from, and what `mmap(2)` answers.
    public convenience init(adopting descriptor: Int32) throws(DMAError) {
        try self.init(adopting: OwnedDescriptor(adopting: descriptor))
    }

    /// As `init(adopting:)` with a number.
    public convenience init(adopting descriptor: consuming OwnedDescriptor) throws(DMAError) {
        let file = try MemoryFile(descriptor)
        try self.init(mapping: descriptor, as: file)
    }

    init(mapping descriptor: borrowing OwnedDescriptor, as file: MemoryFile) throws(DMAError) {
        isWritable = file.isWritable
        isSealedAgainstShrinking = file.isSealedAgainstShrinking
        mapping = try asDMAError { () throws(Errno) in
            try MemoryMapping(of: descriptor, byteCount: file.byteCount, isWritable: file.isWritable)
        }
    }

    /// New zeroed memory of this process, which cannot change its size.
    ///
    /// - Throws: `EINVAL` for no bytes; `ENOMEM` and others from `memfd_create(2)` and `mmap(2)`.
    public static func anonymous(byteCount: Int) throws(DMAError) -> MemoryObject {
        guard byteCount > 0 else { throw .invalid }
        let descriptor = try asDMAError { () throws(Errno) in
            let descriptor = try OwnedDescriptor.anonymousMemory(name: "outboard", byteCount: byteCount)
            try descriptor.add([.shrink, .grow])
            return descriptor
        }
        return try MemoryObject(adopting: descriptor)
    }

    public var byteCount: Int { unsafe mapping.bytes.count }

    /// All bytes of the object, valid as long as it lives.
    ///
    /// Other processes may change them at any time: copy first, then check the copy.
    public var bytes: UnsafeMutableRawBufferPointer { unsafe mapping.bytes }
}

/// What an open file would be as memory.
struct MemoryFile: Sendable {
    let identity: FileStatus.Identity
    let byteCount: Int
    let isWritable: Bool
    let isSealedAgainstShrinking: Bool

    init(_ descriptor: borrowing OwnedDescriptor) throws(DMAError) {
        let status = try asDMAError { () throws(Errno) in try descriptor.status() }
        guard status.kind == .regular else { throw .noDevice }
        guard status.size > 0 else { throw .invalid }
        guard let byteCount = Int(exactly: status.size) else { throw .overflow }
        let seals = descriptor.seals
        identity = status.identity
        self.byteCount = byteCount
        isWritable = descriptor.isReadWrite && seals.isDisjoint(with: [.write, .futureWrite])
        isSealedAgainstShrinking = seals.contains(.shrink)
    }
}

/// Runs system calls whose failures are failures of this module.
private func asDMAError<Result: ~Copyable>(_ body: () throws(Errno) -> Result) throws(DMAError) -> Result {
    do throws(Errno) {
        return try body()
    } catch {
        throw DMAError(error)
    }
}
