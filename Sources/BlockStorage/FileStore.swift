import LinuxHost

/// A block store in a raw image file or on a block device.
///
/// The open store holds a lock on the file, exclusive if it may write and shared otherwise, so that no other process
/// that asks for one changes it underneath; the lock goes with the store, also when the process is killed. `flock(2)`
public final class FileStore: BlockStore {
    public let blockSize: BlockSize
    public let blockCount: UInt64
    public let isReadOnly: Bool
    private let file: StorageFile
    private let kind: Kind
    /// Why a flush has failed, once one has.
    private let flushFailure = Monitor<BlockStoreError?>(nil)

    private enum Kind {
        case regularFile, blockDevice
    }

    /// Opens the image at `path`, or creates it if there is none and a size is given. A file without a byte in it is
    /// taken for an image that somebody has begun to create.
    ///
    /// - Parameter byteCount: the size of the image, which an existing one must have; `nil` takes it as it is. A
    ///   read-only image is never created.
    /// - Throws: an `ImageError`; nothing has been created or changed then.
    public init(path: String, byteCount: UInt64?, blockSize: BlockSize, isReadOnly: Bool) throws(ImageError) {
        if let byteCount { try FileStore.checkSize(byteCount, path, blockSize) }
        let existing = try FileStore.open(path, isReadOnly: isReadOnly)
        let file: StorageFile
        if let existing {
            file = existing
        } else {
            guard let byteCount, !isReadOnly else { throw .doesNotExist(path: path) }
            file = try FileStore.create(path, byteCount)
        }
        var (kind, actualByteCount) = try FileStore.measure(file, path)
        if let byteCount, !isReadOnly, kind == .regularFile, actualByteCount == 0 {
            try FileStore.resize(file, path, byteCount)
            actualByteCount = byteCount
        }
        if let byteCount, actualByteCount != byteCount {
            throw .hasOtherSize(path: path, byteCount: actualByteCount, expected: byteCount)
        }
        try FileStore.checkSize(actualByteCount, path, blockSize)
        self.blockSize = blockSize
        blockCount = actualByteCount / blockSize.byteCount
        self.isReadOnly = isReadOnly
        self.kind = kind
        self.file = file
    }

    /// Zeroes for a regular file, where a hole reads as such; a block device promises nothing.
    public var deallocatedContents: DeallocatedContents { kind == .regularFile ? .zeroes : .anything }

    public func read(_ range: BlockRange, into segments: [UnsafeMutableRawBufferPointer]) throws(BlockStoreError) {
        let bytes = try bytes(of: range, expecting: unsafe segments.byteCount)
        try storing { () throws(Errno) in unsafe try file.read(into: segments, at: bytes.offset) }
    }

    public func write(_ range: BlockRange, from segments: [UnsafeMutableRawBufferPointer]) throws(BlockStoreError) {
        guard !isReadOnly else { throw .readOnly }
        let bytes = try bytes(of: range, expecting: unsafe segments.byteCount)
        try storing { () throws(Errno) in unsafe try file.write(from: segments, at: bytes.offset) }
    }

    public func flush() throws(BlockStoreError) {
        guard !isReadOnly else { return }
        // The kernel tells one caller of a page that it could not write and takes it for clean from then on: the next
        // call would succeed without those bytes. So the first failure is final, and one flush waits for another.
        // `fsync(2)`
        try flushFailure.withLock { (failure) throws(BlockStoreError) in
            if let failure { throw failure }
            do throws(Errno) {
                try file.synchronize()
            } catch {
                failure = BlockStoreError(error)
                throw BlockStoreError(error)
            }
        }
    }

    public func deallocate(_ range: BlockRange) throws(BlockStoreError) {
        guard !isReadOnly else { throw .readOnly }
        let bytes = try bytes(of: range)
        guard bytes.count > 0 else { return }
        switch kind {
        case .regularFile:
            try zero(bytes) { () throws(Errno) in try file.punchHole(at: bytes.offset, byteCount: bytes.count) }
        case .blockDevice:
            // Advice: a device that cannot discard, or not at this granularity, keeps what it has.
            do throws(Errno) {
                try file.discardBlocks(at: UInt64(bytes.offset), byteCount: UInt64(bytes.count))
            } catch {
                guard error == .unsupported || error == .invalidArgument else { throw BlockStoreError(error) }
            }
        }
    }

    public func writeZeroes(_ range: BlockRange, deallocating: Bool) throws(BlockStoreError) {
        guard !isReadOnly else { throw .readOnly }
        let bytes = try bytes(of: range)
        guard bytes.count > 0 else { return }
        try zero(bytes) { () throws(Errno) in
            switch kind {
            case .regularFile where deallocating:
                try file.punchHole(at: bytes.offset, byteCount: bytes.count)
            case .regularFile:
                try file.zeroRange(at: bytes.offset, byteCount: bytes.count)
            case .blockDevice:
                try file.zeroBlocks(at: UInt64(bytes.offset), byteCount: UInt64(bytes.count))
            }
        }
    }

    /// Storage that the image occupies, in bytes; holes take none.
    public var allocatedBytes: Int64 {
        get throws(BlockStoreError) {
            try storing { () throws(Errno) in try file.status().allocatedBytes }
        }
    }

    private struct ByteRange {
        let offset: Int64
        let count: Int64
    }

    /// Bytes to write at a time where zeroes have to be written out.
    private static let zeroChunkByteCount = 1 << 20

