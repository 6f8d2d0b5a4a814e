/// Where a PCI function sits: bus, device and function, of segment 0, the only one that the machines here have.
///
/// The same sixteen bits are the ID under which the function's accesses reach an IOMMU.
public struct PCIAddress: Hashable, Sendable {
    /// Bus in bits 8 to 15, device in 3 to 7, function in 0 to 2.
    public let requesterID: UInt16

    public init(requesterID: UInt16) {
        self.requesterID = requesterID
    }

    public var bus: UInt8 { UInt8(requesterID >> 8) }
    public var device: UInt8 { UInt8(requesterID >> 3 & 0x1f) }
    public var function: UInt8 { UInt8(requesterID & 7) }

    /// Reads what `lspci` prints: `00:04.0`, or `0000:00:04.0` with the segment.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        if parts.count == 3, parts[0] != "0000" { return nil }
        guard parts.count == 2 || parts.count == 3 else { return nil }
        let slot = parts[parts.count - 1].split(separator: ".", omittingEmptySubsequences: false)
        guard let bus = UInt8(digits: parts[parts.count - 2], count: 2), slot.count == 2,
            let device = UInt8(digits: slot[0], count: 2), device < 0x20,
            let function = UInt8(digits: slot[1], count: 1), function < 8
        else { return nil }
        self.init(requesterID: UInt16(bus) << 8 | UInt16(device) << 3 | UInt16(function))
    }
}

extension PCIAddress: Comparable {
    public static func < (left: PCIAddress, right: PCIAddress) -> Bool { left.requesterID < right.requesterID }
}

extension PCIAddress: CustomStringConvertible {
    /// Without the segment: `00:04.0`.
    public var description: String {
        "\(hexadecimal(UInt64(bus), digits: 2)):\(hexadecimal(UInt64(device), digits: 2)).\(function)"
    }
}

extension UInt8 {
    /// Exactly `count` hexadecimal digits; no sign, which the standard library would take.
    fileprivate init?(digits: Substring, count: Int) {
        guard digits.utf8.count == count, digits.allSatisfy(\.isHexDigit) else { return nil }
        self.init(digits, radix: 16)
    }
}

/// At least so many digits of `value`, without a prefix.
func hexadecimal(_ value: UInt64, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
}
