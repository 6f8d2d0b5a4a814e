import JSONText
import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserWire

/// The report as `schemas/probe.schema.json` describes it. Numbers are numbers; nothing has to be parsed again.
extension ProbeReport {
    var json: JSONValue {
        .object([
            .init("protocol", protocolJSON), .init("function", functionJSON),
            .init("regions", .array(regions.enumerated().map { Self.json($0, $1) })),
            .init("interrupts", .array(interrupts.enumerated().map { Self.json($0, $1) })),
            .init(
                "complaints", .array((configuration.complaints + complaints).map { .string($0) })),
        ])
    }

    private static func whole(_ number: some BinaryInteger) -> JSONValue { .integer(Int128(number)) }

    private static func flags(_ bits: [(name: String, bit: Int)], _ value: UInt16) -> JSONValue {
        .object(bits.map { .init($0.name, .boolean(value >> $0.bit & 1 != 0)) })
    }

    private var protocolJSON: JSONValue {
        .object([
            .init("major", Self.whole(agreement.version.major)), .init("minor", Self.whole(agreement.version.minor)),
            .init("max_msg_fds", Self.whole(agreement.sending.maximumMessageDescriptors)),
            .init("max_data_xfer_size", Self.whole(agreement.sending.maximumTransferSize)),
            .init("max_dma_maps", Self.whole(agreement.maximumDMAMappings)),
            .init("pgsizes", Self.whole(agreement.pageSizes.rawValue)),
            .init("write_multiple", .boolean(agreement.writeMultiple)),
            .init("twin_socket", .boolean(agreement.twinSocketDescriptorIndex != nil)),
            .init("reset", .boolean(device.flags.contains(.reset))),
            .init("pci", .boolean(device.flags.contains(.pci))),
            .init(
                "features",
                .array(
                    features.map { feature in
                        .object([
                            .init("number", Self.whole(feature.number)), .init("name", .string(feature.name)),
                            .init("offered", .boolean(feature.isOffered)),
                        ])
                    })),
        ])
    }

    private var functionJSON: JSONValue {
        let space = configuration
        guard !space.bytes.isEmpty else { return .null }
        return .object([
            .init("vendor", Self.whole(space.vendorID)), .init("device", Self.whole(space.deviceID)),
            .init("subsystem_vendor", Self.whole(space.subsystemVendorID)),
            .init("subsystem", Self.whole(space.subsystemID)), .init("revision", Self.whole(space.revision)),
            .init("class", Self.whole(space.classCode)), .init("class_name", .string(space.className)),
            .init("interface", Self.whole(space.interface)), .init("interrupt_pin", Self.whole(space.interruptPin)),
            .init("control", Self.flags(Self.controlBits, space.command)),
            .init("status", Self.flags(Self.statusBits, space.status)),
            .init("base_addresses", .array(baseAddresses.map(Self.json))),
            .init("capabilities", .array(space.capabilities.map(Self.json))),
        ])
    }

    private static func json(_ bar: ConfigurationPicture.BaseAddress) -> JSONValue {
        .object([
            .init("number", whole(bar.number)), .init("kind", .string(bar.isPort ? "ports" : "memory")),
            .init("64_bit", .boolean(bar.is64Bit)), .init("prefetchable", .boolean(bar.isPrefetchable)),
            .init("address", whole(bar.address)), .init("size", whole(bar.size)),
        ])
    }

    private static func json(_ capability: ConfigurationPicture.Capability) -> JSONValue {
        var members: [JSONValue.Member] = [
            .init("offset", whole(capability.offset)), .init("id", whole(capability.id)),
            .init("extended", .boolean(capability.isExtended)),
        ]
        if capability.isExtended { members.append(.init("version", whole(capability.version))) }
        members += [
            .init("name", .string(capability.name)), .init("summary", .string(capability.summary)),
            .init("details", .array(capability.details.map { .string($0) })),
        ]
        return .object(members)
    }

    private static func json(_ index: Int, _ description: Description<RegionInfo>) -> JSONValue {
        var members: [JSONValue.Member] = [
            .init("index", whole(index)), .init("name", .string(regionName(index))),
        ]
        switch description {
        case .refused(let error): members.append(.init("error", whole(error)))
        case .known(let info):
            members += [
                .init("size", whole(info.size)), .init("read", .boolean(info.flags.contains(.read))),
                .init("write", .boolean(info.flags.contains(.write))),
                .init("mmap", .boolean(info.flags.contains(.mappable))),
                .init(
                    "areas",
                    .array(
                        info.mappableAreas.map {
                            .object([.init("offset", whole($0.offset)), .init("size", whole($0.size))])
                        })),
            ]
        }
        return .object(members)
    }

    private static func json(_ index: Int, _ description: Description<InterruptInfo>) -> JSONValue {
        var members: [JSONValue.Member] = [
            .init("index", whole(index)), .init("name", .string(interruptName(index))),
        ]
        switch description {
        case .refused(let error): members.append(.init("error", whole(error)))
        case .known(let info):
            members.append(.init("vectors", whole(info.vectorCount)))
            members += interruptFlags.map { .init($0.name, .boolean(info.flags.contains($0.flag))) }
        }
        return .object(members)
    }
}
