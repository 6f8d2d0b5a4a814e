/// The table of a function's MSI-X vectors and their pending bits. PCI Local Bus 3.0, 6.8.2
///
/// Addresses and data are kept for whoever reads them back; vectors are told through event counters. Where the client
/// keeps the table itself, as QEMU does, no access to it ever arrives and every entry would look masked as after reset;
/// so the masks of the table count only once the client has written to it, and then through every reset.
struct MSIXTable: Sendable {
    static let entryByteCount = 16
    /// Which bits of an entry can be written: the address but for its two low bits, the data, the mask bit.
    private static let writable: [UInt8] =
        [0xfc, 0xff, 0xff, 0xff] + [UInt8](repeating: 0xff, count: 8) + [0x01, 0x00, 0x00, 0x00]
    /// Where the mask bit lies in an entry.
    private static let vectorControl = 12

    let vectorCount: Int
    private var bytes: [UInt8]
    private(set) var isProgrammed: Bool
    /// Vectors that were raised while they could not be told.
    private(set) var pending: [Bool]

    /// As after reset: every vector masked, none pending.
    init(vectorCount: Int, isProgrammed: Bool) {
        self.vectorCount = vectorCount
        self.isProgrammed = isProgrammed
        bytes = [UInt8](repeating: 0, count: vectorCount * Self.entryByteCount)
        for vector in 0..<vectorCount { bytes[vector * Self.entryByteCount + Self.vectorControl] = 1 }
        pending = [Bool](repeating: false, count: vectorCount)
    }

    /// The client is gone, and the next one may keep the table itself.
    mutating func forgetClient() {
        isProgrammed = false
    }

    func isMasked(_ vector: Int) -> Bool {
        isProgrammed && bytes[vector * Self.entryByteCount + Self.vectorControl] & 1 != 0
    }

    mutating func setPending(_ vector: Int, _ isPending: Bool) {
        pending[vector] = isPending
    }

    /// `byteCount` (at most 8) bytes of the table from `offset` on; zero past its end.
    func read(at offset: Int, byteCount: Int) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<byteCount where offset + byte < bytes.count {
            value |= UInt64(bytes[offset + byte]) << UInt64(byte * 8)
        }
        return value
    }

    /// - Parameter countsAsProgramming: whether the access shows that the client leaves the table to the function.
    mutating func write(_ value: UInt64, at offset: Int, byteCount: Int, countsAsProgramming: Bool) {
        if countsAsProgramming { isProgrammed = true }
        for byte in 0..<byteCount where offset + byte < bytes.count {
            let mask = Self.writable[(offset + byte) % Self.entryByteCount]
            bytes[offset + byte] = bytes[offset + byte] & ~mask | value.byte(byte) & mask
        }
    }

    func entry(_ vector: Int) -> ArraySlice<UInt8> {
        bytes[vector * Self.entryByteCount..<(vector + 1) * Self.entryByteCount]
    }

    /// Sets a whole entry without counting it as the client's doing.
    ///
    /// - Returns: `false` when it has bits that no entry has.
    mutating func setEntry(_ vector: Int, _ entry: [UInt8]) -> Bool {
        guard zip(entry, Self.writable).allSatisfy({ $0 & ~$1 == 0 }) else { return false }
        bytes.replaceSubrange(vector * Self.entryByteCount..<(vector + 1) * Self.entryByteCount, with: entry)
        return true
    }

    /// The pending bits, vector 0 in bit 0, as `byteCount` (at most 8) bytes from `offset` on.
    static func pendingBits(at offset: Int, byteCount: Int, isPending: (Int) -> Bool, vectorCount: Int) -> UInt64 {
        var value: UInt64 = 0
        for bit in 0..<byteCount * 8 {
            let vector = offset * 8 + bit
            if vector < vectorCount, isPending(vector) { value |= 1 << UInt64(bit) }
        }
        return value
    }
}
