import Glibc

/// What parts of a file held when they were last looked at, and so what has changed since.
///
/// Holes are skipped, so a large file of which little is in use costs little. The file is read, not mapped: one that
/// shrinks meanwhile reads as zeroes. Moves the position of the open file, which nobody who shares it may rely on.
public struct FileSnapshot: ~Copyable {
    public static let pageSize: Int64 = 4096
    private static let blockSize: Int64 = 64 << 10
    /// `SEEK_DATA`, which the C library shows to GNU programs only.
    private static let seekData: Int32 = 3

    private let descriptor: OwnedDescriptor
    /// By number; those that are absent held zeroes.
    private var blocks: [Int64: [UInt8]] = [:]
    private var buffer = [UInt8](repeating: 0, count: Int(blockSize))

    public init(of descriptor: consuming OwnedDescriptor) {
        self.descriptor = descriptor
    }

    /// How much is kept, in bytes.
    public var keptByteCount: Int { blocks.count * Int(Self.blockSize) }

    /// Looks at the pages in `range` again.
    ///
    /// - Parameters:
    ///   - limit: how many bytes of the whole file may be kept.
    ///   - changed: told the offset and the bytes of each run of pages that differ from what was seen before.
    /// - Throws: what `lseek(2)` and `pread(2)` answer; `ENOSPC` when there is more to keep.
    public mutating func update(
        _ range: Range<Int64>, keepingAtMost limit: Int = .max, changed: (Int64, [UInt8]) -> Void
    ) throws(Errno) {
        guard !range.isEmpty else { return }
        var block = range.lowerBound / Self.blockSize
        // The end of the last block may be beyond all numbers.
        let lastBlock = (range.upperBound - 1) / Self.blockSize
        while block <= lastBlock {
            let start = max(block * Self.blockSize, range.lowerBound)
            if blocks[block] == nil {
                // Nothing was here before; go to where something is now.
                let data = try nextData(from: start)
                guard data < range.upperBound else { return }
                block = data / Self.blockSize
                if blocks[block] == nil, keptByteCount >= limit { throw .noSpace }
            }
            let first = max(block * Self.blockSize, range.lowerBound) / Self.pageSize * Self.pageSize
            let end = block == lastBlock ? range.upperBound : (block + 1) * Self.blockSize
            try compare(first..<end, in: block, changed: changed)
            block += 1
        }
    }

    private func nextData(from offset: Int64) throws(Errno) -> Int64 {
        let found = lseek(descriptor.rawValue, Int(offset), Self.seekData)
        if found >= 0 { return Int64(found) }
        let error = Errno.current
        // There is none.
        if error.rawValue == ENXIO { return .max }
        throw error
    }

    private mutating func compare(
        _ range: Range<Int64>, in block: Int64, changed: (Int64, [UInt8]) -> Void
    ) throws(Errno) {
        let count = range.count
        var done = 0
        while done < count {
            let read = try retryingIfInterrupted {
                unsafe buffer.withUnsafeMutableBytes {
                    unsafe pread(
                        descriptor.rawValue, $0.baseAddress?.advanced(by: done), count - done,
                        Int(range.lowerBound) + done)
                }
            }
            if read == 0 { break }
            done += read
        }
        for index in done..<count { buffer[index] = 0 }
        let base = Int(range.lowerBound - block * Self.blockSize)
        let pageSize = Int(Self.pageSize)
        var old = blocks.removeValue(forKey: block) ?? [UInt8](repeating: 0, count: Int(Self.blockSize))
        var run = 0..<0
        func tell() {
            if !run.isEmpty { changed(range.lowerBound + Int64(run.lowerBound), Array(buffer[run])) }
        }
        for page in stride(from: 0, to: count, by: pageSize) {
            let part = page..<min(page + pageSize, count)
            if isEqual(part, old, base + page) { continue }
            if run.upperBound != page || run.isEmpty {
                tell()
                run = part
            } else {
                run = run.lowerBound..<part.upperBound
            }
            old.replaceSubrange(base + part.lowerBound..<base + part.upperBound, with: buffer[part])
        }
        tell()
        blocks[block] = old
    }

    private func isEqual(_ part: Range<Int>, _ old: [UInt8], _ start: Int) -> Bool {
        unsafe buffer.withUnsafeBytes { new in
            unsafe old.withUnsafeBytes { old in
                guard let new = new.baseAddress, let old = old.baseAddress else { return false }
                return unsafe memcmp(new + part.lowerBound, old + start, part.count) == 0
            }
        }
    }
}
