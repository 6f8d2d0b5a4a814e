import CLinuxShims
import Glibc

/// An open regular file or block device, read and written at offsets. Any thread may use it at any time.
public struct StorageFile: ~Copyable, Sendable {
    public let descriptor: OwnedDescriptor

    /// Takes over an open file.
    public init(adopting descriptor: consuming OwnedDescriptor) {
        self.descriptor = descriptor
    }

    /// Opens an existing file. Never waits, as opening a pipe without a writer would.
    public init(openingPath path: String, isWritable: Bool) throws(Errno) {
        let flags = O_CLOEXEC | O_NONBLOCK | (isWritable ? O_RDWR : O_RDONLY)
        descriptor = OwnedDescriptor(adopting: try retryingIfInterrupted { unsafe shim_open(path, flags, 0) })
    }

    /// Creates a file that must not exist yet, for reading and writing, with the permissions 0644 less the umask.
    ///
    /// - Throws: `EEXIST` when it exists.
    public init(creatingPath path: String) throws(Errno) {
        let flags = O_CLOEXEC | O_RDWR | O_CREAT | O_EXCL
        descriptor = OwnedDescriptor(adopting: try retryingIfInterrupted { unsafe shim_open(path, flags, 0o644) })
    }

    /// Takes the name `path` away from its file; storage goes with the last descriptor. `unlink(2)`
    public static func remove(path: String) throws(Errno) {
        try retryingIfInterrupted { unsafe unlink(path) }
    }

    public func status() throws(Errno) -> FileStatus { try descriptor.status() }

    /// Sets the size of a regular file in bytes; new bytes are a hole. `ftruncate(2)`
    public func resize(to byteCount: Int64) throws(Errno) {
        try retryingIfInterrupted { ftruncate(descriptor.rawValue, Int(byteCount)) }
    }

    /// The size of a block device in bytes. `BLKGETSIZE64`
    public func blockDeviceSize() throws(Errno) -> UInt64 {
        var size: UInt64 = 0
        try retryingIfInterrupted { unsafe shim_block_device_size(descriptor.rawValue, &size) }
        return size
    }

    /// Takes an advisory lock on the file, shared or exclusive, held until the descriptor closes. `flock(2)`
    ///
    /// - Throws: `EAGAIN` when another open file holds a lock that excludes it.
    public func lock(exclusive: Bool) throws(Errno) {
        let operation = (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB
        try retryingIfInterrupted { flock(descriptor.rawValue, operation) }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// - Throws: what `pread(2)` answers; `EIO` when the file ends first.
    public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws(Errno) {
        var done = 0
        while done < buffer.count {
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            let count = try retryingIfInterrupted {
                unsafe pread(descriptor.rawValue, rest.baseAddress, rest.count, Int(offset) + done)
            }
            guard count > 0 else { throw .inputOutput }
            done += count
        }
    }

    /// Writes all of `bytes` from `offset` on.
    ///
    /// - Throws: what `pwrite(2)` answers.
    public func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(Errno) {
        var done = 0
        while done < bytes.count {
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
            let count = try retryingIfInterrupted {
                unsafe pwrite(descriptor.rawValue, rest.baseAddress, rest.count, Int(offset) + done)
            }
            guard count > 0 else { throw .inputOutput }
            done += count
        }
    }

    /// Fills `segments` one after another from `offset` on. `preadv(2)`
    ///
    /// - Throws: what the call answers; `EIO` when the file ends first, `EFAULT` when a segment's memory is gone.
    public func read(into segments: [UnsafeMutableRawBufferPointer], at offset: Int64) throws(Errno) {
        try unsafe transfer(segments, offset) { vectors, count, position in
            unsafe shim_read_segments(descriptor.rawValue, vectors, count, position)
        }
    }

    /// Writes the bytes of all `segments` one after another from `offset` on. `pwritev(2)`
    ///
    /// - Throws: what the call answers; `EFAULT` when a segment's memory is gone.
    public func write(from segments: [UnsafeMutableRawBufferPointer], at offset: Int64) throws(Errno) {
        try unsafe transfer(segments, offset) { vectors, count, position in
            unsafe shim_write_segments(descriptor.rawValue, vectors, count, position)
        }
    }

    /// The kernel's limit of segments in one call. `IOV_MAX`
    private static let maximumSegments = 1024

    private func transfer(
        _ segments: [UnsafeMutableRawBufferPointer], _ offset: Int64,
        _ call: (UnsafePointer<shim_segment>?, Int32, Int) -> Int
    ) throws(Errno) {
        var vectors = unsafe segments.map { unsafe shim_segment(address: $0.baseAddress, count: $0.count) }
        var first = 0
        var position = Int(offset)
        while true {
            while first < (unsafe vectors.count), unsafe vectors[first].count == 0 { first += 1 }
            guard first < (unsafe vectors.count) else { return }
            let batch = min(unsafe vectors.count - first, StorageFile.maximumSegments)
            let count = try retryingIfInterrupted {
                unsafe vectors.withUnsafeBufferPointer {
                    unsafe call($0.baseAddress?.advanced(by: first), Int32(batch), position)
                }
            }
            guard count > 0 else { throw .inputOutput }
            position += count
            var done = count
            while done > 0 {
                let step = min(done, unsafe vectors[first].count)
                unsafe vectors[first].address += step
                unsafe vectors[first].count -= step
                done -= step
                if unsafe vectors[first].count == 0 { first += 1 }
            }
        }
    }

    /// Returns once everything written so far, and what is needed to find it again, is on the disk. `fdatasync(2)`
    public func synchronize() throws(Errno) {
        try retryingIfInterrupted { fdatasync(descriptor.rawValue) }
    }

    /// Gives the storage of a range of a regular file back; it reads as zeroes from now on.
    /// `FALLOC_FL_PUNCH_HOLE`
    ///
    /// - Throws: `EOPNOTSUPP` where the file system cannot.
    public func punchHole(at offset: Int64, byteCount: Int64) throws(Errno) {
        try allocate(Int32(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE), offset, byteCount)
    }

    /// Makes a range of a regular file read as zeroes while keeping its storage. `FALLOC_FL_ZERO_RANGE`
    ///
    /// - Throws: `EOPNOTSUPP` where the file system cannot.
    public func zeroRange(at offset: Int64, byteCount: Int64) throws(Errno) {
        try allocate(Int32(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE), offset, byteCount)
    }

    /// Tells a block device that a range is not needed; what it reads as is up to the device. `BLKDISCARD`
    public func discardBlocks(at offset: UInt64, byteCount: UInt64) throws(Errno) {
        try blockRange(shim_block_discard, offset, byteCount)
    }

    /// Makes a range of a block device read as zeroes. `BLKZEROOUT`
    public func zeroBlocks(at offset: UInt64, byteCount: UInt64) throws(Errno) {
        try blockRange(shim_block_zero_out, offset, byteCount)
    }

    private func allocate(_ mode: Int32, _ offset: Int64, _ byteCount: Int64) throws(Errno) {
        try retryingIfInterrupted { shim_fallocate(descriptor.rawValue, mode, Int(offset), Int(byteCount)) }
    }

    private func blockRange(_ request: UInt, _ offset: UInt64, _ byteCount: UInt64) throws(Errno) {
        try retryingIfInterrupted { shim_block_device_range(descriptor.rawValue, request, offset, byteCount) }
    }
}
