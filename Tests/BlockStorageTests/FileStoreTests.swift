import BlockStorage
import Glibc
import LinuxHost
import Testing

@Suite struct FileStoreTests {
    let directory: TemporaryDirectory

    init() throws {
        directory = try TemporaryDirectory()
    }

    func store(
        _ byteCount: UInt64? = 1 << 20, _ blockSize: BlockSize = .bytes512, isReadOnly: Bool = false
    ) throws(ImageError) -> FileStore {
        try FileStore(
            path: directory.file("disk.img"), byteCount: byteCount, blockSize: blockSize, isReadOnly: isReadOnly)
    }

    @Test func `an absent image is created with its size`() throws {
        let store = try store(1 << 20, .bytes4096)
        #expect(store.blockCount == 256)
        #expect(try fileSize(directory.file("disk.img")) == 1 << 20)
        #expect(try store.allocatedBytes == 0)
    }

    @Test func `of several who create an image at once one gets it and the others hear that it is locked`() throws {
        for round in 0..<200 {
            let path = directory.file("\(round).img")
            let results = Monitor<[Result<FileStore, ImageError>]>([])
            let threads = try (0..<4).map { number in
                try OSThread(name: "create-\(number)") {
                    let result = Result<FileStore, ImageError> { () throws(ImageError) in
                        try FileStore(path: path, byteCount: 1 << 20, blockSize: .bytes512, isReadOnly: false)
                    }
                    results.withLock { $0.append(result) }
                }
            }
            for thread in threads { thread.join() }
            let failures = results.withLock { results in
                results.compactMap { if case .failure(let error) = $0 { error } else { nil } }
            }
            #expect(failures == [ImageError](repeating: .isLocked(path: path), count: 3))
            #expect(try fileSize(path) == 1 << 20)
        }
    }

    @Test func `an image whose creation was cut short is created again, and not read-only`() throws {
        let path = directory.file("disk.img")
        _ = try StorageFile(creatingPath: path)
        let nothing = ImageError.isNoMultipleOfBlock(path: path, byteCount: 0, blockSize: .bytes512)
        #expect(throws: nothing) { try store(nil) }
        #expect(throws: ImageError.self) { try store(isReadOnly: true) }
        #expect(try fileSize(path) == 0)
        #expect(try store().blockCount == 2048)
    }

    @Test func `an existing image keeps its size and contents`() throws {
        do {
            let store = try store()
            try store.write(7, [UInt8](repeating: 0xA5, count: 512))
        }
        let again = try store(nil)
        #expect(again.blockCount == 2048)
        #expect(try again.read(7) == [UInt8](repeating: 0xA5, count: 512))
    }

    @Test func `an absent image without a size is refused and not created`() {
        #expect(throws: ImageError.doesNotExist(path: directory.file("disk.img"))) { try store(nil) }
        #expect(directory.names == [])
    }

    @Test func `a read-only image is never created`() {
        #expect(throws: ImageError.doesNotExist(path: directory.file("disk.img"))) { try store(isReadOnly: true) }
        #expect(directory.names == [])
    }

