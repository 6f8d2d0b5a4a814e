/// A capability of the first 256 bytes of configuration space, ready to be linked into the list.
struct Capability {
    let id: CapabilityID
    /// Tells capabilities of the same kind apart.
    var number = 0
    let name: String
    let offset: Int
    /// Everything behind the two bytes of the header, which the list fills in.
    let registers: [RegisterDeclaration<ConfigurationRegister>]
}

extension PCIDescription {
    /// The function's capabilities in the order of their place, each at a multiple of four from 0x40 on.
    var capabilities: [Capability] {
        var found: [Capability] = []
        var offset = 0x40
        func append(_ byteCount: Int, _ make: (Int) -> Capability) {
            found.append(make(offset))
            offset += (byteCount + 3) & ~3
        }
        if hasPowerManagement { append(8) { .powerManagement(at: $0) } }
        if let msi { append(msi.hasMasking ? 24 : 14) { .msi(msi, at: $0) } }
        if let msix { append(12) { .msix(msix, at: $0) } }
        if isExpress { append(60) { .express(at: $0) } }
        for (number, vendor) in vendorCapabilities.enumerated() {
            append(vendor.byteCount) { .vendor(vendor, number: number, at: $0) }
        }
        precondition(offset <= 0x100, "the capabilities fit into the first 256 bytes")
        return found
    }
}

/// Bits of the power management control register. PCI Bus Power Management Interface 1.2, 3.2.4
enum PowerControl {
    static let state: UInt64 = 0b11
    static let d0: UInt64 = 0
    static let d3hot: UInt64 = 3
    static let noSoftReset: UInt64 = 1 << 3
}

/// Bits of the MSI control register. PCI Local Bus 3.0, 6.8.1.3
enum MSIControl {
    static let enable: UInt64 = 1 << 0
    static func allocatedVectors(_ control: UInt64) -> Int { 1 << min(5, Int(control >> 4 & 0b111)) }
}

/// Bits of the MSI-X control register. PCI Local Bus 3.0, 6.8.2.3
enum MSIXControl {
    static let functionMask: UInt64 = 1 << 14
    static let enable: UInt64 = 1 << 15
}

/// Bits of the PCI Express device control and status registers. PCI Express Base 5.0, 7.5.3.4 and 7.5.3.5
enum ExpressDevice {
    static let initiateFunctionLevelReset: UInt64 = 1 << 15
    static let transactionsPending: UInt64 = 1 << 5
}

extension Capability {
    /// D0 and D3hot, with everything kept across D3hot.
    static func powerManagement(at offset: Int) -> Capability {
        Capability(
            id: .powerManagement, name: "Power Management", offset: offset,
            registers: [
                .init(
                    .powerManagementCapabilities, "Power Management Capabilities", at: offset + 2, byteCount: 2,
                    reset: 3,
                    fields: [.init("Version", 0...2, .readOnly), .init("PME Support", 11...15, .readOnly)]),
                .init(
                    .powerManagementControl, "Power Management Control/Status", at: offset + 4, byteCount: 2,
                    reset: PowerControl.noSoftReset,
                    fields: [.init("Power State", 0...1, .readWrite), .init("No Soft Reset", 3, .readOnly)],
                    hooks: .write),
            ])
    }

    /// MSI with 64-bit addresses.
    static func msi(_ msi: MSIDescription, at offset: Int) -> Capability {
        let capable = UInt64(msi.vectorCount.trailingZeroBitCount)
        var registers: [RegisterDeclaration<ConfigurationRegister>] = [
            .init(
                .msiControl, "MSI Control", at: offset + 2, byteCount: 2,
                reset: capable << 1 | 1 << 7 | (msi.hasMasking ? 1 << 8 : 0),
                fields: [
                    .init("Enable", 0, .readWrite), .init("Multiple Message Capable", 1...3, .readOnly),
                    .init("Multiple Message Enable", 4...6, .readWrite), .init("64-bit Address", 7, .readOnly),
                    .init("Per-Vector Masking", 8, .readOnly),
                ], hooks: .write),
            .init(
                .msiAddress, "MSI Address", at: offset + 4, byteCount: 4,
                fields: [.init("Address", 2...31, .readWrite)]),
            .init(.msiUpperAddress, "MSI Upper Address", at: offset + 8, byteCount: 4, .readWrite),
            .init(.msiData, "MSI Data", at: offset + 12, byteCount: 2, .readWrite),
        ]
        if msi.hasMasking {
            let vectors = 0...(msi.vectorCount - 1)
            registers += [
                .init(
                    .msiMask, "MSI Mask", at: offset + 16, byteCount: 4,
                    fields: [.init("Mask", vectors, .readWrite)], hooks: .write),
                .init(
                    .msiPending, "MSI Pending", at: offset + 20, byteCount: 4,
                    fields: [.init("Pending", vectors, .readOnly)], hooks: .read),
            ]
        }
        return Capability(id: .msi, name: "MSI", offset: offset, registers: registers)
    }

