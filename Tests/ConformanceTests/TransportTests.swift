import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

@Suite struct Transport {
    @Test func `S1 every reply echoes the ID and the command of its request, and there is exactly one`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for (id, command, payload) in [
                (0, Number.getDeviceInfo, Payload.deviceInfo()), (0xffff, Number.getRegionInfo, Payload.regionInfo(0)),
                (7, Number.getInterruptInfo, Payload.interruptInfo(0)), (7, Number.resetDevice, []),
                (8, Number.readRegion, Payload.read(7, at: 0, count: 4)),
                (9, Number.mapDMA, Payload.map(at: 0, size: 4096)),
                (9, Number.unmapDMA, Payload.unmap(at: 0, size: 4096)),
            ] as [(UInt16, UInt16, [UInt8])] {
                try peer.send(message(command, id: id, payload))
                let reply = try peer.receive()
                #expect(reply.id == id && reply.command == command)
                #expect(reply.flags == HeaderFlags.reply)
                #expect(reply.header.u32(at: 12) == 0)
            }
            // A second reply to any of them would come before this one.
            #expect(try peer.call(Number.resetDevice).error == nil)
        }
    }

    @Test func `S2 a command that wants no reply gets none, even when it fails`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let posted = HeaderFlags.noReply
            try peer.send(message(Number.writeRegion, flags: posted, Payload.write(0, at: 4, bytes(.u32(5)))))
            try peer.send(message(Number.writeRegion, flags: posted, Payload.write(99, at: 4, bytes(.u32(5)))))
            try peer.send(message(Number.writeRegion, flags: posted, Payload.write(0, at: .max, bytes(.u32(5)))))
            try peer.send(message(Number.readRegion, flags: posted, Payload.read(0, at: 0, count: 4)))
            try peer.send(message(Number.getRegionInfo, flags: posted, Payload.regionInfo(0)))
            try peer.send(message(Number.dirtyPages, flags: posted, Payload.deviceInfo()))
            try peer.send(message(Number.mapDMA, flags: posted, Payload.map(at: 0, size: 0)))
            try peer.send(message(Number.resetDevice, flags: posted))
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).size == 32)
        }
    }

    @Test func `S3 an error reply is a header alone with the error bit and a positive number`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(Number.getRegionInfo, Payload.regionInfo(9))
            #expect(reply.size == 16)
            #expect(reply.flags == HeaderFlags.reply | HeaderFlags.error)
            #expect(reply.header.u32(at: 12) == invalid)
        }
    }

    @Test func `S4 two hundred pipelined commands are carried out and answered in order`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            var all: [UInt8] = []
            for number in 0..<100 as Range<UInt64> {
                let place = VectorDevice.storage + 8 * (number % 4)
                all += message(
                    Number.writeRegion, id: UInt16(number), Payload.write(0, at: place, bytes(.u64(number))))
                all += message(Number.readRegion, id: UInt16(1000 + number), Payload.read(0, at: place, count: 8))
            }
            try peer.send(all)
            for number in 0..<100 as Range<UInt64> {
                #expect(try peer.receive().id == UInt16(number))
                let reply = try peer.receive()
                #expect(reply.id == UInt16(1000 + number))
                #expect(reply.payload.u64(at: 16) == number)
            }
        }
    }

    @Test func `S5 a reply leaves in one piece with its descriptors on its first byte`() throws {
        try withPeer(of: WindowDevice(), negotiated: false, records: true) { peer in
            func record(_ request: [UInt8]) throws -> (bytes: [UInt8], descriptors: [HeldDescriptor]) {
                try peer.send(request)
                var descriptors: [HeldDescriptor] = []
                return (try peer.receivePart(atMost: 1 << 21, &descriptors), descriptors)
            }
            let version = try record(message(Number.version, Payload.version(Payload.qemuCapabilities)))
            #expect(Int(version.bytes.u32(at: 4)) == version.bytes.count)
            let info = try record(message(Number.getRegionInfo, Payload.regionInfo(0, argsz: 80)))
            #expect(Int(info.bytes.u32(at: 4)) == info.bytes.count)
            #expect(info.bytes.count == 16 + 80)
            #expect(info.descriptors.count == 1)
            let data = try record(message(Number.readRegion, Payload.read(0, at: 0, count: 0x4000)))
            #expect(data.bytes.count == 32 + 0x4000)
            let error = try record(message(Number.getRegionInfo, Payload.regionInfo(50)))
            #expect(error.bytes.count == 16)
        }
    }

    @Test func `S6 a header that comes in sixteen writes of one byte is understood`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for byte in message(Number.getDeviceInfo, Payload.deviceInfo()) { try peer.send([byte]) }
            #expect(try peer.receive().size == 32)
        }
    }

    @Test func `S6 a whole conversation byte by byte gets the answers it gets in one piece`() throws {
        let script =
            message(Number.version, id: 1, Payload.version(Payload.qemuCapabilities))
            + message(Number.getDeviceInfo, id: 2, Payload.deviceInfo())
            + message(Number.mapDMA, id: 3, Payload.map(at: 0x1000, size: 0x1000))
            + message(Number.readRegion, id: 4, Payload.read(7, at: 0, count: 256))
            + message(Number.writeRegion, id: 5, Payload.write(0, at: 4, bytes(.u32(0x1234_5678))))
            + message(Number.readRegion, id: 6, Payload.read(0, at: 4, count: 4))
            + message(Number.unmapDMA, id: 7, Payload.unmap(at: 0x1000, size: 0x1000))
        var answers: [[UInt8]] = []
        for isDripFed in [false, true] {
            try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
                if isDripFed {
                    for byte in script { try peer.send([byte]) }
                } else {
                    try peer.send(script)
                }
                answers.append(try (1...7).flatMap { _ in try peer.receive().bytes })
            }
        }
        #expect(answers[0] == answers[1])
        #expect(answers[0].count > 300)
    }

    @Test(arguments: [1, 15, 16, 17, 20, 31, 47])
    func `S7 a message split anywhere is understood`(at split: Int) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let whole = message(Number.mapDMA, Payload.map(at: 0x1000, size: 0x1000))
            try peer.send(Array(whole[..<split]))
            // Whatever the server does with half a message, it has had time to do.
            usleep(2000)
            try peer.send(Array(whole[split...]))
            #expect(try peer.receive().error == nil)
        }
    }

    @Test func `S7 two messages in one write are both handled`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.send(
                message(Number.getDeviceInfo, id: 1, Payload.deviceInfo())
                    + message(Number.getInterruptInfo, id: 2, Payload.interruptInfo(1)))
            #expect(try peer.receive().id == 1)
            #expect(try peer.receive().id == 2)
        }
    }

    @Test func `S7 a descriptor belongs to the second of two messages sent back to back`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 8192)
            // The same pair again and again, so that the server reads some of them in one go.
            for _ in 0..<200 {
                try peer.send(message(Number.getDeviceInfo, id: 1, Payload.deviceInfo()))
                try peer.send(message(Number.mapDMA, id: 2, Payload.map(at: 0, size: 8192, flags: 7)), [memory.number])
                try peer.send(message(Number.unmapDMA, id: 3, Payload.unmap(at: 0, size: 8192)))
                #expect(try peer.receive().error == nil)
                #expect(try peer.receive().error == nil)
                #expect(try peer.receive().error == nil)
            }
        }
    }

    @Test func `S7 of three messages written before the server looks each gets its own descriptor`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(3)
            // A request whose long answer keeps the server busy while the three pile up behind it.
            for _ in 0..<20 { try peer.send(message(Number.readRegion, Payload.read(0, at: 0, count: 0x10000))) }
            for vector in 0..<3 {
                try peer.send(
                    message(
                        Number.setInterrupts,
                        Payload.setInterrupts(
                            SetFlags.descriptors | SetFlags.trigger, index: Interrupt.msix, start: UInt32(vector),
                            count: 1)),
                    [counters[vector].rawDescriptor])
            }
            for _ in 0..<23 { #expect(try peer.receive().error == nil) }
            try peer.enableBusMaster()
            for vector in 0..<3 { try peer.write(0, at: VectorDevice.raise, bytes(.u32(UInt32(vector)))) }
            for counter in counters { #expect(counter.drain() == 1) }
        }
    }

    @Test(arguments: [1, 8, 15, 16, 30, 47])
    func `S7 descriptors on a byte in the middle of a message belong to it`(offset: Int) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 4096)
            let whole = message(Number.mapDMA, id: 2, Payload.map(at: 0, size: 4096, flags: 7))
            let before = message(Number.getDeviceInfo, id: 1, Payload.deviceInfo())
            try peer.send(before + whole[..<offset])
            try peer.send(Array(whole[offset...]), [memory.number])
            try peer.send(message(Number.getDeviceInfo, id: 3, Payload.deviceInfo()))
            #expect(try peer.receive().error == nil)
            #expect(try peer.receive().error == nil)
            #expect(try peer.receive().error == nil)
            #expect(try Open.mappingCount(of: memory.number) == 2)
            #expect(try Open.count(like: memory.number) == 1)
        }
    }

    @Test(arguments: [0, 1, 15] as [UInt32])
    func `S8 a message that claims to be shorter than its header ends the connection`(size: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.send(message(Number.getDeviceInfo, id: 77, size: size))
            let reply = try peer.receive()
            #expect(reply.error == invalid && reply.id == 77 && reply.size == 16)
            #expect(try peer.isClosed())
        }
    }

    @Test(arguments: [(1 << 20) + 33, 0x7fff_ffff, 0xffff_ffff] as [UInt32])
    func `S9 a message that claims to be too long is refused by its header alone`(size: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.send(message(Number.writeRegion, id: 78, size: size))
            let reply = try peer.receive()
            #expect(reply.error == invalid && reply.id == 78)
            #expect(try peer.isClosed())
        }
    }

    @Test func `S9 a message of the greatest size is taken`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let data = [UInt8](repeating: 0, count: 1 << 20)
            let reply = try peer.call(Number.writeRegion, Payload.write(0, at: 0, data))
            #expect(reply.error == nil)
        }
    }

    @Test(arguments: [0, 14, 19, 20, 255, 0x7fff, 0xffff] as [UInt16])
    func `S10 S11 an unknown command is drained, its descriptors are closed, and the session goes on`(
        command: UInt16
    ) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            let reply = try peer.call(command, pattern(5000), [counter.rawDescriptor, counter.rawDescriptor])
            #expect(reply.error == invalid)
            #expect(try Open.count(like: counter.rawDescriptor) == 1)
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test(arguments: [2, 3, 7, 15] as [UInt32])
    func `S12 a message that is neither command nor reply ends the connection`(type: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.send(message(Number.getDeviceInfo, flags: type, Payload.deviceInfo()))
            #expect(try peer.receive().error == invalid)
            #expect(try peer.isClosed())
        }
    }

    @Test func `S12 reserved flag bits, and the error bit on a command, are refused`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for flags in [HeaderFlags.error, 1 << 6, 1 << 31] as [UInt32] {
                try peer.send(message(Number.getDeviceInfo, flags: flags, Payload.deviceInfo()))
                #expect(try peer.receive().error == invalid)
            }
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S13 a reply to nothing is ignored`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for command in [Number.readClientMemory, Number.writeClientMemory, Number.version, 999] {
                for flags in [HeaderFlags.reply, HeaderFlags.reply | HeaderFlags.error] {
                    try peer.send(message(command, id: 1, flags: flags, error: 5, pattern(64)))
                }
            }
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test(arguments: [Number.readClientMemory, Number.writeClientMemory])
    func `S14 a command of the server's direction is refused`(command: UInt16) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(command, bytes(.u64(0), .u64(0)))
            #expect(reply.error == invalid)
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S15 a command without its payload is refused, reset alone needs none`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for command in Number.version...Number.writeMigrationData where command != Number.resetDevice {
                let reply = try peer.call(command)
                #expect(reply.error == invalid, "command \(command)")
            }
            #expect(try peer.call(Number.resetDevice).error == nil)
            #expect(try peer.call(Number.resetDevice, bytes(.u32(4))).error == nil)
        }
    }

    @Test func `S16 descriptors that a command has no use for are closed, ten thousand times`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            for _ in 0..<10_000 {
                try peer.call(Number.readRegion, Payload.read(0, at: 0, count: 4), [counter.rawDescriptor])
            }
            #expect(try Open.count(like: counter.rawDescriptor) == 1)
        }
    }

    @Test func `S16 descriptors of a reply are closed`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let counter = try EventCounter()
            try peer.send(message(Number.readClientMemory, flags: HeaderFlags.reply), [counter.rawDescriptor])
            try peer.call(Number.getDeviceInfo, Payload.deviceInfo())
            #expect(try Open.count(like: counter.rawDescriptor) == 1)
        }
    }

    @Test(arguments: [17, 32, 253])
    func `S17 more descriptors than were agreed on are refused and closed`(count: Int) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counter = try EventCounter()
            let reply = try peer.call(
                Number.setInterrupts,
                Payload.setInterrupts(
                    SetFlags.descriptors | SetFlags.trigger, index: Interrupt.msix, count: UInt32(count)),
                [Int32](repeating: counter.rawDescriptor, count: count))
            #expect(reply.error == invalid)
            #expect(try Open.count(like: counter.rawDescriptor) == 1)
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S17 descriptors piled up on a message that never ends are not kept without bound`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            let counter = try EventCounter()
            let peer = try server.connect()
            let long = message(Number.writeRegion, size: 1 << 20)
            let many = [Int32](repeating: counter.rawDescriptor, count: 100)
            #expect(throws: Errno.self) {
                for byte in long + pattern(1000) { try peer.send([byte], many) }
            }
            server.waitForGoneClients(1)
            #expect(try Open.count(like: counter.rawDescriptor) == 1)
        }
    }

    @Test func `S17 descriptors that the kernel had to drop make the message fail`() async {
        await #expect(processExitsWith: .success) {
            try withPeer(of: VectorDevice.makeFunction()) { peer in
                let counters = try eventCounters(8)
                var limit = rlimit()
                limit.rlim_cur = rlim_t((try Open.all().max() ?? 0) + 4)
                limit.rlim_max = limit.rlim_cur
                guard unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
                    throw Errno(rawValue: errno)
                }
                var taken: [Int32] = []
                while let copy = Optional(dup(0)), copy >= 0 { taken.append(copy) }
                // Room for three of the eight, and for nothing else.
                for descriptor in taken.suffix(3) { close(descriptor) }
                let reply = try withExtendedLifetime(counters) {
                    try peer.call(
                        Number.setInterrupts,
                        Payload.setInterrupts(
                            SetFlags.descriptors | SetFlags.trigger, index: Interrupt.msix, count: 8),
                        counters.map(\.rawDescriptor))
                }
                try #require(reply.error == invalid)
                try #require(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
                // The three that did arrive were closed.
                let free = (0..<3).map { _ in dup(0) }
                try #require(free.allSatisfy { $0 >= 0 })
            }
        }
    }

    @Test func `S18 descriptors that came with a message do not pass to programs that we start`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counter = try EventCounter()
            try peer.connect(Interrupt.msix, to: [counter])
            let copies = try Open.descriptors(like: counter.rawDescriptor)
            #expect(copies.count == 2)
            for copy in copies { #expect(fcntl(copy, F_GETFD) & FD_CLOEXEC != 0) }
        }
    }

    @Test func `S20 a client that reads no replies is not read from either`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let request = message(Number.readRegion, Payload.read(0, at: 0, count: 1 << 20))
            var accepted = 0
            // With the server blocked on its first reply, the socket's buffers are all there is to fill.
            while accepted < 1 << 24 {
                do {
                    let sent = try peer.sendOnce(request, waiting: false)
                    accepted += sent
                    if sent < request.count { break }
                } catch let error as Errno where error == .wouldBlock {
                    usleep(20_000)
                    if (try? peer.sendOnce(request, waiting: false)) == nil { break }
                    accepted += request.count
                }
            }
            #expect(accepted < 1 << 24, "the server took 16 MiB of requests without an answer read")
        }
    }

    @Test func `S20 replies beyond the socket's buffer arrive whole when the client reads at last`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.write(0, at: EduOffset.dmaSource, bytes(.u64(0x0f0f_0f0f)))
            for id in 0..<16 as Range<UInt16> {
                try peer.send(message(Number.readRegion, id: id, Payload.read(0, at: 0, count: 1 << 20)))
            }
            for id in 0..<16 as Range<UInt16> {
                let reply = try peer.receive()
                #expect(reply.id == id && reply.size == (1 << 20) + 32)
                #expect(reply.payload.u64(at: 16 + Int(EduOffset.dmaSource)) == 0x0f0f_0f0f)
            }
        }
    }

    @Test func `S20 a client that reads nothing and leaves makes room for the next`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            let first = try server.connect()
            for _ in 0..<8 { try first.send(message(Number.readRegion, Payload.read(0, at: 0, count: 1 << 20))) }
            first.close()
            let second = try server.connect()
            #expect(try second.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }
}