    @Test(arguments: [0, 1, 511, 513, 1_000_000] as [UInt64])
    func `a size that is no multiple of the block is refused and nothing created`(byteCount: UInt64) {
        #expect(
            throws: ImageError.isNoMultipleOfBlock(
                path: directory.file("disk.img"), byteCount: byteCount, blockSize: .bytes512)
        ) { try store(byteCount) }
        #expect(directory.names == [])
    }

    @Test(arguments: [1 << 62, 1 << 63] as [UInt64])
    func `a size that the file system cannot hold leaves nothing behind`(byteCount: UInt64) {
        #expect(throws: ImageError.self) { try store(byteCount) }
        #expect(directory.names == [])
    }

    @Test func `an existing image of another size is refused and left alone`() throws {
        _ = try store(1 << 20)
        #expect(
            throws: ImageError.hasOtherSize(path: directory.file("disk.img"), byteCount: 1 << 20, expected: 1 << 21)
        ) { try store(1 << 21) }
        #expect(try fileSize(directory.file("disk.img")) == 1 << 20)
    }

    @Test func `an existing image that is no multiple of the block is refused`() throws {
        _ = try store(512)
        #expect(
            throws: ImageError.isNoMultipleOfBlock(
                path: directory.file("disk.img"), byteCount: 512, blockSize: .bytes4096)
        ) { try store(nil, .bytes4096) }
    }

    @Test func `a missing directory is the cause that the error tells`() {
        let path = directory.file("missing/disk.img")
        #expect(throws: ImageError.cannotCreate(path: path, .noSuchEntry)) {
            try FileStore(path: path, byteCount: 512, blockSize: .bytes512, isReadOnly: false)
        }
    }

    @Test(arguments: [true, false]) func `a directory is not an image`(isReadOnly: Bool) {
        #expect(throws: ImageError.self) {
            try FileStore(path: directory.path, byteCount: nil, blockSize: .bytes512, isReadOnly: isReadOnly)
        }
    }

    @Test(arguments: [true, false]) func `a pipe is not an image and does not hold the caller`(isReadOnly: Bool) {
        let path = directory.file("pipe")
        #expect(unsafe mkfifo(path, 0o600) == 0)
        #expect(throws: ImageError.isNoImage(path: path)) {
            try FileStore(path: path, byteCount: nil, blockSize: .bytes512, isReadOnly: isReadOnly)
        }
    }

    @Test func `a writer excludes writers and readers until it goes`() throws {
        let path = directory.file("disk.img")
        do {
            let writer = try store()
            #expect(throws: ImageError.isLocked(path: path)) { try store() }
            #expect(throws: ImageError.isLocked(path: path)) { try store(nil, isReadOnly: true) }
            #expect(writer.blockCount == 2048)
        }
        let reader = try store(nil, isReadOnly: true)
        let second = try store(nil, isReadOnly: true)
        #expect(throws: ImageError.isLocked(path: path)) { try store() }
        #expect(reader.blockCount == second.blockCount)
    }

    @Test func `a locked image is told in one line that names it`() {
        #expect("\(ImageError.isLocked(path: "/a/disk.img"))" == "/a/disk.img: image is locked by another process")
    }

    @Test func `scattered segments are filled and drained in order`() throws {
        let store = try store(1 << 20, .bytes4096)
        let pattern = (0..<12288).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 / 256) }
        try store.write(5, pattern, cutAt: [100, 4096, 4097, 9000])
        #expect(try store.read(5, 3, cutAt: [1, 2, 8191]) == pattern)
        #expect(try store.read(6) == Array(pattern[4096..<8192]))
    }

    @Test func `more segments than one system call takes are all transferred`() throws {
        let store = try store(1 << 20, .bytes4096)
        let pattern = (0..<8192).map { UInt8(truncatingIfNeeded: $0 % 251) }
        let cuts = Array(stride(from: 3, to: 8192, by: 3))
        try store.write(0, pattern, cutAt: cuts)
        #expect(try store.read(0, 2, cutAt: cuts) == pattern)
    }

    @Test(arguments: [(2048, 1), (2047, 2), (0, 2049), (.max, 1), (.max, .max), (1, .max)] as [(UInt64, UInt64)])
    func `a range outside the store is refused`(first: UInt64, count: UInt64) throws {
        let store = try store()
        let range = BlockRange(first: LogicalBlock(rawValue: first), count: count)
        #expect(throws: BlockStoreError.outOfRange) { unsafe try store.read(range, into: []) }
        #expect(throws: BlockStoreError.outOfRange) { unsafe try store.write(range, from: []) }
        #expect(throws: BlockStoreError.outOfRange) { try store.deallocate(range) }
        #expect(throws: BlockStoreError.outOfRange) { try store.writeZeroes(range, deallocating: true) }
    }

    @Test func `deallocated blocks give their storage back and read as zeroes`() throws {
        let store = try store()
        try store.write(0, [UInt8](repeating: 0xFF, count: 1 << 20))
        try store.flush()
        let before = try store.allocatedBytes
        try store.deallocate(BlockRange(first: LogicalBlock(rawValue: 8), count: 1024))
        try store.flush()
        #expect(try store.allocatedBytes <= before - (1 << 19))
        #expect(try store.read(7) == [UInt8](repeating: 0xFF, count: 512))
        #expect(try store.read(8, 1024) == [UInt8](repeating: 0, count: 1 << 19))
        #expect(try store.read(1032) == [UInt8](repeating: 0xFF, count: 512))
        #expect(store.deallocatedContents == .zeroes)
    }

    @Test(arguments: [true, false]) func `written zeroes read as zeroes and only there`(deallocating: Bool) throws {
        let store = try store(4 << 20)
        try store.write(0, [UInt8](repeating: 0xFF, count: 4 << 20))
        // Neither end on a page of the file, and more than one chunk of zeroes where they are written out.
        try store.writeZeroes(BlockRange(first: LogicalBlock(rawValue: 3), count: 5001), deallocating: deallocating)
        #expect(try store.read(2) == [UInt8](repeating: 0xFF, count: 512))
        #expect(try store.read(3, 5001) == [UInt8](repeating: 0, count: 5001 * 512))
        #expect(try store.read(5004) == [UInt8](repeating: 0xFF, count: 512))
        #expect(try fileSize(directory.file("disk.img")) == 4 << 20)
    }

    @Test func `an empty range changes nothing`() throws {
        let store = try store()
        let nothing = BlockRange(first: LogicalBlock(rawValue: 2048), count: 0)
        try store.deallocate(nothing)
        try store.writeZeroes(nothing, deallocating: false)
        #expect(try fileSize(directory.file("disk.img")) == 1 << 20)
    }

    @Test func `a read-only store refuses to change anything`() throws {
        _ = try store()
        let store = try store(nil, isReadOnly: true)
        let block = BlockRange(first: LogicalBlock(rawValue: 0), count: 1)
        #expect(throws: BlockStoreError.readOnly) { try store.write(0, [UInt8](repeating: 1, count: 512)) }
        #expect(throws: BlockStoreError.readOnly) { try store.deallocate(block) }
        #expect(throws: BlockStoreError.readOnly) { try store.writeZeroes(block, deallocating: false) }
        try store.flush()
        #expect(try store.read(0) == [UInt8](repeating: 0, count: 512))
    }

    @Test func `after a flush that failed none is said to have worked`() throws {
        let store = try store()
        try store.write(0, [UInt8](repeating: 1, count: 512))
        try store.flush()
        // A pipe, which cannot be made durable, takes the place of the image for one flush.
        let number = try #require(openDescriptor(of: directory.file("disk.img")))
        let saved = dup(number)
        var pipe: [Int32] = [-1, -1]
        #expect(unsafe Glibc.pipe(&pipe) == 0)
        dup2(pipe[0], number)
        #expect(throws: BlockStoreError.failed(.invalidArgument)) { try store.flush() }
        dup2(saved, number)
        for descriptor in pipe + [saved] { close(descriptor) }
        // The kernel forgets what it could not write as soon as it has said so.
        #expect(throws: BlockStoreError.failed(.invalidArgument)) { try store.flush() }
        #expect(try store.read(0) == [UInt8](repeating: 1, count: 512))
    }

    @Test func `an image that shrank under the store fails reads instead of inventing bytes`() throws {
        let store = try store()
        #expect(unsafe truncate(directory.file("disk.img"), 4096) == 0)
        #expect(throws: BlockStoreError.failed(.inputOutput)) { try store.read(8) }
        #expect(try store.read(7) == [UInt8](repeating: 0, count: 512))
    }
}