    static func msix(_ msix: MSIXDescription, at offset: Int) -> Capability {
        func place(_ bar: Int, _ structure: UInt64) -> UInt64 { structure | UInt64(bar) }
        let fields: [RegisterField] = [.init("BIR", 0...2, .readOnly), .init("Offset", 3...31, .readOnly)]
        return Capability(
            id: .msix, name: "MSI-X", offset: offset,
            registers: [
                .init(
                    .msixControl, "MSI-X Control", at: offset + 2, byteCount: 2, reset: UInt64(msix.vectorCount - 1),
                    fields: [
                        .init("Table Size", 0...10, .readOnly), .init("Function Mask", 14, .readWrite),
                        .init("Enable", 15, .readWrite),
                    ], hooks: .write),
                .init(
                    .msixTable, "MSI-X Table", at: offset + 4, byteCount: 4,
                    reset: place(msix.tableBar, msix.tableOffset), fields: fields),
                .init(
                    .msixPending, "MSI-X Pending Bits", at: offset + 8, byteCount: 4,
                    reset: place(msix.pendingBar, msix.pendingOffset), fields: fields),
            ])
    }

    /// A version 2 endpoint on an 8 GT/s x4 link, with function-level reset. PCI Express Base 5.0, 7.5.3
    static func express(at offset: Int) -> Capability {
        let capabilities: [RegisterDeclaration<ConfigurationRegister>] = [
            .init(
                .expressCapabilities, "PCI Express Capabilities", at: offset + 2, byteCount: 2, reset: 2,
                fields: [.init("Version", 0...3, .readOnly), .init("Device/Port Type", 4...7, .readOnly)]),
            .init(
                .deviceCapabilities, "Device Capabilities", at: offset + 4, byteCount: 4,
                reset: 1 | 1 << 15 | 1 << 28,
                fields: [
                    .init("Max Payload Size Supported", 0...2, .readOnly),
                    .init("Role-Based Error Reporting", 15, .readOnly),
                    .init("Function Level Reset Capability", 28, .readOnly),
                ]),
            .init(
                .deviceControl, "Device Control", at: offset + 8, byteCount: 2, reset: 1 << 4 | 1 << 11 | 2 << 12,
                fields: [
                    .init("Correctable Error Reporting Enable", 0, .readWrite),
                    .init("Non-Fatal Error Reporting Enable", 1, .readWrite),
                    .init("Fatal Error Reporting Enable", 2, .readWrite),
                    .init("Unsupported Request Reporting Enable", 3, .readWrite),
                    .init("Enable Relaxed Ordering", 4, .readWrite), .init("Max Payload Size", 5...7, .readWrite),
                    .init("Enable No Snoop", 11, .readWrite), .init("Max Read Request Size", 12...14, .readWrite),
                    .init("Initiate Function Level Reset", 15, .writeOnly),
                ], hooks: .write),
            .init(
                .deviceStatus, "Device Status", at: offset + 10, byteCount: 2,
                fields: [
                    .init("Correctable Error Detected", 0, .writeOneToClear),
                    .init("Non-Fatal Error Detected", 1, .writeOneToClear),
                    .init("Fatal Error Detected", 2, .writeOneToClear),
                    .init("Unsupported Request Detected", 3, .writeOneToClear),
                    .init("Transactions Pending", 5, .readOnly),
                ], hooks: .read),
        ]
        let link: [RegisterDeclaration<ConfigurationRegister>] = [
            .init(
                .linkCapabilities, "Link Capabilities", at: offset + 12, byteCount: 4,
                reset: 3 | 4 << 4 | 1 << 22,
                fields: [
                    .init("Max Link Speed", 0...3, .readOnly), .init("Maximum Link Width", 4...9, .readOnly),
                    .init("ASPM Optionality Compliance", 22, .readOnly),
                ]),
            .init(
                .linkControl, "Link Control", at: offset + 16, byteCount: 2,
                fields: [
                    .init("ASPM Control", 0...1, .readWrite), .init("Read Completion Boundary", 3, .readWrite),
                    .init("Common Clock Configuration", 6, .readWrite), .init("Extended Synch", 7, .readWrite),
                ]),
            .init(
                .linkStatus, "Link Status", at: offset + 18, byteCount: 2, reset: 3 | 4 << 4,
                fields: [
                    .init("Current Link Speed", 0...3, .readOnly), .init("Negotiated Link Width", 4...9, .readOnly),
                ]),
        ]
        let second: [RegisterDeclaration<ConfigurationRegister>] = [
            .init(
                .deviceCapabilities2, "Device Capabilities 2", at: offset + 36, byteCount: 4, reset: 1 << 4,
                fields: [.init("Completion Timeout Disable Supported", 4, .readOnly)]),
            .init(
                .deviceControl2, "Device Control 2", at: offset + 40, byteCount: 2,
                fields: [.init("Completion Timeout Disable", 4, .readWrite)]),
            .init(
                .linkCapabilities2, "Link Capabilities 2", at: offset + 44, byteCount: 4, reset: 0b111 << 1,
                fields: [.init("Supported Link Speeds", 1...7, .readOnly)]),
            .init(
                .linkControl2, "Link Control 2", at: offset + 48, byteCount: 2, reset: 3,
                fields: [.init("Target Link Speed", 0...3, .readWrite)]),
        ]
        return Capability(
            id: .express, name: "PCI Express", offset: offset, registers: capabilities + link + second)
    }
}
