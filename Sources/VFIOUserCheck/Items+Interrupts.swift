import LinuxHost

private let assign = SetFlags.descriptors | SetFlags.trigger
private let fire = SetFlags.none | SetFlags.trigger

extension CheckItem {
    /// S73 to S83: interrupts. A client may have a vector fired as if the device had, so most need no device.
    static let interrupts: [CheckItem] = [
        CheckItem(
            73, "Every kind of interrupt is described in 16 bytes; others, and too short questions, are refused.",
            in: "VFIO_USER_DEVICE_GET_IRQ_INFO", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let count = UInt32(clamping: max(3, server.survey.interruptCount))
            for index in 0..<min(count, 64) {
                let reply = try connection.succeed(
                    Number.getInterruptInfo, Payload.interruptInfo(index), replying: 16)
                guard reply.payload.u32(at: 8) == index else { throw connection.fails("index \(index)", "\(reply)") }
            }
            try connection.refuse(
                Number.getInterruptInfo, Payload.interruptInfo(count), because: "a kind that is not there")
            try connection.refuse(Number.getInterruptInfo, Payload.interruptInfo(0, argsz: 15), because: "argsz 15")
        },
        CheckItem(
            74, "A vector signals its own descriptor, once, and after a replacement the new one.",
            in: "VFIO_USER_DEVICE_SET_IRQS", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (index, vectors) = try server.anyInterrupt()
            let counters = try eventCounters(min(16, vectors))
            try connection.connect(index, to: counters)
            for vector in counters.indices {
                try connection.setInterrupts(fire, index: index, start: UInt32(vector), count: 1)
                try CheckItem.expect(counters, [vector], connection)
            }
            let other = try eventCounters(1)
            try connection.connect(index, to: other)
            try connection.setInterrupts(fire, index: index, count: 1)
            try CheckItem.expect(counters + other, [counters.count], connection)
        },
        CheckItem(
            75, "Vectors may be given no descriptor, which disconnects them; QEMU begins with that.",
            in: "VFIO_USER_DEVICE_SET_IRQS", for: [.qemu, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (index, vectors) = try server.anyInterrupt()
            try connection.setInterrupts(assign, index: index, count: 1)
            let counters = try eventCounters(min(2, vectors))
            try connection.connect(index, to: counters)
            try connection.setInterrupts(assign, index: index, count: 1)
            try connection.setInterrupts(fire, index: index, count: UInt32(counters.count))
            try CheckItem.expect(counters, Array(1..<counters.count), connection)
        },
        CheckItem(
            76, "A kind of interrupt can be switched off, whether it was on or not, and is silent then.",
            in: "VFIO_USER_DEVICE_SET_IRQS", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for (index, count) in server.survey.vectorCounts.sorted(by: { $0.key < $1.key }) where count > 0 {
                for _ in 0..<2 { try connection.setInterrupts(fire, index: index, count: 0) }
            }
            let (index, _) = try server.anyInterrupt()
            let counters = try eventCounters(1)
            try connection.connect(index, to: counters)
            try connection.setInterrupts(fire, index: index, count: 0)
            // Whether firing what is off succeeds is the server's choice.
            try connection.call(Number.setInterrupts, Payload.setInterrupts(fire, index: index, count: 1))
            try CheckItem.expect(counters, [], connection)
        },
        CheckItem(
            77, "A client can have vectors fired, all of a range or those of it that it names.",
            in: "VFIO_USER_DEVICE_SET_IRQS", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (index, vectors) = try server.anyInterrupt()
            let counters = try eventCounters(min(4, vectors))
            let count = UInt32(counters.count)
            try connection.connect(index, to: counters)
            try connection.setInterrupts(fire, index: index, count: count)
            try CheckItem.expect(counters, Array(counters.indices), connection)
            let odd = counters.indices.map { UInt8($0 % 2 == 0 ? 1 : 0) }
            try connection.setInterrupts(
                SetFlags.booleans | SetFlags.trigger, index: index, count: count, data: odd)
            try CheckItem.expect(counters, counters.indices.filter { $0 % 2 == 0 }, connection)
            for data in [odd.dropLast(), odd + [1]] as [[UInt8]] {
                try connection.refuse(
                    Number.setInterrupts,
                    Payload.setInterrupts(
                        SetFlags.booleans | SetFlags.trigger, index: index, count: count, data),
                    because: "\(data.count) booleans for \(count) vectors")
            }
        },
        CheckItem(
            78, "INTx can be masked and unmasked; unmasking tells again of a line that is still asserted.",
            in: "VFIO_USER_DEVICE_SET_IRQS", for: [.qemu, .cloudHypervisor, .specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let line = try CheckItem.line(server, connection)
            for data in [SetFlags.none, SetFlags.booleans] {
                let bytes: [UInt8] = data == SetFlags.booleans ? [1] : []
                for action in [SetFlags.mask, SetFlags.unmask] {
                    try connection.setInterrupts(data | action, index: Interrupt.intx, count: 1, data: bytes)
                }
            }
            let edu = try EduDriver(server, connection)
            try edu.raise(1)
            try CheckItem.expect([line], [0], connection)
            for _ in 0..<3 {
                try connection.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
                try CheckItem.expect([line], [0], connection)
            }
            try edu.acknowledge(1)
            try connection.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
            try CheckItem.expect([line], [], connection)
            try connection.setInterrupts(SetFlags.none | SetFlags.mask, index: Interrupt.intx, count: 1)
            try edu.raise(1)
            try CheckItem.expect([line], [], connection)
            try edu.acknowledge(1)
        },
        CheckItem(
            79, "INTx takes a descriptor whose signal unmasks it, and lets it be replaced and taken away.",
            in: "what QEMU does with KVM", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let line = try CheckItem.line(server, connection)
            let resample = try eventCounters(1)
            let flags = SetFlags.descriptors | SetFlags.unmask
            for _ in 0..<2 { try connection.setInterrupts(flags, index: Interrupt.intx, count: 1, resample) }
            try connection.setInterrupts(flags, index: Interrupt.intx, count: 1)
            try connection.setInterrupts(flags, index: Interrupt.intx, count: 1, resample)
            let edu = try EduDriver(server, connection)
            try edu.raise(1)
            try CheckItem.expect([line], [0], connection)
            resample[0].signal()
            connection.note("a signal on the descriptor that unmasks INTx, with the line asserted")
            guard try isSignalled(line, within: server.patience) else {
                throw connection.fails("the line to be told again", "no signal within \(server.patience.text)")
            }
            try edu.acknowledge(1)
        },
        CheckItem(
            80, "An asserted line is told once until it is unmasked.", in: "what KVM expects of INTx", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let line = try CheckItem.line(server, connection)
            let edu = try EduDriver(server, connection)
            for bit in 0..<8 as Range<UInt32> { try edu.raise(1 << bit) }
            try CheckItem.expect([line], [0], connection)
            try edu.acknowledge(0xff)
        },
        CheckItem(
            81, "A change of interrupts that makes no sense is refused.", in: "VFIO_USER_DEVICE_SET_IRQS",
            for: [.specification]
        ) { (server) throws(Outcome) in try CheckItem.refuseNonsense(server) },
        CheckItem(
            82, "A change of one vector leaves the others as they are.", in: "VFIO_USER_DEVICE_SET_IRQS", for: [.qemu]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (index, vectors) = try server.anyInterrupt()
            guard vectors >= 2 else { throw .notApplicable("no kind of interrupt has two vectors") }
            let counters = try eventCounters(min(5, vectors))
            let other = try eventCounters(1)
            try connection.connect(index, to: counters)
            try connection.connect(index, start: 1, to: other)
            try connection.setInterrupts(fire, index: index, count: UInt32(counters.count))
            try CheckItem.expect(
                counters + other, counters.indices.filter { $0 != 1 } + [counters.count], connection)
        },
        CheckItem(
            83, "A full event counter does not hold the server up, and what is no event counter is not written to.",
            in: "robustness", for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let (index, _) = try server.anyInterrupt()
            let full = try fullBlockingCounter()
            try connection.succeed(
                Number.setInterrupts, Payload.setInterrupts(assign, index: index, count: 1), [full.rawDescriptor])
            for _ in 0..<3 { try connection.setInterrupts(fire, index: index, count: 1) }
            let pipe = try PipeWitness()
            let reply = try connection.call(
                Number.setInterrupts, Payload.setInterrupts(assign, index: index, count: 1), pipe.descriptors)
            if reply.error == nil { try connection.setInterrupts(fire, index: index, count: 1) }
            guard try !pipe.wasWrittenTo() else {
                throw connection.fails("a pipe to be refused or left alone", "eight bytes in it")
            }
        },
    ]

    /// Says which of some counters must have been signalled, once each, and which not; empties them all.
    private static func expect(
        _ counters: [EventCounter], _ expected: [Int], _ connection: RawConnection
    ) throws(Outcome) {
        let counts = counters.map { $0.drain() }
        let wanted = counters.indices.map { expected.contains($0) ? 1 : 0 as UInt64 }
        guard counts == wanted else { throw connection.fails("signals \(wanted)", "\(counts)") }
    }

    /// A counter connected to INTx.
    private static func line(_ server: CheckedServer, _ connection: RawConnection) throws(Outcome) -> EventCounter {
        guard let count = server.survey.vectorCounts[Interrupt.intx], count > 0 else {
            throw .notApplicable("the device has no INTx")
        }
        let counter = try eventCounters(1)[0]
        try connection.connect(Interrupt.intx, to: [counter])
        return counter
    }

    private static func refuseNonsense(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        let (index, vectors) = try server.anyInterrupt()
        let count = UInt32(vectors)
        let absent = UInt32(clamping: max(5, server.survey.interruptCount))
        let counters = try eventCounters(2)
        for (flags, index, start, amount, descriptors, reason) in [
            (SetFlags.trigger, index, 0, 1, 0, "no kind of data"),
            (SetFlags.none | SetFlags.booleans | SetFlags.trigger, index, 0, 1, 0, "two kinds of data"),
            (SetFlags.none, index, 0, 1, 0, "no action"),
            (SetFlags.none | SetFlags.mask | SetFlags.trigger, index, 0, 1, 0, "two actions"),
            (fire | 0x40, index, 0, 1, 0, "an unknown flag"), (fire, absent, 0, 1, 0, "a kind that is not there"),
            (fire, index, count, 1, 0, "a vector that is not there"),
            (fire, index, 0, count &+ 1, 0, "more vectors than there are"),
            (fire, index, .max, 2, 0, "a range that overflows"), (fire, index, 1, .max, 0, "a range that overflows"),
            (SetFlags.none | SetFlags.mask, index, 0, 0, 0, "no vectors to mask"),
            (SetFlags.none | SetFlags.unmask, index, 0, 0, 0, "no vectors to unmask"),
            (assign, index, 0, 1, 2, "two descriptors for a vector"), (fire, index, 0, 1, 1, "a descriptor of no use"),
        ] as [(UInt32, UInt32, UInt32, UInt32, Int, String)] {
            try connection.refuse(
                Number.setInterrupts, Payload.setInterrupts(flags, index: index, start: start, count: amount),
                counters.prefix(descriptors).map(\.rawDescriptor), because: reason)
        }
        let whole = Payload.setInterrupts(fire, index: index, count: 1)
        try connection.refuse(Number.setInterrupts, Array(whole.dropLast()), because: "a payload of 19 bytes")
        try connection.refuse(
            Number.setInterrupts, Payload.setInterrupts(fire, index: index, count: 1, argsz: 19), because: "argsz 19")
        for index in [Interrupt.error, Interrupt.request] where server.survey.vectorCounts[index] ?? 0 > 0 {
            try connection.refuse(
                Number.setInterrupts, Payload.setInterrupts(SetFlags.none | SetFlags.mask, index: index, count: 1),
                because: "a mask of what has none")
        }
    }
}
