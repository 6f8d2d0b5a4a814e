import DMA
import Glibc

/// The lines of a text file.
func lines(of path: String) throws -> [String] {
    guard let file = unsafe fopen(path, "re") else { throw DMAError(errno: errno) }
    defer { unsafe fclose(file) }
    var line = [CChar](repeating: 0, count: 1 << 16)
    var lines: [String] = []
    while unsafe fgets(&line, Int32(line.count), file) != nil {
        let bytes = line.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }
        lines.append(String(decoding: bytes, as: UTF8.self))
    }
    return lines
}
