import LinuxHost

extension CheckItem {
    /// S64 to S72: what the device is.
    static let description: [CheckItem] = [
        CheckItem(
            64, "The device is a PCI device with 9 regions and 5 kinds of interrupts; the answer has 16 bytes.",
            in: "VFIO_USER_DEVICE_GET_INFO", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for argsz in [16, 32] as [UInt32] {
                let reply = try connection.succeed(
                    Number.getDeviceInfo, Payload.deviceInfo(argsz: argsz), replying: 16)
                guard reply.payload.u32(at: 4) & 2 != 0 else { throw connection.fails("the PCI flag", "\(reply)") }
                guard (8...100).contains(reply.payload.u32(at: 8)), (3...50).contains(reply.payload.u32(at: 12)) else {
                    throw connection.fails("9 regions and 5 kinds of interrupts, as PCI has", "\(reply)")
                }
            }
            try connection.refuse(Number.getDeviceInfo, Payload.deviceInfo(argsz: 15), because: "argsz 15")
            try connection.refuse(
                Number.getDeviceInfo, Array(Payload.deviceInfo().dropLast()), because: "a payload of 15 bytes")
        },
        CheckItem(
            65, "Every region is described, those that are absent by size 0.", in: "VFIO_USER_DEVICE_GET_REGION_INFO",
            for: [.qemu, .cloudHypervisor]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for index in 0..<UInt32(clamping: max(8, min(server.survey.regionCount, 64))) {
                let reply = try connection.succeed(
                    Number.getRegionInfo, Payload.regionInfo(index), because: "a region that PCI has")
                guard reply.payload.count >= 32, reply.payload.u32(at: 8) == index else {
                    throw connection.fails("region \(index)", "\(reply)")
                }
            }
        },
        CheckItem(
            66, "A region that does not exist, or a question that is too short, is refused.",
            in: "VFIO_USER_DEVICE_GET_REGION_INFO", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for index in [UInt32(clamping: server.survey.regionCount), server.absentRegion, .max] {
                try connection.refuse(
                    Number.getRegionInfo, Payload.regionInfo(index), because: "region \(index), which is not there")
            }
            try connection.refuse(Number.getRegionInfo, Payload.regionInfo(0, argsz: 31), because: "argsz 31")
            try connection.refuse(
                Number.getRegionInfo, Array(Payload.regionInfo(0).dropLast()), because: "a payload of 31 bytes")
        },
        CheckItem(
            67, "A region's answer is cut to its 32 bytes or sent whole, and says how many bytes it needs.",
            in: "VFIO_USER_DEVICE_GET_REGION_INFO", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for index in server.survey.regions.keys.sorted() {
                let short = try connection.succeed(Number.getRegionInfo, Payload.regionInfo(index), replying: 32)
                let full = short.payload.u32(at: 0)
                guard full >= 32, full <= 1 << 20 else { throw connection.fails("argsz from 32 on", "\(short)") }
                if full > 32, short.payload.u32(at: 4) & 8 != 0 || short.payload.u32(at: 12) != 0 {
                    throw connection.fails("no capabilities in an answer that has no room for them", "\(short)")
                }
                for argsz in [full, full + 100] {
                    let whole = try connection.succeed(
                        Number.getRegionInfo, Payload.regionInfo(index, argsz: argsz), replying: Int(full))
                    guard full > 32 else { continue }
                    guard whole.payload.u32(at: 4) & 8 != 0, whole.payload.u32(at: 12) == 32 else {
                        throw connection.fails("the capabilities flag and offset 32", "\(whole)")
                    }
                    _ = try RegionCapabilities(whole.payload, connection)
                }
            }
        },
        CheckItem(
            68, "A region that can be mapped comes with exactly one descriptor, on the header; any other with none.",
            in: "VFIO_USER_DEVICE_GET_REGION_INFO", for: [.qemu, .cloudHypervisor]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (index, region) in server.survey.regions.sorted(by: { $0.key < $1.key }) {
                let reply = try connection.call(
                    Number.getRegionInfo, Payload.regionInfo(index, argsz: max(32, region.fullSize)))
                let expected = region.isMappable ? 1 : 0
                guard reply.descriptors.count == expected, reply.strayDescriptors == 0 else {
                    throw connection.fails(
                        "\(expected) descriptors with the header",
                        "\(reply.descriptors.count), and \(reply.strayDescriptors) after it")
                }
            }
        },
        CheckItem(
            69, "Areas that can be mapped are pages in order, apart, inside their region and clear of the MSI-X table.",
            in: "VFIO_USER_DEVICE_GET_REGION_INFO", for: [.specification, .qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            var found = false
            for (index, region) in server.survey.regions.sorted(by: { $0.key < $1.key }) where region.isMappable {
                found = true
                let reply = try connection.succeed(
                    Number.getRegionInfo, Payload.regionInfo(index, argsz: max(32, region.fullSize)))
                var end: UInt64 = 0
                for area in try RegionCapabilities(reply.payload, connection).areas where area.size > 0 {
                    let (last, overflow) = area.offset.addingReportingOverflow(area.size)
                    guard !overflow, last <= region.size, area.offset % 4096 == 0, area.size % 4096 == 0,
                        area.offset >= end
                    else {
                        throw connection.fails(
                            "whole pages from \(end.hexadecimal) to \(region.size.hexadecimal)",
                            "\(area.size.hexadecimal) bytes at \(area.offset.hexadecimal)")
                    }
                    end = last
                    for (bar, place) in server.survey.vectorTables
                    where bar == index && place.lowerBound < last && area.offset < place.upperBound {
                        throw connection.fails(
                            "the MSI-X table at \(place.lowerBound.hexadecimal) left out",
                            "\(area.size.hexadecimal) bytes at \(area.offset.hexadecimal)")
                    }
                }
            }
            if !found { throw .notApplicable("no region can be mapped") }
        },
        CheckItem(
            70, "Regions of base address registers have sizes that are powers of two, configuration space 256 or 4096.",
            in: "what QEMU demands, hw/vfio", for: [.qemu]
        ) { (server) throws(Outcome) in
            let survey = server.survey
            let connection = try server.session()
            connection.note("DEVICE_GET_REGION_INFO of each")
            guard let size = survey.regions[Region.configuration]?.size, size == 256 || size == 4096 else {
                throw connection.fails(
                    "256 or 4096 bytes of configuration space",
                    "\(survey.regions[Region.configuration]?.size ?? 0)")
            }
            var isUpperHalf = false
            for bar in 0..<6 as Range<UInt32> {
                let size = survey.regions[bar]?.size ?? 0
                guard size.nonzeroBitCount <= 1, !isUpperHalf || size == 0 else {
                    throw connection.fails(
                        isUpperHalf ? "nothing in the second half of a 64-bit register" : "a power of two",
                        "\(size) bytes in region \(bar)")
                }
                let register = survey.configuration.u32(at: 0x10 + Int(bar) * 4)
                isUpperHalf = size > 0 && !isUpperHalf && register & 7 == 4
            }
        },
        CheckItem(
            71, "What can be mapped can be read by messages as well, and both see the same bytes.",
            in: "VFIO_USER_REGION_READ", for: [.specification]
        ) { (server) throws(Outcome) in try CheckItem.compareViews(server) },
        CheckItem(
            72,
            "A question for descriptors behind a region's accesses is refused when it makes no sense; an answer adds up.",
            in: "VFIO_USER_DEVICE_GET_REGION_IO_FDS", for: [.specification]
        ) { (server) throws(Outcome) in try CheckItem.checkIODescriptors(server) },
    ]

    private static func compareViews(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        var found = false
        for (index, region) in server.survey.regions.sorted(by: { $0.key < $1.key }) where region.isMappable {
            let reply = try connection.succeed(
                Number.getRegionInfo, Payload.regionInfo(index, argsz: max(32, region.fullSize)))
            guard let descriptor = reply.descriptors.first else { continue }
            for area in try RegionCapabilities(reply.payload, connection).areas where area.size >= 64 {
                let (start, overflow) = reply.payload.u64(at: 24).addingReportingOverflow(area.offset)
                guard !overflow, let first = Int(exactly: start), first <= 1 << 40 else { continue }
                found = true
                let mapped = try mappedBytes(descriptor, first, 64)
                let read = try connection.read(index, at: area.offset, count: 64)
                guard mapped == read else {
                    throw connection.fails("as in the mapping: \(mapped.hexadecimal())", read.hexadecimal())
                }
            }
        }
        if !found { throw .notApplicable("no region can be mapped") }
    }

    private static func checkIODescriptors(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        for (payload, reason) in [
            (Payload.ioDescriptors(0, argsz: 15), "argsz 15"), (Payload.ioDescriptors(0, flags: 1), "a flag"),
            (Payload.ioDescriptors(0, count: 1), "a count"),
            (Payload.ioDescriptors(server.absentRegion), "a region that is not there"),
            (Array(Payload.ioDescriptors(0).dropLast()), "a payload of 15 bytes"),
        ] {
            try connection.refuse(Number.getRegionIODescriptors, payload, because: reason)
        }
        for (index, region) in server.survey.regions.sorted(by: { $0.key < $1.key }) where region.size > 0 {
            let short = try connection.call(
                Number.getRegionIODescriptors, Payload.ioDescriptors(index, argsz: 16))
            // A server may know nothing of them.
            if short.error != nil { continue }
            let full = short.payload.u32(at: 0)
            guard short.payload.count == 16, full >= 16, full <= 1 << 20, short.descriptors.isEmpty || full == 16
            else { throw connection.fails("16 bytes, the size of the whole answer, and no descriptor", "\(short)") }
            let whole = try connection.succeed(
                Number.getRegionIODescriptors, Payload.ioDescriptors(index, argsz: full), replying: Int(full))
            try judgeIODescriptors(whole, region.size, connection)
        }
    }

    private static func judgeIODescriptors(
        _ reply: RawMessage, _ size: UInt64, _ connection: RawConnection
    ) throws(Outcome) {
        let payload = reply.payload
        let count = Int(payload.u32(at: 12))
        guard count <= (payload.count - 16) / 40, count > 0 || payload.count == 16 else {
            throw connection.fails("16 bytes and 40 or more for each entry", "\(reply)")
        }
        guard (count > 0) == !reply.descriptors.isEmpty else {
            throw connection.fails("descriptors as soon as there are entries", "\(reply)")
        }
        let stride = count == 0 ? 0 : (payload.count - 16) / count
        for number in 0..<count {
            let start = 16 + number * stride
            let (end, overflow) = payload.u64(at: start).addingReportingOverflow(payload.u64(at: start + 8))
            guard !overflow, end <= size, Int(payload.u32(at: start + 16)) < reply.descriptors.count else {
                throw connection.fails(
                    "an entry within its region and the message's descriptors",
                    payload[start..<start + 40].hexadecimal(atMost: 40))
            }
        }
    }
}

/// The capabilities of a region, taken apart.
struct RegionCapabilities {
    struct Area {
        let offset: UInt64
        let size: UInt64
    }

