/// The number by which the guest knows a device behind the IOMMU: for a PCI function its requester ID.
public struct EndpointID: RawRepresentable, Hashable, Comparable, Sendable {
    public let rawValue: UInt32

    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    public init(_ rawValue: UInt32) {
        self.rawValue = rawValue
    }

    public static func < (left: EndpointID, right: EndpointID) -> Bool { left.rawValue < right.rawValue }
}

extension EndpointID: CustomStringConvertible {
    /// As a PCI address, `bus:device.function`, behind the segment where that is not zero.
    public var description: String {
        let (segment, bus) = (rawValue >> 16, rawValue >> 8 & 0xff)
        let place = "\(hexadecimal(bus, 2)):\(hexadecimal(rawValue >> 3 & 0x1f, 2)).\(rawValue & 7)"
        return segment == 0 ? place : "\(hexadecimal(segment, 4)):\(place)"
    }

    private func hexadecimal(_ value: UInt32, _ digits: Int) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }
}

/// The number by which the guest knows a domain.
public struct DomainID: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt32

    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    public init(_ rawValue: UInt32) {
        self.rawValue = rawValue
    }
}

extension DomainID: CustomStringConvertible {
    public var description: String { String(rawValue) }
}
