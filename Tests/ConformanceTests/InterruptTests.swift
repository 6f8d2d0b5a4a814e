import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

private let assign = SetFlags.descriptors | SetFlags.trigger

@Suite struct Interrupts {
    @Test func `S73 every interrupt index is described`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            // Flags: 1 event descriptors, 2 maskable, 4 masks itself, 8 cannot grow.
            for (index, flags, count) in [(0, 7, 1), (1, 9, 8), (2, 1, 32), (3, 9, 1), (4, 9, 0)]
                as [(UInt32, UInt32, UInt32)]
            {
                let reply = try peer.succeed(Number.getInterruptInfo, Payload.interruptInfo(index))
                #expect(reply.payload == bytes(.u32(16), .u32(flags), .u32(index), .u32(count)))
            }
        }
    }

    @Test func `S73 an interrupt index that does not exist, or a question that is too short, is refused`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for payload in [
                Payload.interruptInfo(5), Payload.interruptInfo(.max), Payload.interruptInfo(0, argsz: 15),
                Array(Payload.interruptInfo(0).prefix(15)),
            ] {
                let reply = try peer.call(Number.getInterruptInfo, payload)
                #expect(reply.error == invalid)
            }
        }
    }

    @Test(arguments: 1...16)
    func `S74 a vector that is raised signals its own counter once and no other`(count: Int) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(count)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, start: 5, to: counters)
            for number in counters.indices {
                try peer.write(0, at: VectorDevice.raise, bytes(.u32(UInt32(5 + number))))
                #expect(counters.map { $0.drain() } == counters.indices.map { $0 == number ? 1 : 0 })
            }
        }
    }

    @Test func `S74 a counter that replaces another is the one to be signalled, and the other is closed`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(2)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: [counters[0]])
            #expect(try Open.count(like: counters[0].rawDescriptor) == 2)
            try peer.connect(Interrupt.msix, to: [counters[1]])
            #expect(try Open.count(like: counters[0].rawDescriptor) == 1)
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(0)))
            #expect(counters[0].drain() == 0)
            #expect(counters[1].drain() == 1)
        }
    }

    @Test func `S75 vectors can be connected to nothing, as QEMU does first with MSI-X`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(3)
            try peer.enableBusMaster()
            try peer.setInterrupts(assign, index: Interrupt.msix, count: 1)
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(1)))
            try peer.connect(Interrupt.msix, to: counters)
            // What was raised while nobody could hear of it is told now.
            #expect(counters.map { $0.drain() } == [0, 1, 0])
            try peer.setInterrupts(assign, index: Interrupt.msix, start: 1, count: 2)
            #expect(try Open.count(like: counters[2].rawDescriptor) == 1)
            for vector in 0..<3 as Range<UInt32> { try peer.write(0, at: VectorDevice.raise, bytes(.u32(vector))) }
            #expect(counters.map { $0.drain() } == [1, 0, 0])
        }
    }

    @Test(arguments: [Interrupt.intx, Interrupt.msi, Interrupt.msix, Interrupt.error, Interrupt.request])
    func `S76 any index can be switched off, whether it was on or has no vectors at all`(index: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: index, count: 0)
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: index, count: 0)
        }
    }

    @Test func `S76 an index that is switched off closes its counters, and raising its vectors harms nobody`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(4)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: counters)
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: Interrupt.msix, count: 0)
            for counter in counters { #expect(try Open.count(like: counter.rawDescriptor) == 1) }
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(2)))
            #expect(counters.allSatisfy { $0.drain() == 0 })
        }
    }

    @Test func `S77 a client can have vectors told as if they had been raised`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(4)
            try peer.connect(Interrupt.msix, to: counters)
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: Interrupt.msix, start: 1, count: 2)
            #expect(counters.map { $0.drain() } == [0, 1, 1, 0])
            try peer.setInterrupts(
                SetFlags.booleans | SetFlags.trigger, index: Interrupt.msix, count: 4, data: [1, 0, 0, 0xff])
            #expect(counters.map { $0.drain() } == [1, 0, 0, 1])
            // Those without a counter are told to nobody.
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: Interrupt.msix, start: 4, count: 28)
        }
    }

    @Test(arguments: [0, 3, 5])
    func `S77 as many booleans as vectors, or it is refused`(byteCount: Int) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let reply = try peer.call(
                Number.setInterrupts,
                Payload.setInterrupts(
                    SetFlags.booleans | SetFlags.trigger, index: Interrupt.msix, count: 4,
                    [UInt8](repeating: 1, count: byteCount)))
            #expect(reply.error == invalid)
        }
    }

    @Test func `S78 a masked vector waits until it is unmasked`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(2)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: counters)
            try peer.setInterrupts(SetFlags.none | SetFlags.mask, index: Interrupt.msix, start: 1, count: 1)
            for vector in [0, 1, 1] as [UInt32] { try peer.write(0, at: VectorDevice.raise, bytes(.u32(vector))) }
            #expect(counters.map { $0.drain() } == [1, 0])
            try peer.setInterrupts(
                SetFlags.booleans | SetFlags.unmask, index: Interrupt.msix, count: 2, data: [1, 1])
            #expect(counters.map { $0.drain() } == [0, 1])
        }
    }

    @Test func `S78 unmasking a line that is still asserted tells of it again`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            try peer.connect(Interrupt.intx, to: [counter])
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 1)
            for _ in 0..<3 {
                try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
                #expect(counter.drain() == 1)
            }
            try peer.write(0, at: EduOffset.interruptAcknowledge, bytes(.u32(1)))
            try peer.setInterrupts(SetFlags.booleans | SetFlags.unmask, index: Interrupt.intx, count: 1, data: [1])
            #expect(counter.drain() == 0)
        }
    }

    @Test func `S78 a line that comes and goes while it is masked is not told`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            try peer.connect(Interrupt.intx, to: [counter])
            try peer.setInterrupts(SetFlags.none | SetFlags.mask, index: Interrupt.intx, count: 1)
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            try peer.write(0, at: EduOffset.interruptAcknowledge, bytes(.u32(1)))
            try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
            #expect(counter.drain() == 0)
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 1)
        }
    }

    @Test func `S78 connecting a line that is asserted tells of it at once`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            try peer.connect(Interrupt.intx, to: [counter])
            #expect(counter.drain() == 1)
        }
    }

    @Test func `S79 a signal on the resample counter is the end of the interrupt`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            let resample = try EventCounter()
            try peer.connect(Interrupt.intx, to: [counter])
            // What QEMU sends with KVM's resample descriptor.
            try peer.setInterrupts(SetFlags.none | SetFlags.mask, index: Interrupt.intx, count: 1)
            try peer.setInterrupts(SetFlags.descriptors | SetFlags.unmask, index: Interrupt.intx, count: 1, [resample])
            try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 1)
            for _ in 0..<3 {
                resample.signal()
                #expect(try counter.waitForSignal() == 1)
            }
            try peer.write(0, at: EduOffset.interruptAcknowledge, bytes(.u32(1)))
            resample.signal()
            try eventually { resample.isDrained }
            try peer.call(Number.getDeviceInfo, Payload.deviceInfo())
            #expect(counter.drain() == 0)
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(try counter.waitForSignal() == 1)
        }
    }

    @Test func `S79 a resample counter is replaced, taken away, and closed with its index`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            let resamples = try eventCounters(2)
            func copies(_ number: Int) throws -> Int { try Open.count(like: resamples[number].rawDescriptor) }
            let flags = SetFlags.descriptors | SetFlags.unmask
            try peer.connect(Interrupt.intx, to: [counter])
            try peer.setInterrupts(flags, index: Interrupt.intx, count: 1, [resamples[0]])
            try peer.setInterrupts(flags, index: Interrupt.intx, count: 1, [resamples[1]])
            // The connection's own hold on it goes with the message after, at the latest.
            try peer.call(Number.getDeviceInfo, Payload.deviceInfo())
            #expect(try copies(0) == 1 && copies(1) == 2)
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 1)
            resamples[1].signal()
            #expect(try counter.waitForSignal() == 1)
            try peer.setInterrupts(flags, index: Interrupt.intx, count: 1)
            try peer.call(Number.getDeviceInfo, Payload.deviceInfo())
            #expect(try copies(1) == 1)
            try peer.setInterrupts(flags, index: Interrupt.intx, count: 1, [resamples[0]])
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: Interrupt.intx, count: 0)
            try peer.call(Number.getDeviceInfo, Payload.deviceInfo())
            #expect(try copies(0) == 1)
        }
    }

    @Test func `S79 a signal on the mask counter holds the line back`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            let mask = try EventCounter()
            try peer.connect(Interrupt.intx, to: [counter])
            try peer.setInterrupts(SetFlags.descriptors | SetFlags.mask, index: Interrupt.intx, count: 1, [mask])
            mask.signal()
            try eventually { mask.isDrained }
            try peer.call(Number.getDeviceInfo, Payload.deviceInfo())
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 0)
            try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
            #expect(counter.drain() == 1)
        }
    }

    @Test func `S80 an asserted line is told once until it is unmasked`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            try peer.connect(Interrupt.intx, to: [counter])
            for bit in 0..<8 as Range<UInt32> {
                try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1 << bit)))
            }
            #expect(counter.drain() == 1)
            try peer.write(0, at: EduOffset.interruptAcknowledge, bytes(.u32(0xff)))
            try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(1)))
            #expect(counter.drain() == 0)
            try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.intx, count: 1)
            #expect(counter.drain() == 1)
        }
    }

    @Test(
        arguments: [
            // No data, two kinds of data, no action, two actions, unknown bits.
            (SetFlags.trigger, 2, 0, 1, 0), (SetFlags.none | SetFlags.booleans | SetFlags.trigger, 2, 0, 1, 0),
            (SetFlags.none | SetFlags.descriptors | SetFlags.trigger, 2, 0, 1, 1), (SetFlags.none, 2, 0, 1, 0),
            (SetFlags.none | SetFlags.mask | SetFlags.trigger, 2, 0, 1, 0),
            (SetFlags.none | SetFlags.trigger | 0x40, 2, 0, 1, 0), (0, 2, 0, 1, 0),
            // An index or vectors that do not exist; sums that overflow.
            (SetFlags.none | SetFlags.trigger, 5, 0, 1, 0), (SetFlags.none | SetFlags.trigger, .max, 0, 0, 0),
            (SetFlags.none | SetFlags.trigger, 2, 32, 1, 0), (SetFlags.none | SetFlags.trigger, 2, 0, 33, 0),
            (SetFlags.none | SetFlags.trigger, 2, .max, 2, 0), (SetFlags.none | SetFlags.trigger, 2, 2, .max, 0),
            (SetFlags.none | SetFlags.trigger, 0, 0, 2, 0), (SetFlags.none | SetFlags.trigger, 0, 1, 1, 0),
            (SetFlags.descriptors | SetFlags.trigger, 2, 31, 2, 2),
            // No vectors, in a form that does not switch the index off.
            (SetFlags.none | SetFlags.mask, 2, 0, 0, 0), (SetFlags.none | SetFlags.unmask, 2, 0, 0, 0),
            (SetFlags.descriptors | SetFlags.trigger, 2, 0, 0, 0), (SetFlags.none | SetFlags.trigger, 2, 1, 0, 0),
            (SetFlags.booleans | SetFlags.trigger, 2, 0, 0, 0),
            // Descriptors that are too few, too many, or of no use.
            (SetFlags.descriptors | SetFlags.trigger, 2, 0, 3, 2),
            (SetFlags.descriptors | SetFlags.trigger, 2, 0, 1, 2),
            (SetFlags.none | SetFlags.trigger, 2, 0, 1, 1), (SetFlags.none | SetFlags.trigger, 2, 0, 0, 1),
            // Errors are told and nothing else; requests of this device are none.
            (SetFlags.none | SetFlags.mask, 3, 0, 1, 0), (SetFlags.none | SetFlags.unmask, 3, 0, 1, 0),
            (SetFlags.none | SetFlags.trigger, 3, 0, 2, 0), (SetFlags.none | SetFlags.trigger, 4, 0, 1, 0),
        ] as [(UInt32, UInt32, UInt32, UInt32, Int)])
    func `S81 a change of interrupts that makes no sense is refused and changes nothing`(
        flags: UInt32, index: UInt32, start: UInt32, count: UInt32, descriptorCount: Int
    ) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counter = try EventCounter()
            let extra = try EventCounter()
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: [counter])
            let reply = try peer.call(
                Number.setInterrupts, Payload.setInterrupts(flags, index: index, start: start, count: count),
                [Int32](repeating: extra.rawDescriptor, count: descriptorCount))
            #expect(reply.error == invalid && reply.size == 16)
            #expect(try Open.count(like: extra.rawDescriptor) == 1)
            #expect(counter.drain() == 0)
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(0)))
            #expect(counter.drain() == 1)
        }
    }

    @Test func `S81 a change of interrupts that is too short, or says so, is refused`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let whole = Payload.setInterrupts(SetFlags.none | SetFlags.trigger, index: 2, count: 1)
            let short = try peer.call(Number.setInterrupts, Array(whole.prefix(19)))
            #expect(short.error == invalid)
            let lying = try peer.call(
                Number.setInterrupts,
                Payload.setInterrupts(SetFlags.none | SetFlags.trigger, index: 2, count: 1, argsz: 19))
            #expect(lying.error == invalid)
        }
    }

    @Test func `S82 a change of one vector leaves the others alone`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(6)
            let other = try EventCounter()
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: counters)
            try peer.connect(Interrupt.msix, start: 3, to: [other])
            for vector in 0..<6 as Range<UInt32> { try peer.write(0, at: VectorDevice.raise, bytes(.u32(vector))) }
            #expect(counters.map { $0.drain() } == [1, 1, 1, 0, 1, 1])
            #expect(other.drain() == 1)
        }
    }

    @Test func `S83 a counter that is full does not block the device`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            // Blocking, and as high as a counter goes.
            let counter = try EventCounter()
            #expect(fcntl(counter.rawDescriptor, F_SETFL, 0) == 0)
            var highest = UInt64.max - 1
            #expect(unsafe write(counter.rawDescriptor, &highest, 8) == 8)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: [counter])
            for _ in 0..<3 { try peer.write(0, at: VectorDevice.raise, bytes(.u32(0))) }
            try peer.setInterrupts(SetFlags.none | SetFlags.trigger, index: Interrupt.msix, count: 1)
        }
    }

    @Test func `S83 a descriptor that is no event counter is refused and closed, and nothing is written to it`() throws
    {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let pipe = try makePipe()
            let memory = try ClientMemoryFile(byteCount: 4096)
            let before = try EventCounter()
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: [before])
            for descriptor in [
                pipe.reading.number, pipe.writing.number, memory.number, peer.socket.descriptor.rawValue,
            ] {
                let count = try Open.count(like: descriptor)
                let payload = Payload.setInterrupts(assign, index: Interrupt.msix, count: 2)
                let reply = try peer.call(Number.setInterrupts, payload, [before.rawDescriptor, descriptor])
                #expect(reply.error == invalid)
                #expect(try Open.count(like: descriptor) == count)
            }
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(0)))
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(1)))
            #expect(before.drain() == 1)
            #expect(memory[0..<16] == [UInt8](repeating: 0, count: 16))
        }
    }
}

extension EventCounter {
    /// Whether whoever reads the counter has taken what was there.
    var isDrained: Bool {
        var request = pollfd(fd: rawDescriptor, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&request, 1, 0) == 0
    }
}
