import DMA

/// A number that tells the commands of one submission queue apart. `CID`
struct CommandID: RawRepresentable, Hashable {
    let rawValue: UInt16
}

/// `NSID`
struct NamespaceID: RawRepresentable, Hashable {
    let rawValue: UInt32

    static let none = NamespaceID(rawValue: 0)
    /// The one namespace that the controller has.
    static let first = NamespaceID(rawValue: 1)
    /// Every namespace. "Broadcast"
    static let all = NamespaceID(rawValue: .max)
}

/// `QID`
struct QueueID: RawRepresentable, Hashable {
    let rawValue: UInt16

    static let admin = QueueID(rawValue: 0)
}

/// Where a command's data is: two physical region page entries, whose meaning depends on the size. `DPTR`
struct DataPointer {
    let prp1, prp2: IOVA
}

/// A command as the host writes it into a submission queue. Base specification 2.0, section 3.3.3,
/// Common Command Format
///
///     dword  bits
///     0      7:0     opcode
///     0      9:8     fused operation
///     0      15:14   PRP or SGL
///     0      31:16   command identifier
///     1              namespace identifier
///     4–5            metadata pointer
///     6–9            data pointer: PRP entry 1, PRP entry 2
///     10–15          by command
struct SubmissionEntry {
    static let byteCount = 64

    let opcode: UInt8
    let isFused: Bool
    let usesScatterGatherList: Bool
    let commandID: CommandID
    let namespaceID: NamespaceID
    let dataPointer: DataPointer
    /// Dwords 10 to 15.
    let parameters: InlineArray<6, UInt32>

    init(parsing dwords: borrowing InlineArray<16, UInt32>) {
        opcode = UInt8(dwords[0] & 0xff)
        isFused = dwords[0] >> 8 & 0b11 != 0
        usesScatterGatherList = dwords[0] >> 14 & 0b11 != 0
        commandID = CommandID(rawValue: UInt16(dwords[0] >> 16))
        namespaceID = NamespaceID(rawValue: dwords[1])
        dataPointer = DataPointer(
            prp1: IOVA(UInt64(dwords[7]) << 32 | UInt64(dwords[6])),
            prp2: IOVA(UInt64(dwords[9]) << 32 | UInt64(dwords[8])))
        parameters = [dwords[10], dwords[11], dwords[12], dwords[13], dwords[14], dwords[15]]
    }

    /// Dword `number` of the command, 10 to 15.
    func dword(_ number: Int) -> UInt32 { parameters[number - 10] }
}
