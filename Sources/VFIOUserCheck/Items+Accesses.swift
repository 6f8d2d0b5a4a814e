import JSONText
import LinuxHost

extension CheckItem {
    /// S90 to S98: reading and writing regions.
    static let accesses: [CheckItem] = [
        CheckItem(
            90, "Accesses of 1, 2, 4 and 8 bytes work at any offset; a write's reply has no data.",
            in: "VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let configuration = try connection.read(Region.configuration, at: 0, count: 64)
            for (offset, width) in [(0, 1), (1, 1), (2, 2), (0, 4), (3, 1), (1, 2), (8, 4), (0, 8), (0x2c, 4)] {
                let request = Payload.read(Region.configuration, at: UInt64(offset), count: UInt32(width))
                let reply = try connection.succeed(Number.readRegion, request, replying: 16 + width)
                guard Array(reply.payload[..<16]) == request,
                    Array(reply.payload[16...]) == Array(configuration[offset..<offset + width])
                else {
                    throw connection.fails(
                        "the request again and \(configuration[offset..<offset + width].hexadecimal())", "\(reply)")
                }
            }
            let (offset, value) = try server.scratchByte(connection)
            let write = Payload.write(Region.configuration, at: offset, [value])
            let reply = try connection.succeed(Number.writeRegion, write, replying: 16)
            guard reply.payload == Array(write[..<16]) else {
                throw connection.fails("the request's first 16 bytes again", "\(reply)")
            }
        },
        CheckItem(
            91, "All of configuration space is read in one message.", in: "what QEMU reads at start", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let size = server.survey.regions[Region.configuration]?.size ?? 0
            guard size > 0 else { throw .notApplicable("there is no configuration space") }
            let count = UInt32(min(size, 4096))
            let data = try connection.read(Region.configuration, at: 0, count: count)
            guard data.u16(at: 0) != 0xffff else { throw connection.fails("a vendor", data.hexadecimal()) }
        },
        CheckItem(
            92, "An access outside of a region, of too much, or whose data are not what it says, is refused.",
            in: "VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE", for: [.specification]
        ) { (server) throws(Outcome) in try CheckItem.refuseAccesses(server) },
        CheckItem(
            93, "An access of no bytes succeeds.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (command, payload) in [
                (Number.readRegion, Payload.read(Region.configuration, at: 0, count: 0)),
                (Number.writeRegion, Payload.write(Region.configuration, at: 0, [])),
            ] {
                let reply = try connection.succeed(command, payload, because: "no bytes")
                guard reply.payload.isEmpty || reply.payload.count == 16 else {
                    throw connection.fails("16 bytes of payload, or none", "\(reply)")
                }
            }
        },
        CheckItem(
            94, "Base address registers tell their sizes, and what is read-only does not change.",
            in: "PCI Local Bus 3.0, 6.2.5.1", for: [.qemu, .cloudHypervisor]
        ) { (server) throws(Outcome) in try CheckItem.sizeRegisters(server) },
        CheckItem(
            95, "A read after posted writes sees them.", in: "Command Concurrency", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (offset, value) = try server.scratchByte(connection)
            for number in 0..<50 as Range<UInt8> {
                try connection.post(
                    Number.writeRegion, Payload.write(Region.configuration, at: offset, [number]))
                guard try connection.readNumber(Region.configuration, at: offset, byteCount: 1) == UInt64(number)
                else { throw connection.fails("the \(number) that was posted before", "another number") }
            }
            try connection.write(Region.configuration, at: offset, [value])
        },
        CheckItem(
            96, "Many writes in one message are done in order, counted, and refused when they do not add up.",
            in: "VFIO_USER_REGION_WRITE_MULTI", for: [.qemu, .specification]
        ) { (server) throws(Outcome) in
            guard server.survey.capabilities["write_multiple"]?.boolean == true else {
                throw .notApplicable("the server does not take them")
            }
            try CheckItem.writeMany(server)
        },
        CheckItem(
            97, "The pending bits of MSI-X can be read, and there are none past the last vector.",
            in: "what QEMU forwards", for: [.qemu]
        ) { (server) throws(Outcome) in
            let tables = server.survey.vectorTables
            guard tables.count == 2 else { throw .notApplicable("the device has no MSI-X") }
            let (bar, place) = tables[1]
            let connection = try server.session()
            guard place.upperBound <= server.survey.regions[bar]?.size ?? 0 else {
                throw connection.fails(
                    "the pending bits inside region \(bar)", "bits at \(place.lowerBound.hexadecimal)")
            }
            let vectors = (tables[0].place.upperBound - tables[0].place.lowerBound) / 16
            var bit: UInt64 = 0
            for offset in stride(from: place.lowerBound, to: place.upperBound, by: 8) {
                let word = try connection.readNumber(bar, at: offset, byteCount: 8)
                for position in 0..<64 as Range<UInt64> {
                    if bit >= vectors, word >> position & 1 != 0 {
                        throw connection.fails("no bit past vector \(vectors - 1)", "bit \(bit)")
                    }
                    bit += 1
                }
            }
        },
        CheckItem(
            98, "A region that cannot be read, or not written, refuses to be; configuration space can be both.",
            in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            connection.note("DEVICE_GET_REGION_INFO of region 7")
            guard let space = server.survey.regions[Region.configuration], space.isReadable, space.isWritable else {
                throw connection.fails("a configuration space to read and write", "another")
            }
            var found = false
            for (index, region) in server.survey.regions.sorted(by: { $0.key < $1.key }) where region.size >= 4 {
                if !region.isReadable {
                    found = true
                    try connection.refuse(
                        Number.readRegion, Payload.read(index, at: 0, count: 4), because: "a region not to be read")
                }
                if !region.isWritable {
                    found = true
                    try connection.refuse(
                        Number.writeRegion, Payload.write(index, at: 0, [0, 0, 0, 0]),
                        because: "a region not to be written")
                }
            }
            if !found { throw .notApplicable("every region can be read and written") }
        },
    ]

    private static func refuseAccesses(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        let survey = server.survey
        let size = survey.regions[Region.configuration]?.size ?? 0
        let limit = UInt32(clamping: survey.whole("max_data_xfer_size") ?? 1 << 20)
        for (region, offset, count, reason) in [
            (Region.configuration, size, 1, "a region that ends there"),
            (Region.configuration, size &- 1, 2, "a region that ends before"),
            (Region.configuration, .max, 1, "an offset past everything"),
            (Region.configuration, .max, .max, "a range that overflows"),
            (Region.configuration, UInt64.max - 3, 8, "a range that overflows"),
            (server.absentRegion, 0, 4, "a region that is not there"), (.max, 0, 4, "a region that is not there"),
        ] as [(UInt32, UInt64, UInt32, String)] {
            try connection.refuse(
                Number.readRegion, Payload.read(region, at: offset, count: count), because: reason)
            try connection.refuse(
                Number.writeRegion,
                Payload.write(region, at: offset, [UInt8](repeating: 0, count: Int(min(count, 8))), count: count),
                because: reason)
        }
        if limit < .max, let large = survey.regions.first(where: { $0.value.size > UInt64(limit) }) {
            try connection.refuse(
                Number.readRegion, Payload.read(large.key, at: 0, count: limit + 1), because: "more than may be sent")
        }
        for (data, count) in [(3, 4), (5, 4), (0, 4), (4, 0)] as [(Int, UInt32)] {
            let (offset, value) = (0x3c as UInt64, [UInt8](repeating: 0, count: data))
            try connection.refuse(
                Number.writeRegion, Payload.write(Region.configuration, at: offset, value, count: count),
                because: "\(data) bytes where \(count) are announced")
        }
        try connection.refuse(
            Number.readRegion, Array(Payload.read(Region.configuration, at: 0, count: 4).dropLast()),
            because: "a payload of 15 bytes")
    }

    private static func sizeRegisters(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        func register(_ offset: UInt64) throws(Outcome) -> UInt32 {
            UInt32(try connection.readNumber(Region.configuration, at: offset, byteCount: 4))
        }
        func size(_ offset: UInt64) throws(Outcome) -> UInt32 {
            let old = try register(offset)
            try connection.write(Region.configuration, at: offset, bytes(.u32(.max)))
            let answer = try register(offset)
            try connection.write(Region.configuration, at: offset, bytes(.u32(old)))
            connection.note("ones to the register at \(offset.hexadecimal)")
            return answer
        }
        var skipsNext = false
        for bar in 0..<6 as Range<UInt32> {
            let size64 = server.survey.regions[bar]?.size ?? 0
            if skipsNext {
                skipsNext = false
                continue
            }
            let offset = 0x10 + UInt64(bar) * 4
            let low = try size(offset)
            let isPort = low & 1 != 0
            skipsNext = size64 > 0 && !isPort && low & 6 == 4
            let mask: UInt64 = isPort ? 0xffff_fffc : 0xffff_fff0
            let high = skipsNext ? UInt64(try size(offset + 4)) << 32 : 0xffff_ffff_0000_0000
            // A port register may decode no more than 16 bits.
            let upper: UInt64 = isPort && low >> 16 == 0 ? 0xffff_0000 : 0
            let expected = size64 == 0 ? 0 : ~(size64 - 1)
            let answer = size64 == 0 ? UInt64(low) : high | upper | UInt64(low) & mask
            guard answer == expected else {
                throw connection.fails(
                    "\(expected.hexadecimal), for region \(bar) has \(size64) bytes", answer.hexadecimal)
            }
        }
        for (offset, value, name) in [
            (0, 4, "vendor and device"), (8, 4, "revision and class"), (0x2c, 4, "subsystem"),
        ]
            as [(UInt64, Int, String)]
        {
            let before = try connection.readNumber(Region.configuration, at: offset, byteCount: value)
            try connection.write(Region.configuration, at: offset, bytes(.u32(.max)))
            guard try connection.readNumber(Region.configuration, at: offset, byteCount: value) == before else {
                throw connection.fails("\(name) as before", "a change")
            }
        }
    }

    private static func writeMany(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        let (offset, value) = try server.scratchByte(connection)
        func entries(_ count: Int) -> [UInt8] {
            (0..<count).flatMap {
                Payload.entry(Region.configuration, at: offset, [UInt8(truncatingIfNeeded: $0 + 1)])
            }
        }
        for count in [1, 2, 200] {
            let reply = try connection.succeed(
                Number.writeRegions, bytes(.u64(UInt64(count)), .raw(entries(count))), replying: 8)
            guard reply.payload.u64(at: 0) == UInt64(count) else {
                throw connection.fails("\(count) writes done", "\(reply)")
            }
            let last = try connection.readNumber(Region.configuration, at: offset, byteCount: 1)
            guard last == UInt64(count) else { throw connection.fails("the last write's \(count)", "\(last)") }
        }
        try connection.post(Number.writeRegions, bytes(.u64(7), .raw(entries(7))))
        let last = try connection.readNumber(Region.configuration, at: offset, byteCount: 1)
        guard last == 7 else { throw connection.fails("the last write's 7", "\(last)") }
        try connection.write(Region.configuration, at: offset, [value])
        let nine = Payload.entry(Region.configuration, at: offset, [0], count: 9)
        for (payload, reason) in [
            (bytes(.u64(1), .raw(nine)), "nine bytes in an entry of eight"),
            (bytes(.u64(2), .raw(entries(1))), "two entries where there is one"),
            (bytes(.u64(1), .raw(entries(1).dropLast())), "an entry of 23 bytes"),
            (bytes(.u64(.max), .raw(entries(1))), "a count that overflows"),
            (bytes(.u64(0x0aaa_aaaa_aaaa_aaab), .raw(entries(1))), "a count that overflows"),
            (
                bytes(.u64(1), .raw(Payload.entry(server.absentRegion, at: 0, [0]))),
                "a region that is not there"
            ),
        ] {
            try connection.refuse(Number.writeRegions, payload, because: reason)
        }
    }
}
