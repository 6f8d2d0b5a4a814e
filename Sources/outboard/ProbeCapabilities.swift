/// The capabilities one by one, in the words of `lspci -vv`.
extension ConfigurationPicture {
    private func flag(_ name: String, _ isSet: Bool) -> String { name + (isSet ? "+" : "-") }

    func capability(at offset: Int) -> Capability {
        let id = UInt16(u8(offset))
        var found = Capability(
            offset: offset, id: id, isExtended: false, name: Self.names[id] ?? "#\(hexadecimal(id)) [unknown]")
        switch id {
        case 0x01: describePowerManagement(&found)
        case 0x05: describeMSI(&found)
        case 0x09: found.summary = "Len=\(hexadecimal(u8(offset + 2)))"
        case 0x10: describeExpress(&found)
        case 0x11: describeMSIX(&found)
        default: break
        }
        return found
    }

    func extendedCapability(at offset: Int) -> Capability {
        let header = u32(offset)
        let id = UInt16(truncatingIfNeeded: header)
        var found = Capability(
            offset: offset, id: id, isExtended: true, version: UInt8(header >> 16 & 15),
            name: Self.extendedNames[id] ?? "Extended capability #\(hexadecimal(id, digits: 4)) [unknown]")
        switch id {
        case 0x0003:
            let serial = number(at: offset + 4, 8)
            found.summary = (0..<8).map { hexadecimal(serial >> UInt64(56 - $0 * 8) & 0xff) }.joined(separator: "-")
        case 0x000b:
            let vendor = u32(offset + 4)
            found.summary =
                "ID=\(hexadecimal(vendor & 0xffff, digits: 4)) Rev=\(vendor >> 16 & 0xf) Len=\(vendor >> 20)"
        default: break
        }
        return found
    }

    private func describePowerManagement(_ found: inout Capability) {
        let (capabilities, control) = (u16(found.offset + 2), u16(found.offset + 4))
        found.summary = "version \(capabilities & 7)"
        let states = ["D0", "D1", "D2", "D3hot", "D3cold"].enumerated().map { number, name in
            flag(name, capabilities >> (11 + number) & 1 != 0)
        }
        let d1 = flag("D1", capabilities & 1 << 9 != 0)
        let d2 = flag("D2", capabilities & 1 << 10 != 0)
        found.details = [
            "Flags: PMEClk\(flag("", capabilities & 8 != 0)) DSI\(flag("", capabilities & 32 != 0)) \(d1) \(d2) "
                + "PME(\(states.joined(separator: ",")))",
            "Status: D\(control & 3) \(flag("NoSoftRst", control & 8 != 0)) "
                + "\(flag("PME-Enable", control & 1 << 8 != 0)) \(flag("PME", control >> 15 != 0))",
        ]
    }

    private func describeMSI(_ found: inout Capability) {
        let control = u16(found.offset + 2)
        let is64Bit = control & 1 << 7 != 0
        found.summary = [
            flag("Enable", control & 1 != 0), "Count=\(1 << (control >> 4 & 7))/\(1 << (control >> 1 & 7))",
            flag("Maskable", control & 1 << 8 != 0), flag("64bit", is64Bit),
        ].joined(separator: " ")
        let address = number(at: found.offset + 4, is64Bit ? 8 : 4)
        let data = u16(found.offset + (is64Bit ? 12 : 8))
        found.details = [
            "Address: \(hexadecimal(address, digits: is64Bit ? 16 : 8))  Data: \(hexadecimal(data, digits: 4))"
        ]
        if control & 1 << 8 != 0 {
            let masking = found.offset + (is64Bit ? 16 : 12)
            found.details.append(
                "Masking: \(hexadecimal(u32(masking), digits: 8))  "
                    + "Pending: \(hexadecimal(u32(masking + 4), digits: 8))")
        }
    }

    private func describeMSIX(_ found: inout Capability) {
        let control = u16(found.offset + 2)
        found.summary = [
            flag("Enable", control >> 15 != 0), "Count=\(control & 0x7ff + 1)", flag("Masked", control & 1 << 14 != 0),
        ].joined(separator: " ")
        for (name, place) in [("Vector table", 4), ("PBA", 8)] {
            let register = u32(found.offset + place)
            found.details.append("\(name): BAR=\(register & 7) offset=\(hexadecimal(register & ~7, digits: 8))")
        }
    }

