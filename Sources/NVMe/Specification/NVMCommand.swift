import BlockStorage

/// A command for an I/O submission queue. NVM command set specification 1.0, section 3
enum NVMCommand {
    case flush
    case write(BlockRange, isDurable: Bool)
    case read(BlockRange, isDurable: Bool)
    case compare(BlockRange, isDurable: Bool)
    case writeZeroes(BlockRange, isDurable: Bool, deallocates: Bool)
    case datasetManagement(rangeCount: Int, deallocates: Bool)
    case verify(BlockRange, isDurable: Bool)

    enum Opcode: UInt8, CaseIterable {
        case flush = 0x00
        case write = 0x01
        case read = 0x02
        case compare = 0x05
        case writeZeroes = 0x08
        case datasetManagement = 0x09
        case verify = 0x0C

        /// Whether the command may change the contents of blocks.
        var changesBlocks: Bool {
            switch self {
            case .write, .writeZeroes, .datasetManagement: true
            case .flush, .read, .compare, .verify: false
            }
        }
    }

    /// `nil` for an opcode that the controller does not support.
    init?(parsing entry: SubmissionEntry) {
        guard let opcode = Opcode(rawValue: entry.opcode) else { return nil }
        let range = BlockRange(
            first: LogicalBlock(rawValue: UInt64(entry.dword(11)) << 32 | UInt64(entry.dword(10))),
            count: UInt64(entry.dword(12) & 0xffff) + 1)
        // FUA: the blocks are to be durable at the end of a command that writes, and at the beginning of any other.
        let isDurable = entry.dword(12) >> 30 & 1 != 0
        switch opcode {
        case .flush: self = .flush
        case .write: self = .write(range, isDurable: isDurable)
        case .read: self = .read(range, isDurable: isDurable)
        case .compare: self = .compare(range, isDurable: isDurable)
        case .writeZeroes:
            // DEAC
            let deallocates = entry.dword(12) >> 25 & 1 != 0
            self = .writeZeroes(range, isDurable: isDurable, deallocates: deallocates)
        case .datasetManagement:
            // AD
            let deallocates = entry.dword(11) >> 2 & 1 != 0
            self = .datasetManagement(rangeCount: Int(entry.dword(10) & 0xff) + 1, deallocates: deallocates)
        case .verify: self = .verify(range, isDurable: isDurable)
        }
    }
}

/// One of the ranges that Dataset Management is about. NVM command set specification 1.0, Dataset Management
///
///     bytes   field
///     0–3     context attributes
///     4–7     length in blocks
///     8–15    starting block
enum DatasetRange {
    static let byteCount = 16

    /// The ranges in a buffer that holds a whole number of them.
    static func parse(_ bytes: [UInt8]) -> [BlockRange] {
        stride(from: 0, to: bytes.count, by: byteCount).map { offset in
            BlockRange(
                first: LogicalBlock(rawValue: bytes.littleEndian(at: offset + 8)),
                count: UInt64(bytes.littleEndian(at: offset + 4, as: UInt32.self)))
        }
    }
}
