import Glibc
import LinuxHost
import Testing

@Suite struct `Storage files` {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func write(_ bytes: [UInt8], to file: borrowing StorageFile, at offset: Int64) throws(Errno) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        defer { unsafe buffer.deallocate() }
        unsafe buffer.copyBytes(from: bytes)
        unsafe try file.write(UnsafeRawBufferPointer(buffer), at: offset)
    }

    private func read(_ count: Int, of file: borrowing StorageFile, at offset: Int64) throws(Errno) -> [UInt8] {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
        defer { unsafe buffer.deallocate() }
        unsafe try file.read(into: buffer, at: offset)
        return unsafe Array(buffer)
    }

    @Test func `what was written is read, and a new file must be new`() throws {
        let path = directory.file("image")
        let file = try StorageFile(creatingPath: path)
        try file.resize(to: 100)
        try write([1, 2, 3], to: file, at: 50)
        try file.synchronize()
        let again = try StorageFile(openingPath: path, isWritable: false)
        #expect(try read(5, of: again, at: 49) == [0, 1, 2, 3, 0])
        #expect(try again.status().size == 100)
        #expect(errorOf { () throws(Errno) in _ = try StorageFile(creatingPath: path) } == .exists)
        #expect(
            errorOf { () throws(Errno) in _ = try StorageFile(openingPath: path + "x", isWritable: true) }
                == .noSuchEntry)
    }

    @Test func `reading past the end is an error, and so is writing to a read-only file`() throws {
        let path = directory.file("image")
        let file = try StorageFile(creatingPath: path)
        try write([1, 2, 3], to: file, at: 0)
        let readOnly = try StorageFile(openingPath: path, isWritable: false)
        #expect(readError(4, of: file, at: 0) == .inputOutput)
        #expect(readError(1, of: file, at: 3) == .inputOutput)
        #expect(writeError([1], to: readOnly, at: 0) == Errno(rawValue: EBADF))
    }

    private func readError(_ count: Int, of file: borrowing StorageFile, at offset: Int64) -> Errno? {
        do throws(Errno) {
            _ = try read(count, of: file, at: offset)
            return nil
        } catch {
            return error
        }
    }

    private func writeError(_ bytes: [UInt8], to file: borrowing StorageFile, at offset: Int64) -> Errno? {
        do throws(Errno) {
            try write(bytes, to: file, at: offset)
            return nil
        } catch {
            return error
        }
    }

    @Test func `a punched hole reads as zeroes and gives its storage back`() throws {
        let file = try StorageFile(creatingPath: directory.file("image"))
        try write([UInt8](repeating: 7, count: 1 << 20), to: file, at: 0)
        try file.synchronize()
        let before = try file.status().allocatedBytes
        try file.punchHole(at: 4096, byteCount: 512 << 10)
        #expect(try read(2, of: file, at: 4095) == [7, 0])
        #expect(try read(2, of: file, at: 4096 + (512 << 10) - 1) == [0, 7])
        #expect(try file.status().size == 1 << 20)
        #expect(try file.status().allocatedBytes < before)
    }

    @Test func `an exclusive lock keeps every other lock out and a shared one the exclusive`() throws {
        let path = directory.file("image")
        let first = try StorageFile(creatingPath: path)
        let second = try StorageFile(openingPath: path, isWritable: true)
        try first.lock(exclusive: false)
        try second.lock(exclusive: false)
        #expect(lockError(second) == .wouldBlock)
        do {
            let third = try StorageFile(openingPath: path, isWritable: false)
            try third.lock(exclusive: false)
            #expect(lockError(first) == .wouldBlock)
        }
        let other = try StorageFile(creatingPath: directory.file("other"))
        try other.lock(exclusive: true)
        let rival = try StorageFile(openingPath: directory.file("other"), isWritable: true)
        #expect(lockError(rival) == .wouldBlock)
    }

    private func lockError(_ file: borrowing StorageFile) -> Errno? {
        do throws(Errno) {
            try file.lock(exclusive: true)
            return nil
        } catch {
            return error
        }
    }
}