    private func bytes(of range: BlockRange) throws(BlockStoreError) -> ByteRange {
        guard contains(range) else { throw .outOfRange }
        // Within the file, whose size the kernel holds in 63 bits.
        return ByteRange(
            offset: Int64(range.first.rawValue * blockSize.byteCount), count: Int64(range.count * blockSize.byteCount))
    }

    private func bytes(of range: BlockRange, expecting byteCount: Int) throws(BlockStoreError) -> ByteRange {
        let bytes = try bytes(of: range)
        precondition(bytes.count == Int64(byteCount), "the caller's segments have the size of the range")
        return bytes
    }

    /// Makes a range read as zeroes with `shortcut`, or by writing them where the file system or device cannot.
    private func zero(_ bytes: ByteRange, _ shortcut: () throws(Errno) -> Void) throws(BlockStoreError) {
        do throws(Errno) {
            try shortcut()
        } catch {
            guard error == .unsupported || error == .invalidArgument else { throw BlockStoreError(error) }
            try storing { () throws(Errno) in try writeZeroBytes(bytes) }
        }
    }

    private func writeZeroBytes(_ bytes: ByteRange) throws(Errno) {
        let zeroes = [UInt8](repeating: 0, count: min(Int(bytes.count), FileStore.zeroChunkByteCount))
        var done = 0
        while done < Int(bytes.count) {
            let count = min(zeroes.count, Int(bytes.count) - done)
            let result: Result<Void, Errno> = unsafe zeroes.withUnsafeBytes { buffer in
                do throws(Errno) {
                    let piece = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<count])
                    return .success(unsafe try file.write(piece, at: bytes.offset + Int64(done)))
                } catch {
                    return .failure(error)
                }
            }
            try result.get()
            done += count
        }
    }
}

extension FileStore {
    /// Opens and locks an image; `nil` when there is none.
    private static func open(_ path: String, isReadOnly: Bool) throws(ImageError) -> StorageFile? {
        let file: StorageFile
        do throws(Errno) {
            file = try StorageFile(openingPath: path, isWritable: !isReadOnly)
        } catch {
            if error == .noSuchEntry { return nil }
            throw .cannotOpen(path: path, error)
        }
        try lock(file, path, exclusive: !isReadOnly)
        return file
    }

    /// Creates, locks and sizes an image, or leaves nothing behind.
    private static func create(_ path: String, _ byteCount: UInt64) throws(ImageError) -> StorageFile {
        let file: StorageFile
        do throws(Errno) {
            file = try StorageFile(creatingPath: path)
        } catch {
            // Another process may have been faster. Whoever locks the file first has it.
            if error == .exists, let existing = try open(path, isReadOnly: false) { return existing }
            throw .cannotCreate(path: path, error)
        }
        try lock(file, path, exclusive: true)
        do throws(ImageError) {
            try resize(file, path, byteCount)
        } catch {
            // The first error is the one to tell; if the name cannot be removed there is nothing more to do about it.
            try? StorageFile.remove(path: path)
            throw error
        }
        return file
    }

    private static func resize(_ file: borrowing StorageFile, _ path: String, _ byteCount: UInt64) throws(ImageError) {
        guard let size = Int64(exactly: byteCount) else { throw .cannotCreate(path: path, .fileTooLarge) }
        do throws(Errno) {
            try file.resize(to: size)
        } catch {
            throw .cannotCreate(path: path, error)
        }
    }

    private static func lock(_ file: borrowing StorageFile, _ path: String, exclusive: Bool) throws(ImageError) {
        do throws(Errno) {
            try file.lock(exclusive: exclusive)
        } catch {
            throw error == .wouldBlock ? .isLocked(path: path) : .cannotOpen(path: path, error)
        }
    }

    private static func measure(_ file: borrowing StorageFile, _ path: String) throws(ImageError) -> (Kind, UInt64) {
        do throws(Errno) {
            let status = try file.status()
            switch status.kind {
            case .regular: return (.regularFile, UInt64(max(0, status.size)))
            case .blockDevice: return (.blockDevice, try file.blockDeviceSize())
            case .socket, .other: break
            }
        } catch {
            throw .cannotOpen(path: path, error)
        }
        throw .isNoImage(path: path)
    }

    private static func checkSize(_ byteCount: UInt64, _ path: String, _ blockSize: BlockSize) throws(ImageError) {
        guard byteCount > 0, byteCount % blockSize.byteCount == 0 else {
            throw .isNoMultipleOfBlock(path: path, byteCount: byteCount, blockSize: blockSize)
        }
    }
}

/// Turns the errors of a system call on the image into the store's.
private func storing<Result>(_ body: () throws(Errno) -> Result) throws(BlockStoreError) -> Result {
    do throws(Errno) {
        return try body()
    } catch {
        throw BlockStoreError(error)
    }
}

extension BlockStoreError {
    init(_ error: Errno) {
        self =
            switch error {
            case .noSpace, .quotaExceeded: .noSpace
            case .badAddress: .badMemory
            default: .failed(error)
            }
    }
}

extension Errno {
    /// `EFBIG`
    static let fileTooLarge = Errno(rawValue: 27)
    /// `EOPNOTSUPP`
    static let unsupported = Errno(rawValue: 95)
    /// `EDQUOT`
    static let quotaExceeded = Errno(rawValue: 122)
}

extension [UnsafeMutableRawBufferPointer] {
    /// The size of all segments together; they are memory of this process, so that it cannot overflow.
    var byteCount: Int { unsafe reduce(0) { $0 + $1.count } }
}
