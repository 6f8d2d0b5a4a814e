/// Numbers within bytes that a server sent; zero where the bytes end, for how many there are is judged by itself.
extension [UInt8] {
    func u16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func u32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func u64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    func number(at offset: Int, byteCount: Int) -> UInt64 {
        guard offset >= 0, offset <= count, byteCount <= count - offset else { return 0 }
        return (0..<byteCount).reduce(0) { $0 | UInt64(self[offset + $1]) << UInt64($1 * 8) }
    }
}

extension UInt64 {
    var hexadecimal: String { "0x" + String(self, radix: 16) }
}

extension Sequence<UInt8> {
    /// The first bytes as text, for a report.
    func hexadecimal(atMost limit: Int = 24) -> String {
        let bytes = Array(self)
        let shown = bytes.prefix(limit).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
        return bytes.count > limit ? shown + " …" : shown
    }
}

/// VFIO's indexes.
enum Region {
    static let rom: UInt32 = 6
    static let configuration: UInt32 = 7
}

enum Interrupt {
    static let intx: UInt32 = 0
    static let msi: UInt32 = 1
    static let msix: UInt32 = 2
    static let error: UInt32 = 3
    static let request: UInt32 = 4
}

enum ErrorNumber {
    static let exists: UInt32 = 17
}
