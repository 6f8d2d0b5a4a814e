import DMA
import SVA

/// An entry of the page request ring.
///
///     0 cookie | 4 PASID | 8 page | 16 rights | 20 flags | 24 zero
struct PageRequestEntry {
    static let byteCount = 32

    let cookie: FaultChannel.Cookie
    let request: PageRequest

    /// The entry as it lies in memory.
    var contents: InlineArray<32, UInt8> {
        let words: InlineArray<4, UInt64> = [
            UInt64(cookie.rawValue) | UInt64(request.pasid?.rawValue ?? 0) << 32, request.page.rawValue,
            UInt64(request.rights.rawValue) | (request.isLast ? 1 << 32 : 0), 0,
        ]
        return InlineArray { UInt8(truncatingIfNeeded: words[$0 / 8] >> UInt64($0 % 8 * 8)) }
    }
}
