import LinuxHost

extension CheckItem {
    /// S1 to S20: messages as such.
    static let transport: [CheckItem] = [
        CheckItem(
            1, "A reply repeats its command's ID and number, says that it is a reply, and is the only one.",
            in: "Header", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (id, command, payload) in [
                (0, Number.getDeviceInfo, Payload.deviceInfo()), (0xffff, Number.getRegionInfo, Payload.regionInfo(7)),
                (0x8001, Number.getInterruptInfo, Payload.interruptInfo(0)), (0x8001, 99, [1, 2, 3, 4]),
                (2, Number.unmapDMA, Payload.unmap(at: 1 << 40, size: 4096)),
            ] as [(UInt16, UInt16, [UInt8])] {
                let reply = try connection.call(command, payload, id: id)
                guard reply.id == id, reply.command == command, reply.isReply else {
                    throw connection.fails("a reply to \(Number.name(command)) with ID \(id)", "\(reply)")
                }
            }
            guard try connection.isSilent(for: server.moment) else {
                throw connection.fails("one reply to each command", "more than that")
            }
        },
        CheckItem(
            2, "A command that wants no reply gets none, even when it fails.", in: "Header",
            for: [.specification, .qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (offset, value) = try server.scratchByte(connection)
            let write = Payload.write(Region.configuration, at: offset, [value])
            for (command, payload) in [
                (Number.writeRegion, write), (Number.writeRegion, Payload.write(server.absentRegion, at: 0, [0])),
                (Number.getRegionInfo, Payload.regionInfo(server.absentRegion)), (99, []),
            ] as [(UInt16, [UInt8])] {
                let id = connection.newID()
                connection.note("\(Number.name(command)) with No_reply, then DEVICE_GET_INFO")
                let quiet = message(command, id: id, flags: HeaderFlags.noReply, payload)
                let loud = message(Number.getDeviceInfo, id: id &+ 0x100, Payload.deviceInfo())
                try connection.send(quiet + loud)
                let next = try connection.receive()
                guard let next, next.command == Number.getDeviceInfo, next.payload.count == 16 else {
                    throw connection.fails(
                        "the reply to DEVICE_GET_INFO and no other", next?.description ?? "the end")
                }
            }
        },
        CheckItem(
            3, "An error reply is a header and nothing else, with the error bit and a positive number.", in: "Header",
            for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (command, payload) in [
                (Number.getRegionInfo, Payload.regionInfo(server.absentRegion)), (99, []),
                (Number.getDeviceInfo, Payload.deviceInfo(argsz: 15)),
            ] as [(UInt16, [UInt8])] {
                let reply = try connection.call(command, payload)
                guard reply.size == 16, reply.flags == HeaderFlags.reply | HeaderFlags.error, let error = reply.error,
                    (1...Int32.max).contains(Int32(bitPattern: error))
                else { throw connection.fails("16 bytes, flags 0x21 and an error number", "\(reply)") }
            }
        },
        CheckItem(
            4, "Commands sent without waiting are carried out and answered in the order they came.",
            in: "Command Concurrency", for: [.qemu, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            connection.note("200 commands in one piece")
            var batch: [UInt8] = []
            for number in 0..<200 as Range<UInt16> {
                batch +=
                    number % 2 == 0
                    ? message(Number.getRegionInfo, id: number, Payload.regionInfo(UInt32(number) % 9))
                    : message(
                        Number.readRegion, id: number, Payload.read(Region.configuration, at: 0, count: 4))
            }
            try connection.send(batch)
            for number in 0..<200 as Range<UInt16> {
                guard let reply = try connection.receive(), reply.isReply, reply.id == number else {
                    throw connection.fails("the reply with ID \(number) next", "another, or the end")
                }
                let index = UInt32(number) % 9
                if number % 2 == 0, reply.error == nil, reply.payload.u32(at: 8) != index {
                    throw connection.fails("region \(index) described", "\(reply)")
                }
            }
        },
        CheckItem(
            5, "A reply leaves in one piece, descriptors on its first byte; clients read the header with one call.",
            in: "what QEMU reads, hw/vfio-user/proxy.c", for: [.qemu, .cloudHypervisor]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for round in 0..<32 as Range<UInt16> {
                let index = UInt32(round) % UInt32(clamping: max(1, min(9, server.survey.regionCount)))
                let id = connection.newID()
                connection.note("DEVICE_GET_REGION_INFO of region \(index)")
                try connection.send(message(Number.getRegionInfo, id: id, Payload.regionInfo(index)))
                guard let part = try connection.receivePart(atMost: 4096, until: .after(server.patience)),
                    part.bytes.count >= 16
                else { throw connection.fails("a whole header in one call", "less than that") }
                guard part.bytes.count == Int(part.bytes.u32(at: 4)) else {
                    throw connection.fails(
                        "all \(part.bytes.u32(at: 4)) bytes of the reply in one call", "\(part.bytes.count)")
                }
            }
        },
        CheckItem(
            6, "A header that arrives byte by byte is understood.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.open()
            connection.note("the version message and DEVICE_GET_INFO byte by byte")
            for (id, command, payload) in [
                (1, Number.version, Payload.version(Payload.cloudHypervisorCapabilities)),
                (2, Number.getDeviceInfo, Payload.deviceInfo()),
            ] as [(UInt16, UInt16, [UInt8])] {
                for byte in message(command, id: id, payload) { try connection.send([byte]) }
                guard let reply = try connection.receive(), reply.error == nil else {
                    throw connection.fails("success", "an error, or the end of the connection")
                }
            }
        },
        CheckItem(
            7, "Messages may be cut and joined anywhere; descriptors belong to the message they came with.",
            in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try CheckItem.splitMessages(server, connection)
            guard let (index, _) = try? server.anyInterrupt() else { return }
            let counter = try eventCounters(1)[0]
            connection.note("a question and DEVICE_SET_IRQS with a descriptor, one right after the other")
            let connect = Payload.setInterrupts(SetFlags.descriptors | SetFlags.trigger, index: index, count: 1)
            try connection.send(message(Number.getInterruptInfo, id: 1, Payload.interruptInfo(index)))
            try connection.send(message(Number.setInterrupts, id: 2, connect), [counter.rawDescriptor])
            for _ in 0..<2 {
                guard let reply = try connection.receive(), reply.error == nil else {
                    throw connection.fails("two replies of success", "an error, or the end of the connection")
                }
            }
            try connection.setInterrupts(SetFlags.none | SetFlags.trigger, index: index, count: 1)
            guard counter.drain() == 1 else {
                throw connection.fails("the descriptor to be the second message's", "no signal on it")
            }
        },
        CheckItem(
            8, "A message that claims to be shorter than its header ends the connection.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            for size in [0, 1, 15] as [UInt32] {
                let connection = try server.session()
                try connection.expectEnd(
                    after: "a header that says \(size) bytes", message(Number.getDeviceInfo, id: 7, size: size))
            }
        },
        CheckItem(
            9, "A message beyond the limit is refused by its header, and ends the connection.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            for size in [0x7fff_ffff, 0xffff_ffff, 128 << 20] as [UInt32] {
                let connection = try server.session()
                try connection.expectEnd(
                    after: "a header that says \(size) bytes", message(Number.writeRegion, id: 7, size: size))
            }
        },
        CheckItem(
            10, "An unknown command is read to its end and refused, and the connection goes on.", in: "robustness",
            for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for command in [0, 20, 99, 0xffff] as [UInt16] {
                let pipe = try PipeWitness()
                try connection.refuse(
                    command, [UInt8](repeating: 0xaa, count: 100), pipe.descriptors, because: "an unknown command")
                guard try pipe.isReleased(within: server.patience) else {
                    throw connection.fails("its descriptor to be closed", "an open one")
                }
            }
            try connection.goOn(after: "an unknown command")
        },
        CheckItem(
            11, "Command 14, which the standard has withdrawn, is unknown.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try connection.refuse(
                Number.dirtyPages, bytes(.u32(16), .u32(1), .zeros(8)), because: "a withdrawn command")
            try connection.goOn(after: "a withdrawn command")
        },
        CheckItem(
            12, "A message that is neither command nor reply is refused, or ends the connection.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            for type in [2, 7, 15] as [UInt32] {
                let connection = try server.session()
                connection.note("a message of type \(type)")
                try connection.send(message(Number.getDeviceInfo, id: 7, flags: type, Payload.deviceInfo()))
                let reply = try connection.receive()
                if let reply, reply.error == nil { throw connection.fails("an error, or the end", "\(reply)") }
            }
        },
        CheckItem(
            13, "A reply to nothing is ignored, or ends the connection.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            connection.note("a reply to DMA_READ that nobody sent")
            let stray = message(
                Number.readClientMemory, id: 0x4321, flags: HeaderFlags.reply, bytes(.u64(0), .u64(4), .u32(0)))
            let question = message(Number.getDeviceInfo, id: 0x4322, Payload.deviceInfo())
            try connection.send(stray + question)
            guard let reply = try connection.receive() else { return }
            guard reply.error == nil, reply.payload.count == 16 else {
                throw connection.fails("nothing but the reply to DEVICE_GET_INFO", "\(reply)")
            }
        },
        CheckItem(
            14, "Commands that only a server may send are refused when a client sends them.", in: "Commands",
            for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try connection.refuse(
                Number.readClientMemory, bytes(.u64(0), .u64(4)), because: "a command of the other direction")
            try connection.refuse(
                Number.writeClientMemory, bytes(.u64(0), .u64(4), .u32(0)), because: "a command of the other direction")
            try connection.goOn(after: "commands of the other direction")
        },
        CheckItem(
            15, "Only a reset may come without payload.", in: "libvfio-user", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for command in 2...18 as ClosedRange<UInt16> where command != Number.resetDevice {
                try connection.refuse(command, because: "a missing payload")
            }
            try connection.goOn(after: "commands without payload")
        },
        CheckItem(
            16, "Descriptors that a command has no use for are closed.", in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for _ in 0..<100 {
                let pipe = try PipeWitness(copies: 2)
                try connection.call(Number.getDeviceInfo, Payload.deviceInfo(), pipe.descriptors)
                guard try pipe.isReleased(within: server.patience) else {
                    throw connection.fails("two descriptors to be closed", "an open one")
                }
            }
        },
        CheckItem(
            17, "More descriptors than a message may carry are refused and closed.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            for copies in [64, 253] {
                let connection = try server.session()
                let pipe = try PipeWitness(copies: copies)
                let reply = try connection.exchange(
                    Number.getDeviceInfo, Payload.deviceInfo(), pipe.descriptors)
                if let reply, reply.error == nil {
                    throw connection.fails("an error, or the end of the connection", "\(reply)")
                }
                guard try pipe.isReleased(within: server.patience) else {
                    throw connection.fails("\(copies) descriptors to be closed", "an open one")
                }
            }
        },
        CheckItem(
            18, "Descriptors that arrive do not pass to programs that the server starts.", in: "robustness",
            for: [.robustness], outOfReach: "the flag is inside the server's process"),
        CheckItem(
            19, "Every command is answered within the five seconds that QEMU gives it.", in: "QEMU's x-msg-timeout",
            for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (command, payload) in [
                (Number.resetDevice, []), (Number.mapDMA, Payload.map(at: 1 << 40, size: 1 << 30)),
                (Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2)),
                (Number.readRegion, Payload.read(Region.configuration, at: 0, count: 4)),
            ] as [(UInt16, [UInt8])] {
                let before = MonotonicInstant.now
                try connection.call(command, payload)
                let time = Duration.nanoseconds(MonotonicInstant.now.nanoseconds - before.nanoseconds)
                guard time < .seconds(5) else {
                    throw connection.fails("an answer within 5 s", "one after \(time.text)")
                }
            }
        },
        CheckItem(
            20, "A client that reads no replies has them queued up to a bound, and harms nobody.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let count = UInt32(max(4, server.survey.configuration.count))
            let request = message(
                Number.readRegion, id: 5, Payload.read(Region.configuration, at: 0, count: count))
            let batch = (0..<128).flatMap { _ in request }
            // A socket takes some on each side; beyond that they would be in the server's memory.
            for _ in 0..<512 where try connection.sendSome(batch, patience: .milliseconds(500)) < batch.count { return }
            connection.note("65536 reads of \(count) bytes, whose replies nobody reads")
            throw connection.fails("the server to stop reading at some point", "all of them taken")
        },
    ]

    /// A payload in two parts, two messages in one piece, and one and a half in one.
    private static func splitMessages(_ server: CheckedServer, _ connection: RawConnection) throws(Outcome) {
        let one = message(Number.getDeviceInfo, id: 1, Payload.deviceInfo())
        let other = message(Number.getRegionInfo, id: 2, Payload.regionInfo(7))
        let both = one + other
        for cut in [both.count, one.count + 20, one.count + 16, one.count, 31, 20, 16] {
            connection.note("two messages, cut after \(cut) bytes")
            try connection.send(Array(both[..<cut]))
            if cut < both.count { try connection.send(Array(both[cut...])) }
            for count in [16, 32] {
                guard let reply = try connection.receive(), reply.error == nil, reply.payload.count == count else {
                    throw connection.fails("\(count) bytes of payload", "something else, or the end")
                }
            }
        }
    }
}
