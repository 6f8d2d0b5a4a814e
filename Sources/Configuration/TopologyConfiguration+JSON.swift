import JSONText
import PCITopology

extension TopologyConfiguration {
    init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        var taken = TakenNames()
        guard let iommu = try members.object("iommu") else { throw ConfigurationError("iommu", "is missing") }
        self.iommu = try IOMMU(iommu, &taken)
        guard let readers = try members.objects("devices", "must be an array of 1 to 64 devices") else {
            throw ConfigurationError("devices", "is missing")
        }
        guard TopologyConfiguration.deviceCounts.contains(readers.count) else {
            throw ConfigurationError("devices", "must be an array of 1 to 64 devices")
        }
        devices = []
        for reader in readers { devices.append(try Member(reader, &taken)) }
        try members.finish()
    }
}

extension TopologyConfiguration.IOMMU {
    fileprivate init(_ reader: MemberReader, _ taken: inout TakenNames) throws(ConfigurationError) {
        var members = reader
        self.init(
            address: try members.address(&taken), socketPath: try members.socketPath(&taken),
            options: try members.object("options").map(IOMMUOptions.init) ?? IOMMUOptions())
        name = try members.name(&taken, default: name)
        try members.finish()
    }
}

extension TopologyConfiguration.Member {
    fileprivate init(_ reader: MemberReader, _ taken: inout TakenNames) throws(ConfigurationError) {
        var members = reader
        let device = try DeviceConfiguration.Device(&members)
        self.init(
            address: try members.address(&taken), socketPath: try members.socketPath(&taken), device: device)
        name = try members.name(&taken, default: name)
        isBehindIOMMU = try members.optional("behindIOMMU", "must be true or false") { $0.boolean } ?? true
        try readReservedRegions(&members)
        try members.finish()
    }

    private mutating func readReservedRegions(_ members: inout MemberReader) throws(ConfigurationError) {
        let requirement = "must be an array of at most \(TopologyConfiguration.maximumReservedRegions) regions"
        let readers = try members.objects("reservedRegions", requirement) ?? []
        guard readers.count <= TopologyConfiguration.maximumReservedRegions else {
            throw ConfigurationError(members.path(to: "reservedRegions"), requirement)
        }
        for (index, reader) in readers.enumerated() {
            let region = try TopologyConfiguration.ReservedRegion(reader)
            let path = members.path(to: "reservedRegions[\(index)]")
            if reservedRegions.contains(where: { $0.overlaps(region) }) {
                throw ConfigurationError(path, "overlaps one before it")
            }
            if region.overlaps(TopologyConfiguration.interruptMessages) {
                throw ConfigurationError(path, "overlaps that of interrupts, 0xfee00000 to 0xfeefffff, which always is")
            }
            reservedRegions.append(region)
        }
        if !reservedRegions.isEmpty && !isBehindIOMMU {
            throw ConfigurationError(members.path(to: "reservedRegions"), "is for devices behind the IOMMU")
        }
    }
}

extension TopologyConfiguration.ReservedRegion {
    fileprivate init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        let requirement = "must be an address: a whole number, or a text like \"0x8000000\""
        first = try members.required("first", requirement) { $0.ioAddress }
        last = try members.required("last", requirement) { $0.ioAddress }
        guard first <= last else { throw ConfigurationError(members.path(to: "last"), "must not be before first") }
        try members.finish()
    }
}

extension IOMMUOptions {
    fileprivate init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        self.init()
        bootBypass = try members.optional("bootBypass", "must be true or false") { $0.boolean }
        granule = try members.optional("granule", "must be 4096, 8192, 16384 or 65536 bytes") {
            $0.wholeNumber.flatMap { UInt64(exactly: $0) }.flatMap { IOMMUOptions.granules.contains($0) ? $0 : nil }
        }
        addressBits = try members.optional("addressBits", "must be 32 to 64 bits") {
            $0.count(in: IOMMUOptions.addressWidths)
        }
        maxMappings = try members.optional("maxMappings", "must be 1 to 16777216") {
            $0.count(in: IOMMUOptions.mappingCounts)
        }
        try members.finish()
    }
}

/// What one member has and no other may have.
private struct TakenNames {
    var addresses: Set<PCIAddress> = []
    var socketPaths: Set<String> = []
    var names: Set<String> = []
}

extension MemberReader {
    fileprivate mutating func address(_ taken: inout TakenNames) throws(ConfigurationError) -> PCIAddress {
        let requirement = "must be a PCI address such as 00:04.0, in segment 0"
        let address = try required("address", requirement) { $0.string.flatMap { PCIAddress($0) } }
        guard taken.addresses.insert(address).inserted else {
            throw ConfigurationError(path(to: "address"), "\(address) is taken already")
        }
        return address
    }

    fileprivate mutating func socketPath(_ taken: inout TakenNames) throws(ConfigurationError) -> String {
        let socketPath = try required("socketPath", socketPathRequirement) { $0.socketPath }
        guard taken.socketPaths.insert(socketPath).inserted else {
            throw ConfigurationError(path(to: "socketPath"), "is taken already")
        }
        return socketPath
    }

    fileprivate mutating func name(
        _ taken: inout TakenNames, default standard: String
    ) throws(ConfigurationError) -> String {
        let requirement = "must be 1 to 32 ASCII letters, digits, dots, dashes and underscores, a letter or digit first"
        let name = try optional("name", requirement) { $0.memberName } ?? standard
        guard taken.names.insert(name).inserted else { throw ConfigurationError(path(to: "name"), "is taken already") }
        return name
    }
}

extension JSONValue {
    /// A name that is good for a part of a file's name.
    fileprivate var memberName: String? {
        string.flatMap { text in
            let isAllowed = text.utf8.allSatisfy { $0.isLetterOrDigit || "._-".utf8.contains($0) }
            let isBegun = text.utf8.first?.isLetterOrDigit ?? false
            return isAllowed && isBegun && text.utf8.count <= TopologyConfiguration.maximumNameLength ? text : nil
        }
    }

    fileprivate var ioAddress: UInt64? {
        guard let string else { return wholeNumber.flatMap { UInt64(exactly: $0) } }
        let digits = string.dropFirst(2)
        guard string.hasPrefix("0x"), (1...16).contains(digits.utf8.count), digits.allSatisfy(\.isHexDigit) else {
            return nil
        }
        return UInt64(digits, radix: 16)
    }
}

extension UInt8 {
    fileprivate var isLetterOrDigit: Bool {
        switch self {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "a")...UInt8(ascii: "z"):
            true
        default: false
        }
    }
}
