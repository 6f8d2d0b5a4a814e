/// What a function's configuration space says, taken apart and nothing believed: a list of capabilities may lead in
/// circles or out of the space, and then that is what is said of it.
struct ConfigurationPicture {
    /// A capability of either list.
    struct Capability {
        let offset: Int
        let id: UInt16
        let isExtended: Bool
        /// Of an extended capability.
        var version: UInt8 = 0
        let name: String
        /// What follows the name on its line.
        var summary = ""
        /// The lines below it.
        var details: [String] = []
    }

    struct BaseAddress {
        let number: Int
        let isPort: Bool
        let is64Bit: Bool
        let isPrefetchable: Bool
        let address: UInt64
        /// In bytes, as the region says.
        let size: UInt64
    }

    let bytes: [UInt8]
    private(set) var capabilities: [Capability] = []
    /// What is wrong with it.
    private(set) var complaints: [String] = []

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        if status & Self.hasCapabilities != 0 { followList() }
        if bytes.count > 256 { followExtendedList() }
    }

    private static let hasCapabilities: UInt16 = 1 << 4

    /// A little-endian number; zero where the bytes end.
    func number(at offset: Int, _ byteCount: Int) -> UInt64 {
        guard offset >= 0, byteCount <= bytes.count, offset <= bytes.count - byteCount else { return 0 }
        return (0..<byteCount).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64($1 * 8) }
    }

    func u8(_ offset: Int) -> UInt8 { UInt8(number(at: offset, 1)) }
    func u16(_ offset: Int) -> UInt16 { UInt16(number(at: offset, 2)) }
    func u32(_ offset: Int) -> UInt32 { UInt32(number(at: offset, 4)) }

    var vendorID: UInt16 { u16(0x00) }
    var deviceID: UInt16 { u16(0x02) }
    var command: UInt16 { u16(0x04) }
    var status: UInt16 { u16(0x06) }
    var revision: UInt8 { u8(0x08) }
    var interface: UInt8 { u8(0x09) }
    /// Base class and subclass.
    var classCode: UInt16 { u16(0x0a) }
    var headerType: UInt8 { u8(0x0e) & 0x7f }
    var subsystemVendorID: UInt16 { u16(0x2c) }
    var subsystemID: UInt16 { u16(0x2e) }
    var interruptLine: UInt8 { u8(0x3c) }
    /// 1 for INTA; 0 for none.
    var interruptPin: UInt8 { u8(0x3d) }

    /// Follows the list of the first 256 bytes.
    private mutating func followList() {
        var visited: Set<Int> = []
        var offset = Int(u8(0x34) & 0xfc)
        while offset != 0 {
            guard offset >= 0x40, offset + 2 <= min(256, bytes.count) else {
                complaints.append("the list of capabilities leads to \(hexadecimal(offset)), where none can be")
                return
            }
            guard visited.insert(offset).inserted else {
                complaints.append("the list of capabilities comes back to \(hexadecimal(offset))")
                return
            }
            capabilities.append(capability(at: offset))
            offset = Int(u8(offset + 1) & 0xfc)
        }
    }

    /// Follows the list beyond the first 256 bytes.
    private mutating func followExtendedList() {
        var visited: Set<Int> = []
        var offset = 0x100
        while offset != 0 {
            guard offset >= 0x100, offset + 4 <= bytes.count else {
                complaints.append(
                    "the list of extended capabilities leads to \(hexadecimal(offset)), where none can be")
                return
            }
            guard visited.insert(offset).inserted else {
                complaints.append("the list of extended capabilities comes back to \(hexadecimal(offset))")
                return
            }
            let header = u32(offset)
            // No header at all, or the ones of a space that does not answer, end the list where it begins.
            if header == 0 || header == .max {
                if offset != 0x100 { complaints.append("an extended capability at \(hexadecimal(offset)) is empty") }
                return
            }
            capabilities.append(extendedCapability(at: offset))
            offset = Int(header >> 20) & ~3
        }
    }

    /// The base address registers whose regions have a size.
    func baseAddresses(sizes: [UInt64]) -> [BaseAddress] {
        var found: [BaseAddress] = []
        var isUpperHalf = false
        for (number, size) in sizes.prefix(6).enumerated() {
            let register = u32(0x10 + number * 4)
            if isUpperHalf || size == 0 {
                isUpperHalf = false
                continue
            }
            let isPort = register & 1 != 0
            let is64Bit = !isPort && register & 6 == 4 && number < 5
            let upper = is64Bit ? UInt64(u32(0x14 + number * 4)) << 32 : 0
            found.append(
                BaseAddress(
                    number: number, isPort: isPort, is64Bit: is64Bit,
                    isPrefetchable: !isPort && register & 8 != 0,
                    address: upper | UInt64(register & (isPort ? ~3 : ~15)), size: size))
            isUpperHalf = is64Bit
        }
        return found
    }
}

func hexadecimal(_ number: some BinaryInteger, digits: Int = 2) -> String {
    let text = String(number, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
}
