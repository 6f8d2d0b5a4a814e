import LinuxHost

/// Where items map memory: below 2^28, which QEMU's edu reaches, and out of each other's way.
enum Place {
    static let first: UInt64 = 0x10_0000
    static let second: UInt64 = 0x20_0000
    static let page: UInt64 = 4096
}

extension CheckItem {
    /// S36 to S45: memory that the client shows.
    static let mapping: [CheckItem] = [
        CheckItem(
            36, "A map with a descriptor is answered by a header, and shows the device the file at its offset.",
            in: "VFIO_USER_DMA_MAP", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let memory = try LocalMemory(byteCount: 0x4000)
            let source = pattern(512, seed: 3)
            memory.write(source, at: 0x2000)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x2000, offset: 0x2000), [memory.rawDescriptor],
                replying: 0)
            let edu = try EduDriver(server, connection)
            try edu.setCommand()
            try edu.fetch(from: Place.first, count: 512)
            try edu.store(to: Place.first + 0x1000, count: 512)
            guard memory.read(0x3000..<0x3200) == source else {
                throw connection.fails(
                    "the device to copy the file's bytes from offset 0x2000 to 0x3000",
                    memory.read(0x3000..<0x3200).hexadecimal())
            }
        },
        CheckItem(
            37, "A map without descriptor is accepted; QEMU sends several.", in: "VFIO_USER_DMA_MAP", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (number, flags) in ([1, 2, 3] as [UInt32]).enumerated() {
                try connection.succeed(
                    Number.mapDMA, Payload.map(at: Place.first + UInt64(number) * 0x10000, size: 0x10000, flags: flags),
                    replying: 0, because: "memory reached by messages")
            }
        },
        CheckItem(
            38, "A map of less than 32 bytes, or that says so, is refused.", in: "VFIO_USER_DMA_MAP",
            for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let whole = Payload.map(at: Place.first, size: Place.page)
            try connection.refuse(Number.mapDMA, Array(whole.dropLast()), because: "a payload of 31 bytes")
            try connection.refuse(
                Number.mapDMA, Payload.map(at: Place.first, size: Place.page, argsz: 31), because: "argsz 31")
            try connection.succeed(Number.mapDMA, whole, because: "nothing having been mapped before")
        },
        CheckItem(
            39, "A map that overlaps another is refused with EEXIST; the very same map may succeed.",
            in: "VFIO_USER_DMA_MAP", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let memory = try LocalMemory(byteCount: 0x4000)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), [memory.rawDescriptor])
            for (address, size) in [
                (Place.first, 0x1000), (Place.first + 0x1000, 0x2000), (Place.first - 0x1000, 0x2000),
                (Place.first - 0x1000, 0x4000),
            ] as [(UInt64, UInt64)] {
                try connection.refuse(
                    Number.mapDMA, Payload.map(at: address, size: size), [memory.rawDescriptor], because: "an overlap",
                    with: ErrorNumber.exists)
            }
            let same = try connection.call(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), [memory.rawDescriptor])
            guard same.error == nil || same.error == ErrorNumber.exists else {
                throw connection.fails("success or EEXIST for the very same map", "\(same)")
            }
        },
        CheckItem(
            40, "A map that asks for access by its descriptor needs one, and works by mapping or by file I/O.",
            in: "VFIO_USER_DMA_MAP, flags bits 2 and 3", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for flags in [7, 11, 15] as [UInt32] {
                try connection.refuse(
                    Number.mapDMA, Payload.map(at: Place.first, size: Place.page, flags: flags),
                    because: "access by a descriptor that is missing")
            }
            let memory = try LocalMemory(byteCount: 0x2000)
            memory.write(pattern(64, seed: 5), at: 0)
            for (number, flags) in ([7, 11] as [UInt32]).enumerated() {
                try connection.succeed(
                    Number.mapDMA,
                    Payload.map(
                        at: Place.first + UInt64(number) * Place.page, size: Place.page,
                        offset: UInt64(number) * Place.page, flags: flags),
                    [memory.rawDescriptor], because: "a descriptor that allows the access")
            }
            guard server.survey.isEdu else { return }
            let edu = try EduDriver(server, connection)
            try edu.setCommand()
            try edu.fetch(from: Place.first, count: 64)
            try edu.store(to: Place.first + Place.page, count: 64)
            guard memory.read(0x1000..<0x1040) == pattern(64, seed: 5) else {
                throw connection.fails("bytes read by mapping and written by file I/O", "others")
            }
        },
        CheckItem(
            41, "A map with unknown flags is refused.", in: "libvfio-user", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for flags in [0x13, 0x8000_0003] as [UInt32] {
                try connection.refuse(
                    Number.mapDMA, Payload.map(at: Place.first, size: Place.page, flags: flags),
                    because: "flags without a meaning")
            }
        },
        CheckItem(
            42, "A map that its file or the address space has no room for is refused and leaves nothing behind.",
            in: "robustness", for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let memory = try LocalMemory(byteCount: 0x2000)
            for payload in [
                Payload.map(at: Place.first, size: 0), Payload.map(at: UInt64.max - 0xfff, size: 0x2000),
                Payload.map(at: Place.first, size: 0x1000, offset: UInt64.max - 0xfff),
                Payload.map(at: Place.first, size: 0x3000), Payload.map(at: Place.first, size: 0x1000, offset: 0x2000),
                Payload.map(at: Place.first, size: 1 << 62),
            ] {
                try connection.refuse(
                    Number.mapDMA, payload, [memory.rawDescriptor], because: "a range that is not there")
            }
            let pipe = try PipeWitness()
            try connection.refuse(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), pipe.descriptors, because: "a pipe")
            guard try pipe.isReleased(within: server.patience) else {
                throw connection.fails("the pipe to be closed", "an open one")
            }
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), [memory.rawDescriptor],
                because: "nothing having been left there")
        },
        CheckItem(
            43, "Memory that is mapped for reading only is never written.", in: "VFIO_USER_DMA_MAP",
            for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let memory = try LocalMemory(byteCount: 0x1000)
            memory.write(pattern(64, seed: 7), at: 0)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x1000, flags: 1), [memory.rawDescriptor])
            let edu = try EduDriver(server, connection)
            try edu.setCommand()
            try edu.fetch(from: Place.first, count: 64)
            try edu.store(to: Place.first + 0x800, count: 64)
            guard memory.read(0x800..<0x840).allSatisfy({ $0 == 0 }) else {
                throw connection.fails("memory as it was", "what the device has written")
            }
        },
        CheckItem(
            44, "A map with two descriptors is refused, or the second is closed.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let memory = try LocalMemory(byteCount: 0x1000)
            let pipe = try PipeWitness()
            try connection.call(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x1000),
                [memory.rawDescriptor] + pipe.descriptors)
            guard try pipe.isReleased(within: server.patience) else {
                throw connection.fails("the second descriptor to be closed", "an open one")
            }
            try connection.goOn(after: "a map with two descriptors")
        },
        CheckItem(
            45, "A hundred thousand maps are taken, or refused one by one.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            connection.note("100000 maps of one page, 200 at a time")
            for batch in 0..<500 as Range<UInt64> {
                var messages: [UInt8] = []
                for number in 0..<200 as Range<UInt64> {
                    let address = (1 << 40) + (batch * 200 + number) * 2 * Place.page
                    messages += message(
                        Number.mapDMA, id: UInt16(number), Payload.map(at: address, size: Place.page))
                }
                try connection.send(messages)
                for number in 0..<200 as Range<UInt16> {
                    guard let reply = try connection.receive(), reply.id == number, reply.isReply else {
                        throw connection.fails("a reply to each", "another message, or the end")
                    }
                }
            }
            try connection.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2), replying: 24)
        },
    ]
}
