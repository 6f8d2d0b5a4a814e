import LinuxHost

extension CheckItem {
    /// S99 to S108: reset, coming and going.
    static let lifecycle: [CheckItem] = [
        CheckItem(
            99, "A reset puts configuration space back, and keeps memory and interrupts.",
            in: "VFIO_USER_DEVICE_RESET", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in try CheckItem.reset(server) },
        CheckItem(
            100, "When a client leaves, its memory is let go of, and the next client begins anew.",
            in: "Client Disconnection", for: [.specification]
        ) { (server) throws(Outcome) in
            let witness = try MemoryWitness(byteCount: 0x1000)
            let connection = try server.session()
            try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), [witness.descriptor])
            witness.giveAway()
            connection.note("the end of the connection")
            connection.close()
            guard witness.isReleased(within: server.patience) else {
                throw connection.fails("its memory to be let go of", "memory held on to")
            }
            let next = try server.open()
            try next.expectEnd(
                after: "DEVICE_GET_INFO first, on the next connection",
                message(Number.getDeviceInfo, id: 1, Payload.deviceInfo()))
            let after = try server.session()
            try after.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), because: "no memory of another client")
        },
        CheckItem(
            101, "A client may leave in the middle of a message, or with its replies unread.", in: "robustness",
            for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            let whole = message(
                Number.mapDMA, id: 1, Payload.map(at: Place.first, size: 0x1000))
            for cut in [1, 15, 16, 17, 47] {
                let connection = try server.session()
                try connection.send(Array(whole[..<cut]))
                connection.close()
            }
            for _ in 0..<3 {
                let connection = try server.session()
                let batch = (0..<500).flatMap { _ in
                    message(Number.readRegion, id: 1, Payload.read(Region.configuration, at: 0, count: 256))
                }
                _ = try connection.sendSome(batch, patience: .milliseconds(200))
                connection.close()
            }
        },
        CheckItem(
            102, "A second client at the same time is served, made to wait or refused; the first does not notice.",
            in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            let first = try server.session()
            try first.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000))
            let second = try server.open()
            second.note("VERSION as the second client")
            // A server that refuses may have closed before the message could be sent.
            let sent = try? second.sendSome(
                message(Number.version, id: 1, Payload.version(Payload.cloudHypervisorCapabilities)))
            for _ in 0..<10 { try first.goOn(after: "a second client") }
            try first.refuse(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), because: "the map that is still there")
            first.close()
            guard sent != nil else { return }
            _ = try second.receive()
        },
        CheckItem(
            103, "Random messages break nothing.", in: "robustness", for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in try CheckItem.sendNoise(server) },
        CheckItem(
            104, "A device that may not be bus master moves no bytes and sends no messages.",
            in: "PCI Local Bus 3.0, 6.2.2", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let edu = try EduDriver(server, connection)
            let memory = try LocalMemory(byteCount: 0x1000)
            let counters = try eventCounters(1)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), [memory.rawDescriptor])
            let hasMSI = server.survey.vectorCounts[Interrupt.msi] ?? 0 > 0
            if hasMSI { try connection.connect(Interrupt.msi, to: counters) }
            memory.write(pattern(64, seed: 4), at: 0)
            try edu.setCommand(0x0002)
            try edu.store(to: Place.first, count: 64)
            try edu.raise(1)
            guard memory.read(0..<64) == pattern(64, seed: 4), counters[0].drain() == 0 else {
                throw connection.fails("nothing, for bus mastering is off", "memory that changed, or an interrupt")
            }
            try edu.acknowledge(1)
            try edu.setCommand()
            try edu.fetch(from: Place.first, count: 64)
            try edu.store(to: Place.first + 0x100, count: 64)
            guard memory.read(0x100..<0x140) == pattern(64, seed: 4) else {
                throw connection.fails("bytes moved once bus mastering is on", "none")
            }
        },
        CheckItem(
            105, "Memory that the client makes shorter than it said does not end the server, or that is written down.",
            in: "robustness", for: [.robustness],
            outOfReach: "a server may say that it trusts its client in this, and the check would end it"),
        CheckItem(
            106,
            "Configuration space shows nothing that vfio-user cannot carry: no SR-IOV, ATS, page requests or PASID.",
            in: "what QEMU passes on to the guest", for: [.qemu]
        ) { (server) throws(Outcome) in try CheckItem.checkCapabilities(server) },
        CheckItem(
            107, "A guest under QEMU boots, uses the device, and survives resets and hot-unplug.",
            in: "what QEMU does", for: [.qemu], outOfReach: "it takes QEMU and a guest"),
        CheckItem(
            108, "A guest under cloud-hypervisor boots, uses the device, and survives reboots and hot-removal.",
            in: "what cloud-hypervisor does", for: [.cloudHypervisor],
            outOfReach: "it takes cloud-hypervisor and a guest"),
    ]

    private static func reset(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x1000))
        var counters: [EventCounter] = []
        let interrupt = try? server.anyInterrupt()
        if let interrupt {
            counters = try eventCounters(1)
            try connection.connect(interrupt.index, to: counters)
        }
        try connection.write(Region.configuration, at: 4, bytes(.u16(0x0406)))
        try connection.write(Region.configuration, at: 0x10, bytes(.u32(0xfe00_0000)))
        let enables = [(0x05 as UInt8, 0x0001 as UInt16), (0x11, 0x8000)].compactMap { id, bit in
            server.survey.capability(id).map { (offset: UInt64($0 + 2), bit: bit) }
        }
        for (offset, bit) in enables {
            let control = try connection.readNumber(Region.configuration, at: offset, byteCount: 2)
            try connection.write(Region.configuration, at: offset, bytes(.u16(UInt16(control) | bit)))
        }
        try connection.succeed(Number.resetDevice, replying: 0)
        let command = try connection.readNumber(Region.configuration, at: 4, byteCount: 2)
        guard command & 0x0407 == 0 else { throw connection.fails("a cleared command register", command.hexadecimal) }
        let register = try connection.readNumber(Region.configuration, at: 0x10, byteCount: 4)
        guard register & 0xffff_fff0 == 0 || server.survey.regions[0]?.size ?? 0 == 0 else {
            throw connection.fails("a cleared base address register", register.hexadecimal)
        }
        for (offset, bit) in enables {
            let control = try connection.readNumber(Region.configuration, at: offset, byteCount: 2)
            guard control & UInt64(bit) == 0 else {
                throw connection.fails("MSI and MSI-X off", "\(control.hexadecimal) at \(offset.hexadecimal)")
            }
        }
        try connection.refuse(
            Number.mapDMA, Payload.map(at: Place.first, size: 0x2000), because: "the map, which outlasts a reset")
        guard let interrupt else { return }
        try connection.setInterrupts(SetFlags.none | SetFlags.trigger, index: interrupt.index, count: 1)
        guard counters[0].drain() == 1 else {
            throw connection.fails("the interrupt's descriptor, which outlasts a reset, to be signalled", "no signal")
        }
    }

    /// Messages of well-formed headers and random contents, the same ones every time. Replies are taken as they come.
    private static func sendNoise(_ server: CheckedServer) throws(Outcome) {
        var generator = NoiseGenerator(state: 0x5eed)
        for _ in 0..<20 {
            let connection = try server.session()
            for number in 0..<100 as Range<UInt16> {
                let command = UInt16(generator.next() % 20)
                // Region writes and resets would be a guest's doing; what they do to a device is its affair.
                if [Number.writeRegion, Number.writeRegions].contains(command) { continue }
                var payload = (0..<Int(generator.next() % 64)).map { _ in
                    generator.next() % 4 == 0 ? UInt8(truncatingIfNeeded: generator.next()) : 0
                }
                if payload.count >= 4, generator.next() % 2 == 0 { payload[0] = UInt8(payload.count) }
                connection.note("random message \(number) for \(Number.name(command))")
                do throws(Outcome) {
                    _ = try connection.exchange(command, payload)
                } catch {
                    if !connection.hasEnded { throw error }
                }
                // A server may close on what it cannot make sense of.
                if connection.hasEnded { break }
            }
        }
    }

    private static func checkCapabilities(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        connection.note("REGION_READ of configuration space")
        let configuration = server.survey.configuration
        guard configuration.count > 256 else { return }
        guard server.survey.capability(0x10) != nil else {
            throw connection.fails("a PCI Express capability, for there are 4096 bytes", "none")
        }
        var offset = 0x100
        // A list that leads in circles visits no more places than there are.
        for _ in 0..<960 where offset >= 0x100 && offset + 4 <= configuration.count {
            let header = configuration.u32(at: offset)
            if header == 0 || header == .max { return }
            if [0x0f, 0x10, 0x13, 0x1b].contains(header & 0xffff) {
                throw connection.fails(
                    "no SR-IOV, ATS, PRI or PASID", "extended capability \(UInt64(header & 0xffff).hexadecimal)")
            }
            offset = Int(header >> 20)
        }
    }
}

/// Random numbers that are the same on every machine. SplitMix64
private struct NoiseGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
