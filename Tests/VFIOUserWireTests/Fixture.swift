import Foundation
import VFIOUserWire

/// A recorded message, kept as annotated hexadecimal text in `Fixtures`.
///
/// The bytes are those of QEMU 11.1.3 talking to two other servers. Each file names the run; a semicolon starts a comment.
struct Fixture {
    let bytes: [UInt8]
    let header: MessageHeader

    init(_ name: String) throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Fixtures")
        let text = try String(contentsOf: folder.appendingPathComponent(name + ".hex"), encoding: .utf8)
        var bytes: [UInt8] = []
        for line in text.split(separator: "\n") {
            for word in line.prefix(while: { $0 != ";" }).split(separator: " ") {
                guard let byte = UInt8(word, radix: 16) else { throw NotHexadecimal(word: String(word)) }
                bytes.append(byte)
            }
        }
        // Recordings leave bulk data out; zeros stand for them.
        let header = try MessageHeader(parsing: bytes.span)
        bytes += Array(repeating: 0, count: max(0, header.byteCount - bytes.count))
        self.bytes = bytes
        self.header = header
    }

    var payload: [UInt8] { Array(bytes.dropFirst(MessageHeader.byteCount)) }

    struct NotHexadecimal: Error {
        let word: String
    }
}

extension MessageWriter {
    /// The bytes that `body` appends to an empty writer.
    static func bytes(_ body: (inout MessageWriter) -> Void) -> [UInt8] {
        var writer = MessageWriter()
        body(&writer)
        return writer.bytes
    }
}
