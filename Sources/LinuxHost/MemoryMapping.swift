import CLinuxShims
import Glibc

/// Pages of a file in this process's address space, unmapped when the owner lets go. `mmap(2)`, `MAP_SHARED`
///
/// Sendable without the compiler's proof because it is only an address range: who may touch the bytes, and when, is the
/// rule of whoever owns the mapping.
@safe
public struct MemoryMapping: ~Copyable, @unchecked Sendable {
    /// The mapped bytes. Touching those past the end of a file that shrank raises `SIGBUS`.
    @unsafe public let bytes: UnsafeMutableRawBufferPointer

    /// Maps the first `byteCount` bytes of the file.
    ///
    /// - Throws: what `mmap(2)` answers: `EACCES` or `EPERM` when the descriptor does not allow the access, `ENODEV`
    ///   for a file that cannot be mapped; `EINVAL` for no bytes.
    public init(of descriptor: borrowing OwnedDescriptor, byteCount: Int, isWritable: Bool) throws(Errno) {
        guard byteCount > 0 else { throw .invalidArgument }
        let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
        let address = unsafe mmap(nil, byteCount, protection, MAP_SHARED, descriptor.rawValue, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw .current }
        unsafe bytes = UnsafeMutableRawBufferPointer(start: address, count: byteCount)
    }

    deinit {
        unsafe munmap(bytes.baseAddress, bytes.count)
    }
}

extension OwnedDescriptor {
    /// A new anonymous file in memory that may be sealed. `memfd_create(2)`
    public static func anonymousMemory(name: String, byteCount: Int) throws(Errno) -> OwnedDescriptor {
        let flags = UInt32(MFD_CLOEXEC) | UInt32(MFD_ALLOW_SEALING)
        let descriptor = OwnedDescriptor(adopting: try retryingIfInterrupted { unsafe shim_memfd_create(name, flags) })
        try retryingIfInterrupted { ftruncate(descriptor.rawValue, byteCount) }
        return descriptor
    }

    /// The seals on a memory file; empty for a file that cannot have any. `F_GET_SEALS`
    public var seals: FileSeals {
        let bits = shim_get_seals(rawValue)
        return bits < 0 ? [] : FileSeals(rawValue: bits)
    }

    /// Adds seals to a memory file. `F_ADD_SEALS`
    public func add(_ seals: FileSeals) throws(Errno) {
        try retryingIfInterrupted { shim_add_seals(rawValue, seals.rawValue) }
    }

    /// Whether the descriptor was opened for reading and writing, as opposed to one of them. `F_GETFL`
    public var isReadWrite: Bool {
        let flags = shim_fcntl(rawValue, F_GETFL, 0)
        return flags >= 0 && flags & O_ACCMODE == O_RDWR
    }

    /// What the kernel knows of the open file. `fstat(2)`
    public func status() throws(Errno) -> FileStatus {
        var status = stat()
        try retryingIfInterrupted { unsafe fstat(rawValue, &status) }
        return FileStatus(status)
    }
}

/// What can no longer be done to a memory file, by anyone. `F_SEAL_*`
public struct FileSeals: OptionSet, Sendable {
    public let rawValue: Int32

    public init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// `F_SEAL_SEAL`
    public static let seal = FileSeals(rawValue: 0x1)
    /// `F_SEAL_SHRINK`
    public static let shrink = FileSeals(rawValue: 0x2)
    /// `F_SEAL_GROW`
    public static let grow = FileSeals(rawValue: 0x4)
    /// `F_SEAL_WRITE`
    public static let write = FileSeals(rawValue: 0x8)
    /// `F_SEAL_FUTURE_WRITE`
    public static let futureWrite = FileSeals(rawValue: 0x10)
}

/// Size, kind and identity of an open file.
public struct FileStatus: Sendable {
    public enum Kind: Sendable {
        case regular, blockDevice, socket, other
    }

    /// The pair that names a file while it is open: two descriptors with equal identities are the same file.
    public struct Identity: Hashable, Sendable {
        public let device: UInt64
        public let inode: UInt64
    }

    public let kind: Kind
    public let identity: Identity
    /// In bytes; zero for a block device.
    public let size: Int64
    /// Bytes of storage that the file occupies, which holes do not.
    public let allocatedBytes: Int64

    init(_ status: stat) {
        kind =
            switch status.st_mode & S_IFMT {
            case S_IFREG: .regular
            case S_IFBLK: .blockDevice
            case S_IFSOCK: .socket
            default: .other
            }
        identity = Identity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        size = Int64(status.st_size)
        allocatedBytes = Int64(status.st_blocks) * 512
    }
}