/// The number by which this process has a file open.
private func openDescriptor(of path: String) -> Int32? {
    var file = stat()
    guard unsafe stat(path, &file) == 0 else { return nil }
    return (3..<4096).first { number in
        var status = stat()
        return unsafe fstat(number, &status) == 0 && status.st_dev == file.st_dev && status.st_ino == file.st_ino
    }
}

private func fileSize(_ path: String) throws(Errno) -> Int64 {
    try StorageFile(openingPath: path, isWritable: false).status().size
}

extension BlockStore {
    /// Blocks as one array, read into segments that end at `cuts`.
    fileprivate func read(_ first: UInt64, _ count: UInt64 = 1, cutAt cuts: [Int] = []) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: Int(count * blockSize.byteCount))
        let range = BlockRange(first: LogicalBlock(rawValue: first), count: count)
        unsafe try bytes.withUnsafeMutableBytes { unsafe try read(range, into: $0.cut(at: cuts)) }
        return bytes
    }

    fileprivate func write(_ first: UInt64, _ bytes: [UInt8], cutAt cuts: [Int] = []) throws {
        var bytes = bytes
        let count = UInt64(bytes.count) / blockSize.byteCount
        let range = BlockRange(first: LogicalBlock(rawValue: first), count: count)
        unsafe try bytes.withUnsafeMutableBytes { unsafe try write(range, from: $0.cut(at: cuts)) }
    }
}

extension UnsafeMutableRawBufferPointer {
    fileprivate func cut(at cuts: [Int]) -> [UnsafeMutableRawBufferPointer] {
        let edges = [0] + cuts + [count]
        return unsafe zip(edges, edges.dropFirst()).map { first, next in
            unsafe UnsafeMutableRawBufferPointer(rebasing: self[first..<next])
        }
    }
}
