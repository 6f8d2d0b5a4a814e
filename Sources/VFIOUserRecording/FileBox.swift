import LinuxHost

/// The file of a recording, for a thread's closure to hold.
final class FileBox: Sendable {
    private let file: StorageFile

    init(_ file: consuming StorageFile) {
        self.file = file
    }

    func write(_ bytes: [UInt8], at offset: Int64) throws(Errno) {
        var failure: Errno?
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                unsafe try file.write(buffer, at: offset)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }
}
