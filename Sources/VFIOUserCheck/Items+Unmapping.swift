import LinuxHost

extension CheckItem {
    /// S46 to S56: memory that the client takes back.
    static let unmapping: [CheckItem] = [
        CheckItem(
            46, "An unmap repeats its request; when it is answered the server holds nothing of the memory.",
            in: "VFIO_USER_DMA_UNMAP", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let witness = try MemoryWitness(byteCount: 0x2000)
            try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), [witness.descriptor])
            witness.giveAway()
            if server.survey.isEdu {
                let edu = try EduDriver(server, connection)
                try edu.setCommand()
                try edu.store(to: Place.first, count: 64)
            }
            let request = Payload.unmap(at: Place.first, size: 0x2000)
            let reply = try connection.succeed(Number.unmapDMA, request, replying: 24)
            guard reply.payload == request else { throw connection.fails("the request's 24 bytes again", "\(reply)") }
            guard witness.isReleased else {
                throw connection.fails("the memory unmapped and its descriptor closed", "one of them held on to")
            }
            guard server.survey.isEdu else { return }
            witness.memory.write(pattern(64, seed: 1), at: 0)
            let edu = try EduDriver(server, connection)
            try edu.store(to: Place.first, count: 64)
            guard witness.memory.read(0..<64) == pattern(64, seed: 1) else {
                throw connection.fails("memory that the device no longer reaches", "what it has written")
            }
        },
        CheckItem(
            47, "An unmap takes every map that its range covers.", in: "what QEMU sends for virtio-mem and IOMMUs",
            for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let witness = try MemoryWitness(byteCount: 0x3000)
            for page in 0..<3 as Range<UInt64> {
                try connection.succeed(
                    Number.mapDMA,
                    Payload.map(at: Place.first + page * 0x2000, size: 0x1000, offset: page * 0x1000),
                    [witness.descriptor])
            }
            witness.giveAway()
            try connection.succeed(
                Number.unmapDMA, Payload.unmap(at: Place.first - 0x1000, size: 0x10000), replying: 24,
                because: "a range that covers three maps")
            guard witness.isReleased else { throw connection.fails("all three gone", "one that is held on to") }
        },
        CheckItem(
            48, "An unmap of what was never mapped succeeds.", in: "what QEMU sends for virtio-mem and IOMMUs",
            for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try connection.succeed(
                Number.unmapDMA, Payload.unmap(at: 1 << 41, size: 1 << 30), replying: 24,
                because: "a range without maps")
        },
        CheckItem(
            49, "An unmap that would split a map is refused, and the map stays.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let memory = try LocalMemory(byteCount: 0x3000)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x3000), [memory.rawDescriptor])
            for (address, size) in [
                (Place.first, 0x1000), (Place.first + 0x1000, 0x1000), (Place.first + 0x2000, 0x1000),
                (Place.first - 0x1000, 0x2000), (Place.first + 0x2000, 0x4000),
            ] as [(UInt64, UInt64)] {
                try connection.refuse(
                    Number.unmapDMA, Payload.unmap(at: address, size: size), because: "a map that it would split")
            }
            try connection.refuse(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), because: "the map that is still there")
        },
        CheckItem(
            50, "An unmap may end at the top of the address space, or take everything by its flag.",
            in: "what QEMU sends for IOMMUs", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let witness = try MemoryWitness(byteCount: 0x1000)
            let top = UInt64.max - 0xfff
            try connection.succeed(Number.mapDMA, Payload.map(at: top, size: 0x1000), [witness.descriptor])
            try connection.succeed(
                Number.unmapDMA, Payload.unmap(at: top, size: 0x1000), replying: 24, because: "the last page of all")
            try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), [witness.descriptor])
            witness.giveAway()
            for (address, size) in [(Place.first, 0x1000), (0, 0x1000), (Place.first, 0)] as [(UInt64, UInt64)] {
                try connection.refuse(
                    Number.unmapDMA, Payload.unmap(at: address, size: size, flags: 2),
                    because: "everything and a range at once")
            }
            try connection.succeed(
                Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2), replying: 24, because: "everything")
            guard witness.isReleased else { throw connection.fails("everything gone", "memory held on to") }
            try connection.succeed(
                Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2), replying: 24, because: "nothing being left")
        },
        CheckItem(
            51, "An unmap of address 0 and size 0 without flags succeeds; QEMU means everything by it.",
            in: "what QEMU sends for IOMMUs", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000))
            try connection.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0), replying: 24)
        },
        CheckItem(
            52, "An unmap with unknown flags is refused; with the old dirty bitmap it is refused or gives one.",
            in: "libvfio-user", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for flags in [3, 4, 0x8000_0000] as [UInt32] {
                try connection.refuse(
                    Number.unmapDMA, Payload.unmap(at: Place.first, size: 0x1000, flags: flags),
                    because: "flags without a meaning")
            }
            try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000))
            let bitmap =
                Payload.unmap(at: Place.first, size: 0x1000, flags: 1, argsz: 48) + bytes(.u64(4096), .u64(8))
            let reply = try connection.call(Number.unmapDMA, bitmap)
            guard reply.error != nil || reply.payload.count == 48 else {
                throw connection.fails("a refusal, or 24 + 16 + 8 bytes of payload", "\(reply)")
            }
        },
        CheckItem(
            53, "An unmap that is too short, or asks for too short or too long an answer, is refused.",
            in: "libvfio-user", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let whole = Payload.unmap(at: Place.first, size: 0x1000)
            try connection.refuse(Number.unmapDMA, Array(whole.dropLast()), because: "a payload of 23 bytes")
            for argsz in [0, 23, (1 << 20) + 1, .max] as [UInt32] {
                try connection.refuse(
                    Number.unmapDMA, Payload.unmap(at: Place.first, size: 0x1000, argsz: argsz),
                    because: "argsz \(argsz)")
            }
        },
        CheckItem(
            54,
            "An unmap, a reset and a disconnection end what the device does with the memory, and do not wait for it.",
            in: "VFIO_USER_DMA_UNMAP", for: [.specification, .robustness]
        ) { (server) throws(Outcome) in
            for command in [Number.unmapDMA, Number.resetDevice] {
                let connection = try server.session()
                let edu = try EduDriver(server, connection)
                try edu.setCommand()
                try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000))
                try edu.beginFetch(from: Place.first, count: 64)
                let memory = MessageResponder(connection, at: Place.first, byteCount: 0x1000)
                _ = try memory.next()
                let isReset = command == Number.resetDevice
                try connection.succeed(
                    command, isReset ? [] : Payload.unmap(at: Place.first, size: 0x1000),
                    because: "a request for memory that nobody answers")
            }
        },
        CheckItem(
            55, "Mapping and unmapping a page ten thousand times takes nothing away.",
            in: "what QEMU sends for IOMMUs", for: [.qemu], mayEndServer: true
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let witness = try MemoryWitness(byteCount: 0x1000)
            for _ in 0..<10_000 {
                try connection.succeed(
                    Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), [witness.descriptor])
                try connection.succeed(Number.unmapDMA, Payload.unmap(at: Place.first, size: 0x1000))
            }
            witness.giveAway()
            guard witness.isReleased else { throw connection.fails("the memory let go of", "memory held on to") }
        },
        CheckItem(
            56, "A thousand maps and a question sent without waiting are answered in order.",
            in: "Command Concurrency", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            connection.note("1000 maps and DEVICE_GET_INFO in one piece")
            var batch: [UInt8] = []
            for number in 0..<1000 as Range<UInt16> {
                let address = (1 << 40) + UInt64(number) * 2 * Place.page
                batch += message(Number.mapDMA, id: number, Payload.map(at: address, size: Place.page))
            }
            batch += message(Number.getDeviceInfo, id: 1000, Payload.deviceInfo())
            try connection.send(batch)
            for number in 0...1000 as ClosedRange<UInt16> {
                guard let reply = try connection.receive(), reply.isReply, reply.id == number, reply.error == nil
                else { throw connection.fails("success with ID \(number) next", "something else, or the end") }
            }
        },
    ]
}