    /// What can be mapped: the areas named, or all of a region that names none.
    private(set) var areas: [Area]

    /// - Throws: when the chain leaves the message or goes backwards, or into the areas before: else a megabyte of
    ///   capabilities inside each other would be gigabytes of areas.
    init(_ payload: [UInt8], _ connection: RawConnection) throws(Outcome) {
        areas = [Area(offset: 0, size: payload.u64(at: 16))]
        guard payload.u32(at: 4) & 8 != 0 else { return }
        var offset = Int(payload.u32(at: 12))
        var floor = 32
        while offset != 0 {
            guard offset >= floor, offset <= payload.count - 8 else {
                throw connection.fails("a chain of capabilities that goes forward", "one that leads to \(offset)")
            }
            floor = offset + 8
            if payload.u16(at: offset) == 1 {
                let count = Int(payload.u32(at: offset + 8))
                guard count <= (payload.count - offset - 16) / 16 else {
                    throw connection.fails("as many areas as there is room for", "\(count)")
                }
                floor = offset + 16 + count * 16
                areas = (0..<count).map { number in
                    let start = offset + 16 + number * 16
                    return Area(offset: payload.u64(at: start), size: payload.u64(at: start + 8))
                }
            }
            offset = Int(payload.u32(at: offset + 4))
        }
    }
}

extension Survey {
    /// Which parts of which regions the MSI-X table and its pending bits take.
    var vectorTables: [(bar: UInt32, place: Range<UInt64>)] {
        guard let offset = capability(0x11), offset + 12 <= configuration.count else { return [] }
        let count = UInt64(configuration.u16(at: offset + 2) & 0x7ff) + 1
        let (table, pending) = (configuration.u32(at: offset + 4), configuration.u32(at: offset + 8))
        func place(_ register: UInt32, _ byteCount: UInt64) -> (bar: UInt32, place: Range<UInt64>) {
            let first = UInt64(register & ~7)
            return (register & 7, first..<first + byteCount)
        }
        return [place(table, count * 16), place(pending, (count + 63) / 64 * 8)]
    }
}