    private func describeExpress(_ found: inout Capability) {
        let start = found.offset
        let capabilities = u16(start + 2)
        let kinds: [UInt16: String] = [
            0: "Endpoint", 1: "Legacy Endpoint", 4: "Root Port", 5: "Upstream Port", 6: "Downstream Port",
            9: "Root Complex Integrated Endpoint", 10: "Root Complex Event Collector",
        ]
        found.summary = "(v\(capabilities & 15)) \(kinds[capabilities >> 4 & 15] ?? "unknown type")"
        let (device, control, status) = (u32(start + 4), u16(start + 8), u16(start + 10))
        let (link, linkControl, linkStatus) = (u32(start + 12), u16(start + 16), u16(start + 18))
        found.details = [
            "DevCap: MaxPayload \(128 << (device & 7)) bytes, \(flag("ExtTag", device & 32 != 0)) "
                + "\(flag("RBE", device & 1 << 15 != 0)) \(flag("FLReset", device & 1 << 28 != 0))",
            "DevCtl: CorrErr\(flag("", control & 1 != 0)) NonFatalErr\(flag("", control & 2 != 0)) "
                + "FatalErr\(flag("", control & 4 != 0)) UnsupReq\(flag("", control & 8 != 0)) "
                + "\(flag("RlxdOrd", control & 16 != 0)) \(flag("NoSnoop", control & 1 << 11 != 0)) "
                + "MaxPayload \(128 << Int(control >> 5 & 7)) bytes, MaxReadReq \(128 << Int(control >> 12 & 7)) bytes",
            "DevSta: CorrErr\(flag("", status & 1 != 0)) NonFatalErr\(flag("", status & 2 != 0)) "
                + "FatalErr\(flag("", status & 4 != 0)) UnsupReq\(flag("", status & 8 != 0)) "
                + "TransPend\(flag("", status & 32 != 0))",
            "LnkCap: Speed \(Self.speed(UInt16(link & 15))), Width x\(link >> 4 & 63)",
            "LnkCtl: ASPM \(linkControl & 3 == 0 ? "Disabled" : "Enabled"), CommClk\(flag("", linkControl & 64 != 0))",
            "LnkSta: Speed \(Self.speed(linkStatus & 15)), Width x\(linkStatus >> 4 & 63)",
        ]
    }

    private static func speed(_ code: UInt16) -> String {
        let speeds: [UInt16: String] = [1: "2.5GT/s", 2: "5GT/s", 3: "8GT/s", 4: "16GT/s", 5: "32GT/s", 6: "64GT/s"]
        return speeds[code] ?? "unknown"
    }

    private static let names: [UInt16: String] = [
        0x01: "Power Management", 0x03: "Vital Product Data", 0x05: "MSI", 0x09: "Vendor Specific Information",
        0x0a: "Debug port", 0x0d: "Subsystem", 0x10: "Express", 0x11: "MSI-X", 0x12: "SATA HBA",
        0x13: "PCI Advanced Features", 0x14: "Enhanced Allocation (EA)",
    ]

    private static let extendedNames: [UInt16: String] = [
        0x0001: "Advanced Error Reporting", 0x0002: "Virtual Channel", 0x0003: "Device Serial Number",
        0x000b: "Vendor Specific Information", 0x000d: "Access Control Services", 0x000e: "Alternative Routing-ID",
        0x000f: "Address Translation Service (ATS)", 0x0010: "Single Root I/O Virtualization (SR-IOV)",
        0x0013: "Page Request Interface (PRI)", 0x0015: "Physical Resizable BAR", 0x0018: "Latency Tolerance Reporting",
        0x0019: "Secondary PCI Express", 0x001b: "Process Address Space ID (PASID)", 0x001e: "L1 PM Substates",
        0x001f: "Precision Time Measurement",
    ]

    /// The plain names of the classes that a backend is likely to serve.
    var className: String {
        let classes: [UInt16: String] = [
            0x0100: "SCSI storage controller", 0x0101: "IDE interface", 0x0104: "RAID bus controller",
            0x0106: "SATA controller", 0x0108: "Non-Volatile memory controller", 0x0180: "Mass storage controller",
            0x0200: "Ethernet controller", 0x0280: "Network controller", 0x0300: "VGA compatible controller",
            0x0302: "3D controller", 0x0380: "Display controller", 0x0403: "Audio device",
            0x0500: "RAM memory", 0x0580: "Memory controller", 0x0700: "Serial controller",
            0x0780: "Communication controller", 0x0880: "System peripheral", 0x0980: "Input device controller",
            0x0c03: "USB controller", 0x0c05: "SMBus", 0x1000: "Network and computing encryption device",
            0x1080: "Encryption controller", 0x1200: "Processing accelerators",
        ]
        if let name = classes[classCode] { return name }
        switch classCode >> 8 {
        case 0x00: return "Unclassified device"
        case 0x01: return "Storage controller"
        case 0x02: return "Network controller"
        case 0xff: return "Unassigned class"
        default: return "Class"
        }
    }
}
