/// A register of configuration space, by its name in the PCI and PCI Express specifications.
public enum ConfigurationRegister: Hashable, Sendable {
    case vendorID, deviceID, command, status, revisionID, interface, subclass, baseClass
    case cacheLineSize, latencyTimer, headerType, selfTest
    case bar(Int), barUpper(Int)
    case subsystemVendorID, subsystemID, capabilitiesPointer, interruptLine, interruptPin
    /// With a number, for a function may have several vendor capabilities; the others have number 0.
    case capabilityHeader(CapabilityID, Int), extendedHeader(ExtendedCapabilityID)
    case powerManagementCapabilities, powerManagementControl
    case msiControl, msiAddress, msiUpperAddress, msiData, msiMask, msiPending
    case msixControl, msixTable, msixPending
    case expressCapabilities, deviceCapabilities, deviceControl, deviceStatus
    case linkCapabilities, linkControl, linkStatus
    case deviceCapabilities2, deviceControl2, linkCapabilities2, linkControl2
    /// By the number of the vendor capability; for words, then by their place in it.
    case vendorLength(Int), vendorByte(Int), vendorWord(Int, Int)
    case windowBar, windowOffset, windowWidth, windowData
    case serialNumberLower, serialNumberUpper
}

/// Identifiers of capabilities in the first 256 bytes.
public enum CapabilityID: UInt8, Hashable, Sendable {
    case powerManagement = 0x01
    case msi = 0x05
    case vendor = 0x09
    case express = 0x10
    case msix = 0x11
}

/// Identifiers of capabilities beyond the first 256 bytes.
public enum ExtendedCapabilityID: UInt16, Hashable, Sendable {
    case deviceSerialNumber = 0x0003
}

/// Bits of the command register. PCI Local Bus 3.0, 6.2.2
enum Command {
    static let ioSpace: UInt64 = 1 << 0
    static let memorySpace: UInt64 = 1 << 1
    static let busMaster: UInt64 = 1 << 2
    static let interruptDisable: UInt64 = 1 << 10
}

/// Bits of the status register. PCI Local Bus 3.0, 6.2.3
enum Status {
    static let interrupt: UInt64 = 1 << 3
    static let capabilitiesList: UInt64 = 1 << 4
}

extension RegisterMap where ID == ConfigurationRegister {
    /// The configuration space of a function: a type 0 header and the capabilities that the description asks for.
    public init(_ description: PCIDescription) {
        let capabilities = description.capabilities
        var registers = description.headerRegisters(firstCapability: capabilities.first?.offset ?? 0)
        for (number, capability) in capabilities.enumerated() {
            let next = number + 1 < capabilities.count ? capabilities[number + 1].offset : 0
            registers.append(
                .init(
                    .capabilityHeader(capability.id, capability.number), "\(capability.name) Header",
                    at: capability.offset, byteCount: 2,
                    reset: UInt64(capability.id.rawValue) | UInt64(next) << 8,
                    fields: [.init("Capability ID", 0...7, .readOnly), .init("Next Pointer", 8...15, .readOnly)]))
            registers.append(contentsOf: capability.registers)
        }
        registers.append(contentsOf: description.extendedRegisters)
        self.init(registers)
    }
}

extension PCIDescription {
    /// The 64 bytes that every function has. PCI Local Bus 3.0, 6.1
    fileprivate func headerRegisters(firstCapability: Int) -> [RegisterDeclaration<ConfigurationRegister>] {
        typealias Register = RegisterDeclaration<ConfigurationRegister>
        var registers: [Register] = [
            .init(.vendorID, "Vendor ID", at: 0x00, byteCount: 2, reset: UInt64(vendorID), .readOnly),
            .init(.deviceID, "Device ID", at: 0x02, byteCount: 2, reset: UInt64(deviceID), .readOnly),
            commandRegister,
            .init(
                .status, "Status", at: 0x06, byteCount: 2, reset: firstCapability == 0 ? 0 : Status.capabilitiesList,
                fields: [
                    .init("Interrupt Status", 3, .readOnly), .init("Capabilities List", 4, .readOnly),
                    .init("Master Data Parity Error", 8, .writeOneToClear),
                    .init("Signaled Target Abort", 11, .writeOneToClear),
                    .init("Received Target Abort", 12, .writeOneToClear),
                    .init("Received Master Abort", 13, .writeOneToClear),
                    .init("Signaled System Error", 14, .writeOneToClear),
                    .init("Detected Parity Error", 15, .writeOneToClear),
                ], hooks: .read),
            .init(.revisionID, "Revision ID", at: 0x08, byteCount: 1, reset: UInt64(revision), .readOnly),
            .init(
                .interface, "Programming Interface", at: 0x09, byteCount: 1, reset: UInt64(classCode.interface),
                .readOnly),
            .init(.subclass, "Subclass", at: 0x0a, byteCount: 1, reset: UInt64(classCode.subclass), .readOnly),
            .init(.baseClass, "Base Class", at: 0x0b, byteCount: 1, reset: UInt64(classCode.baseClass), .readOnly),
            .init(.cacheLineSize, "Cache Line Size", at: 0x0c, byteCount: 1, .readWrite),
            .init(.latencyTimer, "Latency Timer", at: 0x0d, byteCount: 1, .readOnly),
            .init(.headerType, "Header Type", at: 0x0e, byteCount: 1, .readOnly),
            .init(.selfTest, "BIST", at: 0x0f, byteCount: 1, .readOnly),
            .init(
                .subsystemVendorID, "Subsystem Vendor ID", at: 0x2c, byteCount: 2, reset: UInt64(subsystemVendorID),
                .readOnly),
            .init(.subsystemID, "Subsystem ID", at: 0x2e, byteCount: 2, reset: UInt64(subsystemID), .readOnly),
            .init(
                .capabilitiesPointer, "Capabilities Pointer", at: 0x34, byteCount: 1, reset: UInt64(firstCapability),
                .readOnly),
            .init(.interruptLine, "Interrupt Line", at: 0x3c, byteCount: 1, .readWrite),
            .init(
                .interruptPin, "Interrupt Pin", at: 0x3d, byteCount: 1, reset: hasInterruptPin ? 1 : 0, .readOnly),
        ]
        for bar in bars { registers.append(contentsOf: bar.registers) }
        return registers
    }

