import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserWire

/// The report as `lspci -vv` would print it, and below that what only vfio-user has.
extension ProbeReport {
    var text: String {
        (functionLines + regionLines + interruptLines + protocolLines + complaintLines).joined(separator: "\n")
    }

    private static func flags(_ bits: some Sequence<(name: String, bit: Int)>, _ value: UInt16) -> String {
        bits.map { $0.name + (value >> $0.bit & 1 != 0 ? "+" : "-") }.joined(separator: " ")
    }

    private var functionLines: [String] {
        let space = configuration
        guard !space.bytes.isEmpty else { return ["no configuration space"] }
        let (vendor, device) = (hexadecimal(space.vendorID, digits: 4), hexadecimal(space.deviceID, digits: 4))
        var first = "\(space.className) [\(hexadecimal(space.classCode, digits: 4))]: Device [\(vendor):\(device)]"
        if space.revision != 0 { first += " (rev \(hexadecimal(space.revision)))" }
        if space.interface != 0 { first += " (prog-if \(hexadecimal(space.interface)))" }
        var lines = [first]
        if space.subsystemVendorID != 0 {
            lines.append(
                "\tSubsystem: Device [\(hexadecimal(space.subsystemVendorID, digits: 4)):"
                    + "\(hexadecimal(space.subsystemID, digits: 4))]")
        }
        lines.append("\tControl: \(Self.flags(Self.controlBits, space.command))")
        let timing = ["fast", "medium", "slow", "?"][Int(space.status >> 9 & 3)]
        lines.append(
            "\tStatus: \(Self.flags(Self.statusBits.prefix(5), space.status)) DEVSEL=\(timing) "
                + Self.flags(Self.statusBits.dropFirst(5), space.status))
        if (1...4).contains(space.interruptPin) {
            let pin = ["A", "B", "C", "D"][Int(space.interruptPin) - 1]
            lines.append("\tInterrupt: pin \(pin) routed to IRQ \(space.interruptLine)")
        }
        return lines + addressLines + capabilityLines
    }

    private var addressLines: [String] {
        var lines: [String] = []
        for bar in baseAddresses {
            let size = Self.size(bar.size)
            if bar.isPort {
                lines.append(
                    "\tRegion \(bar.number): I/O ports at \(hexadecimal(bar.address, digits: 4)) [size=\(size)]")
            } else {
                let address = hexadecimal(bar.address, digits: bar.is64Bit ? 16 : 8)
                let kind = bar.is64Bit ? "64-bit" : "32-bit"
                lines.append(
                    "\tRegion \(bar.number): Memory at \(address) (\(kind), "
                        + "\(bar.isPrefetchable ? "" : "non-")prefetchable) [size=\(size)]")
            }
        }
        if size(ofRegion: PCIRegion.expansionROM) > 0 {
            lines.append("\tExpansion ROM [size=\(Self.size(size(ofRegion: PCIRegion.expansionROM)))]")
        }
        return lines
    }

    private var capabilityLines: [String] {
        configuration.capabilities.flatMap { capability in
            let place = hexadecimal(capability.offset, digits: capability.isExtended ? 3 : 2)
            let separator = capability.id == 0x05 || capability.id == 0x11 || capability.id == 0x09 ? ": " : " "
            let summary =
                capability.summary.isEmpty ? "" : (capability.isExtended ? " " : separator) + capability.summary
            let version = capability.isExtended ? " v\(capability.version)" : ""
            return ["\tCapabilities: [\(place)\(version)] \(capability.name)\(summary)"]
                + capability.details.map { "\t\t\($0)" }
        }
    }

    private var regionLines: [String] {
        var lines = ["Regions:"]
        for (index, description) in regions.enumerated() {
            let name = "\(index) \(Self.regionName(index))"
            switch description {
            case .refused(let error): lines.append("\t\(name): refused with error \(error)")
            case .known(let info) where info.size == 0: lines.append("\t\(name): absent")
            case .known(let info):
                var words = ["\(info.size) bytes"]
                if info.flags.contains(.read) { words.append("read") }
                if info.flags.contains(.write) { words.append("write") }
                if info.flags.contains(.mappable) { words.append("mmap") }
                lines.append("\t\(name): \(words.joined(separator: ", "))")
                for area in info.mappableAreas {
                    lines.append("\t\tmappable: \(area.size) bytes at 0x\(hexadecimal(area.offset))")
                }
            }
        }
        return lines
    }

    private var interruptLines: [String] {
        var lines = ["Interrupts:"]
        for (index, description) in interrupts.enumerated() {
            let name = "\(index) \(Self.interruptName(index))"
            switch description {
            case .refused(let error): lines.append("\t\(name): refused with error \(error)")
            case .known(let info):
                let flags = Self.interruptFlags.filter { info.flags.contains($0.flag) }.map(\.name)
                lines.append(
                    "\t\(name): "
                        + (["\(info.vectorCount) \(info.vectorCount == 1 ? "vector" : "vectors")"] + flags).joined(
                            separator: ", "))
            }
        }
        return lines
    }

    private var protocolLines: [String] {
        var lines = [
            "vfio-user \(agreement.version.major).\(agreement.version.minor):",
            "\tmessages: \(agreement.sending.maximumMessageDescriptors) descriptors, "
                + "\(agreement.sending.maximumTransferSize) bytes of data",
            "\tDMA: \(agreement.maximumDMAMappings) mappings, page sizes 0x\(hexadecimal(agreement.pageSizes.rawValue))",
            "\twrite_multiple: \(agreement.writeMultiple ? "yes" : "no")",
            "\ttwin_socket: \(agreement.twinSocketDescriptorIndex == nil ? "no" : "yes")",
            "\treset: \(device.flags.contains(.reset) ? "yes" : "no")",
        ]
        for feature in features {
            lines.append("\tfeature \(feature.number) \(feature.name): \(feature.isOffered ? "yes" : "no")")
        }
        return lines
    }

    private var complaintLines: [String] {
        let all = configuration.complaints + complaints
        return all.isEmpty ? [] : ["Wrong:"] + all.map { "\t\($0)" }
    }

    /// As `lspci` writes sizes.
    private static func size(_ byteCount: UInt64) -> String {
        for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] as [(String, UInt64)] {
            if byteCount >> shift > 0, byteCount & (1 << shift - 1) == 0 { return "\(byteCount >> shift)\(unit)" }
        }
        return "\(byteCount)"
    }
}
