/// A capability whose meaning is the vendor's own: some constant bytes, and perhaps a window onto the function's base address
/// registers for software that can only reach configuration space. PCI Local Bus 3.0, appendix H
public struct VendorCapability: Sendable, Hashable {
    public let name: String
    /// What follows the header and the length byte: one byte, then words of four bytes.
    let body: [UInt8]
    /// Whether the three words after the first byte are where a window is and a fourth is the window.
    let isWindow: Bool

    /// - Precondition: `body` has one byte and any whole number of words behind it, fewer than 200 bytes in all.
    public init(_ name: String, body: [UInt8]) {
        precondition(body.count % 4 == 1 && body.count < 200, "a capability has a byte and words behind its length")
        self.name = name
        self.body = body
        isWindow = false
    }

    /// A window that software moves, and through which it then reads and writes.
    ///
    ///     3   type, as given
    ///     4   index of the base address register   8 bits
    ///     8   offset in it                         32 bits
    ///     12  width of the access: 1, 2 or 4       32 bits
    ///     16  the window                           32 bits
    ///
    /// Every access to the window is one of the width given there. It reads as zero, and ignores writes, while what it names
    /// does not exist or is not naturally aligned. A function has one of them at most. Virtio 1.2, 4.1.4.9
    ///
    /// - Parameter type: the first byte after the length.
    public static func window(_ name: String, type: UInt8) -> VendorCapability {
        VendorCapability(window: name, type: type)
    }

    private init(window name: String, type: UInt8) {
        self.name = name
        body = [type]
        isWindow = true
    }

    /// The size of the capability with its header.
    var byteCount: Int { isWindow ? 20 : 3 + body.count }
}

extension Capability {
    /// - Parameter number: which of the function's vendor capabilities it is.
    static func vendor(_ vendor: VendorCapability, number: Int, at offset: Int) -> Capability {
        var registers: [RegisterDeclaration<ConfigurationRegister>] = [
            .init(
                .vendorLength(number), "\(vendor.name) Length", at: offset + 2, byteCount: 1,
                reset: UInt64(vendor.byteCount), .readOnly),
            .init(
                .vendorByte(number), "\(vendor.name) Type", at: offset + 3, byteCount: 1, reset: UInt64(vendor.body[0]),
                .readOnly),
        ]
        for word in 0..<vendor.body.count / 4 {
            let bytes = vendor.body[(1 + word * 4)..<(5 + word * 4)]
            let value = bytes.reversed().reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
            registers.append(
                .init(
                    .vendorWord(number, word), "\(vendor.name) Word \(word)", at: offset + 4 + word * 4, byteCount: 4,
                    reset: value, .readOnly))
        }
        if vendor.isWindow {
            registers += [
                .init(.windowBar, "\(vendor.name) BAR", at: offset + 4, byteCount: 1, .readWrite),
                .init(.windowOffset, "\(vendor.name) Offset", at: offset + 8, byteCount: 4, .readWrite),
                .init(.windowWidth, "\(vendor.name) Width", at: offset + 12, byteCount: 4, .readWrite),
                .init(.windowData, "\(vendor.name) Data", at: offset + 16, byteCount: 4, .readWrite),
            ]
        }
        return Capability(
            id: .vendor, number: number, name: vendor.name, offset: offset, registers: registers)
    }
}

/// What an access to a window means.
struct WindowAccess {
    /// `nil` if what the window names cannot be accessed.
    let target: (bar: Int, offset: UInt64, byteCount: Int)?
    /// What the window's own register holds, which is what a write is to write.
    let data: UInt64
}

extension PCIFunctionState {
    /// What an access to configuration space does through the window; `nil` if it does not touch it.
    func windowAccess(touchedAt offset: Int, byteCount: Int) -> WindowAccess? {
        guard let number = configuration.map.index[.windowData] else { return nil }
        let register = configuration.map.declarations[number]
        guard offset < register.offset + register.byteCount, register.offset < offset + byteCount else { return nil }
        let data = configuration[.windowData]
        let (place, width) = (configuration[.windowOffset], configuration[.windowWidth])
        // Only base address registers are named: configuration space, and so the window itself, is none.
        guard let bar = description.bars.first(where: { UInt64($0.index) == configuration[.windowBar] }),
            [1, 2, 4].contains(width), place % width == 0, place + width <= bar.byteCount
        else { return WindowAccess(target: nil, data: data) }
        return WindowAccess(target: (bar.index, place, Int(width)), data: data & ((1 << (width * 8)) - 1))
    }
}