    private var commandRegister: RegisterDeclaration<ConfigurationRegister> {
        var fields: [RegisterField] = [
            .init("Bus Master Enable", 2, .readWrite), .init("Parity Error Response", 6, .readWrite),
            .init("SERR# Enable", 8, .readWrite),
        ]
        // An enable bit for a space that the function has no window in is hard-wired to zero.
        if bars.contains(where: { $0.space == .io }) { fields.append(.init("I/O Space Enable", 0, .readWrite)) }
        if bars.contains(where: { $0.space != .io }) { fields.append(.init("Memory Space Enable", 1, .readWrite)) }
        if hasInterruptPin { fields.append(.init("Interrupt Disable", 10, .readWrite)) }
        return .init(.command, "Command", at: 0x04, byteCount: 2, fields: fields, hooks: .write)
    }

    /// Capabilities beyond the first 256 bytes. PCI Express Base 5.0, 7.6.3 and 7.9.3
    fileprivate var extendedRegisters: [RegisterDeclaration<ConfigurationRegister>] {
        guard isExpress, let serialNumber else { return [] }
        let header = UInt64(ExtendedCapabilityID.deviceSerialNumber.rawValue) | 1 << 16
        return [
            .init(
                .extendedHeader(.deviceSerialNumber), "Device Serial Number Header", at: 0x100, byteCount: 4,
                reset: header,
                fields: [
                    .init("Capability ID", 0...15, .readOnly), .init("Version", 16...19, .readOnly),
                    .init("Next Offset", 20...31, .readOnly),
                ]),
            .init(
                .serialNumberLower, "Serial Number Lower", at: 0x104, byteCount: 4,
                reset: serialNumber & 0xffff_ffff, .readOnly),
            .init(
                .serialNumberUpper, "Serial Number Upper", at: 0x108, byteCount: 4, reset: serialNumber >> 32,
                .readOnly),
        ]
    }
}

extension BaseAddressRegister {
    /// The register, or pair of registers, through which software finds the window's size and sets its address: address
    /// bits below the size are hard-wired to zero.
    fileprivate var registers: [RegisterDeclaration<ConfigurationRegister>] {
        let offset = 0x10 + index * 4
        let sizeBit = byteCount.trailingZeroBitCount
        if space == .io {
            return [
                .init(
                    .bar(index), "BAR \(index)", at: offset, byteCount: 4, reset: 1,
                    fields: [.init("I/O Space", 0, .readOnly), .init("Address", sizeBit...31, .readWrite)])
            ]
        }
        var fields: [RegisterField] = [
            .init("I/O Space", 0, .readOnly), .init("Type", 1...2, .readOnly), .init("Prefetchable", 3, .readOnly),
        ]
        if sizeBit < 32 { fields.append(.init("Address", sizeBit...31, .readWrite)) }
        let type: UInt64 = space == .memory64 ? 0b100 : 0
        let lower = RegisterDeclaration<ConfigurationRegister>(
            .bar(index), "BAR \(index)", at: offset, byteCount: 4, reset: type | (isPrefetchable ? 0b1000 : 0),
            fields: fields)
        guard space == .memory64 else { return [lower] }
        let upper = RegisterDeclaration<ConfigurationRegister>(
            .barUpper(index), "BAR \(index) Upper", at: offset + 4, byteCount: 4,
            fields: [.init("Address", max(0, sizeBit - 32)...31, .readWrite)])
        return [lower, upper]
    }
}
