import LinuxHost
import VFIOUserRecording

/// A recording read from a file, as far as it can be.
struct RecordingFile {
    let path: String
    private(set) var entries: [RecordingEntry] = []
    /// What is wrong with the rest.
    private(set) var error: RecordingError?
    private var cut: Int?

    /// - Throws: `Failure` for a file that cannot be read or is no recording.
    init(path: String) throws {
        self.path = path
        do {
            var reader = try RecordingReader(try StorageFile.contents(ofPath: path))
            do throws(RecordingError) {
                while let entry = try reader.next() { entries.append(entry) }
            } catch {
                self.error = error
            }
            if reader.isCut { cut = reader.offset }
        } catch let error as RecordingError {
            throw Failure(message: "\(path): \(error)")
        } catch let error as Errno {
            throw Failure(message: "\(path): \(error)")
        }
    }

    /// Says on standard error that whoever recorded it came to no end, if that is so.
    func tellIfCut() {
        if let cut { FileOutput.standardError.offer(line: "outboard: \(path): cut off at byte \(cut)") }
    }

    /// - Throws: `Failure`, also when the file exists.
    static func write(_ bytes: [UInt8], to path: String) throws {
        do throws(Errno) {
            try StorageFile(creatingPath: path).write(bytes)
        } catch {
            throw Failure(message: "\(path): \(error)")
        }
    }
}

extension StorageFile {
    /// All bytes of a regular file.
    ///
    /// - Throws: `EINVAL` for anything else, and for more than `limit` bytes.
    static func contents(ofPath path: String, atMost limit: Int64 = .max) throws(Errno) -> [UInt8] {
        let file = try StorageFile(openingPath: path, isWritable: false)
        let status = try file.status()
        guard status.kind == .regular, status.size <= limit else { throw .invalidArgument }
        var bytes = [UInt8](repeating: 0, count: Int(status.size))
        var failure: Errno?
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                unsafe try file.read(into: buffer, at: 0)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Writes all of `bytes` to the file's beginning.
    func write(_ bytes: [UInt8]) throws(Errno) {
        var failure: Errno?
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                unsafe try write(buffer, at: 0)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }
}
