import Glibc
import LinuxHost

/// Inputs on disk.
public enum Files {
    public static func read(_ path: String) throws -> [UInt8] {
        guard let file = unsafe fopen(path, "re") else { throw Finding("\(path): \(Errno(rawValue: errno))") }
        defer { unsafe fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe fread(&buffer, 1, buffer.count, file)
            guard count > 0 else { return bytes }
            bytes += buffer[..<count]
        }
    }

    public static func write(_ bytes: [UInt8], to path: String) throws {
        guard let file = unsafe fopen(path, "we") else { throw Finding("\(path): \(Errno(rawValue: errno))") }
        defer { unsafe fclose(file) }
        guard unsafe fwrite(bytes, 1, bytes.count, file) == bytes.count else { throw Finding("\(path) is not written") }
    }

    /// The files of a folder, in the order of their names.
    public static func list(_ folder: String) throws -> [String] {
        guard let directory = unsafe opendir(folder) else { throw Finding("\(folder): \(Errno(rawValue: errno))") }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix(".") { names.append("\(folder)/\(name)") }
        }
        return names.sorted()
    }
}
