import BlockStorage
import CPageCache
import LinuxHost
import Testing

/// What a killed process cannot show, because the page cache outlives it: that a flush leaves nothing in the page cache.
@Suite(.enabled(if: PageCacheProbe.canTell, "the kernel cannot say what is dirty, or the files are in memory"))
struct DurabilityTests {
    @Test func `a flush leaves nothing that is not on the disk`() throws {
        let probe = try PageCacheProbe()
        try probe.write()
        try probe.store.flush()
        #expect(probe.unwrittenPages == 0)
    }

    @Test func `zeroes are on the disk after a flush as well`() throws {
        let probe = try PageCacheProbe()
        try probe.write()
        let zeroes = BlockRange(first: LogicalBlock(rawValue: 4), count: 4)
        try probe.store.writeZeroes(zeroes, deallocating: false)
        try probe.store.flush()
        #expect(probe.unwrittenPages == 0)
    }
}

/// An image, and what of it is not on the disk.
private struct PageCacheProbe {
    private let directory: TemporaryDirectory
    let store: FileStore

    init() throws {
        directory = try TemporaryDirectory()
        store = try FileStore(
            path: directory.file("disk.img"), byteCount: 1 << 20, blockSize: .bytes4096, isReadOnly: false)
    }

    /// Whether a write shows as dirty here at all.
    static var canTell: Bool {
        guard let probe = try? PageCacheProbe(), (try? probe.write()) != nil else { return false }
        return (probe.unwrittenPages ?? 0) > 0
    }

    func write() throws {
        var bytes = [UInt8](repeating: 0x5a, count: 64 << 10)
        unsafe try bytes.withUnsafeMutableBytes { buffer in
            unsafe try store.write(BlockRange(first: LogicalBlock(rawValue: 0), count: 16), from: [buffer])
        }
    }

    /// `nil` when the kernel cannot say.
    var unwrittenPages: Int64? {
        guard let file = try? StorageFile(openingPath: directory.file("disk.img"), isWritable: false) else {
            return nil
        }
        let pages = page_cache_unwritten_pages(file.descriptor.rawValue)
        return pages < 0 ? nil : pages
    }
}
