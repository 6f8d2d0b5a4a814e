import LinuxHost

/// A descriptor that came with a message.
final class HeldDescriptor {
    let owned: OwnedDescriptor

    init(_ owned: consuming OwnedDescriptor) { self.owned = owned }
}

/// A message of the server, as it came.
struct RawMessage {
    let header: [UInt8]
    let payload: [UInt8]
    /// Those that came with the first byte, in the call that read the header.
    let descriptors: [HeldDescriptor]
    /// Those that came later, which clients lose.
    let strayDescriptors: Int
    /// How many bytes of the header the first call got; clients want all sixteen.
    let firstPiece: Int

    var id: UInt16 { header.u16(at: 0) }
    var command: UInt16 { header.u16(at: 2) }
    var size: Int { Int(header.u32(at: 4)) }
    var flags: UInt32 { header.u32(at: 8) }
    var isReply: Bool { flags & HeaderFlags.typeMask == HeaderFlags.reply }
    /// The number of an error reply, which may be zero; `nil` for any other.
    var error: UInt32? { flags & HeaderFlags.error != 0 ? header.u32(at: 12) : nil }
}

extension RawMessage: CustomStringConvertible {
    var description: String {
        let kind = isReply ? (error == nil ? "a reply" : "an error reply") : "a request"
        var text = "\(kind) to \(Number.name(command)), ID \(id), \(size) bytes"
        if !isReply { text = "a request for \(Number.name(command)), ID \(id), \(size) bytes" }
        if let error { text += ", error \(error)" }
        if !payload.isEmpty { text += ", payload \(payload.hexadecimal())" }
        if !descriptors.isEmpty { text += ", \(descriptors.count) descriptors" }
        return text
    }
}
