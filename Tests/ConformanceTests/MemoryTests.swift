import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

/// Where the tests map memory: within edu's 28 address bits.
private let base: UInt64 = 0x100_0000

@Suite struct MapAndUnmap {
    @Test func `S36 what the client writes at the file's offset is what the device reads, and the other way round`()
        throws
    {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x4000)
            let reply = try peer.call(
                Number.mapDMA, Payload.map(at: base, size: 0x2000, offset: 0x1000), [memory.number])
            #expect(reply.size == 16 && reply.error == nil)
            try peer.enableBusMaster()
            memory[0x1010..<0x1810] = pattern(0x800)
            try peer.eduRead(from: base + 0x10, count: 0x800)
            try peer.eduWrite(to: base + 0x1000, count: 0x800)
            #expect(memory[0x2000..<0x2800] == pattern(0x800))
            // The mapping ends where it said.
            try peer.eduWrite(to: base + 0x2000, count: 16)
            #expect(memory[0x3000..<0x3010] == [UInt8](repeating: 0, count: 16))
            #expect(try Open.count(like: memory.number) == 1)
        }
    }

    @Test func `S36 a transfer crosses from one mapping into the next`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let first = try ClientMemoryFile(byteCount: 0x1000)
            let second = try ClientMemoryFile(byteCount: 0x1000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [first.number])
            try peer.succeed(Number.mapDMA, Payload.map(at: base + 0x1000, size: 0x1000), [second.number])
            try peer.enableBusMaster()
            first[0xf00..<0x1000] = pattern(0x100)
            second[0..<0x100] = pattern(0x100, seed: 3)
            try peer.eduRead(from: base + 0xf00, count: 0x200)
            try peer.eduWrite(to: base + 0x800, count: 0x200)
            #expect(first[0x800..<0xa00] == pattern(0x100) + pattern(0x100, seed: 3))
        }
    }

    @Test(arguments: [0, 1, 2, 3] as [UInt32])
    func `S37 a map without a descriptor is accepted with any rights`(flags: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(Number.mapDMA, Payload.map(at: 0xfffc_0000, size: 0x40000, flags: flags))
            #expect(reply.error == nil && reply.size == 16)
        }
    }

    @Test func `S38 a map that is too short, or says so, is refused`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let whole = Payload.map(at: base, size: 0x1000)
            for count in [1, 4, 31] {
                let reply = try peer.call(Number.mapDMA, Array(whole.prefix(count)))
                #expect(reply.error == invalid)
            }
            for argsz in [0, 31] as [UInt32] {
                let reply = try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x1000, argsz: argsz))
                #expect(reply.error == invalid)
            }
        }
    }

    @Test func `S39 a map that overlaps another is refused, the very same map is not`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x4000)
            let other = try ClientMemoryFile(byteCount: 0x4000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x2000), [memory.number])
            func refusal(_ payload: [UInt8], _ file: ClientMemoryFile? = nil) throws -> UInt32? {
                try peer.call(Number.mapDMA, payload, file.map { [$0.number] } ?? []).error
            }
            #expect(try refusal(Payload.map(at: base, size: 0x2000), memory) == nil)
            #expect(try refusal(Payload.map(at: base, size: 0x2000), other) == exists)
            #expect(try refusal(Payload.map(at: base, size: 0x2000)) == exists)
            #expect(try refusal(Payload.map(at: base, size: 0x1000), memory) == exists)
            #expect(try refusal(Payload.map(at: base + 0x1000, size: 0x2000), memory) == exists)
            #expect(try refusal(Payload.map(at: base, size: 0x2000, offset: 0x1000), memory) == exists)
            #expect(try refusal(Payload.map(at: base, size: 0x2000, flags: 1), memory) == exists)
            #expect(try Open.count(like: memory.number) == 1)
            #expect(try Open.count(like: other.number) == 1)
            #expect(try Open.mappingCount(of: other.number) == 1)
            // The first is still what it was.
            try peer.enableBusMaster()
            memory[0..<64] = pattern(64)
            try peer.eduRead(from: base, count: 64)
            try peer.eduWrite(to: base + 0x1000, count: 64)
            #expect(memory[0x1000..<0x1040] == pattern(64))
        }
    }

    @Test(arguments: [4, 8, 12] as [UInt32])
    func `S40 a map that asks for access by its descriptor needs one`(flag: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x1000, flags: 3 | flag))
            #expect(reply.error == invalid)
        }
    }

    @Test(arguments: [0, 4, 8, 12] as [UInt32])
    func `S40 a map with a descriptor works whichever access it asks for`(flag: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000, flags: 3 | flag), [memory.number])
            try peer.enableBusMaster()
            memory[0..<64] = pattern(64)
            try peer.eduRead(from: base, count: 64)
            try peer.eduWrite(to: base + 0x800, count: 64)
            #expect(memory[0x800..<0x840] == pattern(64))
        }
    }

    @Test func `S40 a file that cannot be mapped is read and written when the map asks for that`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            // A file of the kernel's that has bytes but no pages.
            let owned = try openFile("/proc/self/comm", O_RDWR)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000, flags: 1 | 8), [owned.number])
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base + 0x1000, size: 0x1000), [memory.number])
            try peer.enableBusMaster()
            try peer.eduRead(from: base, count: 4)
            try peer.eduWrite(to: base + 0x1000, count: 4)
            let name = try lines(of: "/proc/self/comm")[0]
            #expect(memory[0..<4] == Array(name.utf8.prefix(4)))
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: base, size: 0x1000))
            #expect(try Open.count(like: owned.number) == 1)
        }
    }

    @Test(arguments: [4, 5, 16, 31])
    func `S41 an unknown flag of a map is refused`(bit: Int) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let payload = Payload.map(at: base, size: 0x1000, flags: 3 | 1 << UInt32(bit))
            let reply = try peer.call(Number.mapDMA, payload, [memory.number])
            #expect(reply.error == invalid)
            #expect(try Open.count(like: memory.number) == 1)
        }
    }

    @Test(arguments: [
        Payload.map(at: base, size: 0), Payload.map(at: .max - 0xfff, size: 0x2000),
        Payload.map(at: base, size: .max), Payload.map(at: base, size: 0x1000, offset: .max - 0xffe),
        Payload.map(at: base, size: 0x2000), Payload.map(at: base, size: 0x1000, offset: 0x1000),
        Payload.map(at: base, size: 0x1000, offset: 1), Payload.map(at: base + 1, size: 0x1000),
    ])
    func `S42 a map that its file or the address space has no room for leaves nothing behind`(payload: [UInt8]) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let reply = try peer.call(Number.mapDMA, payload, [memory.number])
            #expect(reply.error != nil && reply.size == 16)
            #expect(try Open.count(like: memory.number) == 1)
            #expect(try Open.mappingCount(of: memory.number) == 1)
            // Nothing is registered: the place is free.
            let again = try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            #expect(again.error == nil)
        }
    }

    @Test(arguments: [3, 7, 11] as [UInt32])
    func `S42 what is no file is no memory`(flags: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let pipe = try makePipe()
            let counter = try EventCounter()
            let directory = try openFile("/tmp", O_RDONLY | O_DIRECTORY)
            let device = try openFile("/dev/zero", O_RDWR)
            for descriptor in [
                pipe.reading.number, pipe.writing.number, counter.rawDescriptor, directory.number, device.number,
                peer.socket.descriptor.rawValue,
            ] {
                let count = try Open.count(like: descriptor)
                let reply = try peer.call(
                    Number.mapDMA, Payload.map(at: base, size: 0x1000, flags: flags), [descriptor])
                #expect(reply.error != nil)
                #expect(try Open.count(like: descriptor) == count)
            }
            let again = try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x1000))
            #expect(again.error == nil)
        }
    }

    @Test func `S43 the device does not write where it may only read, nor read where it may only write`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x3000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000, flags: 1), [memory.number])
            try peer.succeed(
                Number.mapDMA, Payload.map(at: base + 0x1000, size: 0x1000, offset: 0x1000, flags: 2), [memory.number])
            try peer.succeed(
                Number.mapDMA, Payload.map(at: base + 0x2000, size: 0x1000, offset: 0x2000, flags: 0), [memory.number])
            try peer.enableBusMaster()
            memory[0..<64] = pattern(64)
            memory[0x1000..<0x1040] = pattern(64, seed: 77)
            try peer.eduRead(from: base, count: 64)
            try peer.eduRead(from: base + 0x1000, count: 64)
            try peer.eduWrite(to: base + 0x800, count: 64)
            try peer.eduWrite(to: base + 0x1800, count: 64)
            try peer.eduWrite(to: base + 0x2800, count: 64)
            #expect(memory[0x800..<0x840] == [UInt8](repeating: 0, count: 64))
            #expect(memory[0x1800..<0x1840] == pattern(64))
            #expect(memory[0x2800..<0x2840] == [UInt8](repeating: 0, count: 64))
        }
    }

    @Test func `S43 a descriptor that can only be read gives memory that can only be read`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let readOnly = try openFile("/proc/self/fd/\(memory.number)", O_RDONLY)
            let refused = try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x1000), [readOnly.number])
            #expect(refused.error == notPermitted)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000, flags: 1), [readOnly.number])
            try peer.enableBusMaster()
            try peer.eduWrite(to: base, count: 64, from: 0)
            #expect(memory[0..<64] == [UInt8](repeating: 0, count: 64))
        }
    }

    @Test func `S44 a map with two descriptors is refused and both are closed`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let reply = try peer.call(
                Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number, memory.number])
            #expect(reply.error == invalid)
            #expect(try Open.count(like: memory.number) == 1)
        }
    }

    @Test func `S45 a hundred thousand maps are taken, and all forgotten at once`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let batch = 1000
            for first in stride(from: 0, to: 100_000, by: batch) {
                try peer.send(
                    (first..<first + batch).flatMap {
                        message(Number.mapDMA, Payload.map(at: UInt64($0) * 0x2000, size: 0x1000))
                    })
                for _ in 0..<batch {
                    let reply = try peer.receive()
                    guard reply.error == nil else { throw PeerFailure.refused(reply) }
                }
            }
            let reply = try peer.call(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
            #expect(reply.error == nil)
            #expect(try peer.call(Number.mapDMA, Payload.map(at: 0, size: 0x1000)).error == nil)
        }
    }

    @Test func `S46 an unmap repeats its request, and nothing reaches the memory afterwards`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x2000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x2000), [memory.number])
            #expect(try Open.mappingCount(of: memory.number) == 2)
            try peer.enableBusMaster()
            memory[0..<64] = pattern(64)
            try peer.eduRead(from: base, count: 64)
            let request = Payload.unmap(at: base, size: 0x2000)
            let reply = try peer.succeed(Number.unmapDMA, request)
            #expect(reply.payload == request)
            #expect(try Open.count(like: memory.number) == 1)
            #expect(try Open.mappingCount(of: memory.number) == 1)
            try peer.eduWrite(to: base + 0x1000, count: 64)
            #expect(memory[0x1000..<0x1040] == [UInt8](repeating: 0, count: 64))
        }
    }

    @Test func `S47 an unmap takes with it every map that its range covers`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            for page in 0..<16 as Range<UInt64> where page % 3 != 0 {
                let descriptors = page % 2 == 0 ? [memory.number] : []
                try peer.succeed(Number.mapDMA, Payload.map(at: base + page * 0x1000, size: 0x1000), descriptors)
            }
            let request = Payload.unmap(at: base - 0x10000, size: 0x100000)
            let reply = try peer.succeed(Number.unmapDMA, request)
            #expect(reply.payload == request)
            #expect(try Open.mappingCount(of: memory.number) == 1)
            let again = try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x10000))
            #expect(again.error == nil)
        }
    }

    @Test func `S48 an unmap of what was never mapped succeeds`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let request = Payload.unmap(at: 0x4000_0000, size: 0x200000)
            let reply = try peer.succeed(Number.unmapDMA, request)
            #expect(reply.payload == request)
        }
    }

    @Test func `S49 an unmap that would split a map is refused, and every map stays`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x4000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try peer.succeed(
                Number.mapDMA, Payload.map(at: base + 0x1000, size: 0x3000, offset: 0x1000), [memory.number])
            for (first, size) in [(0, 0x2000), (0x1000, 0x2000), (0x2000, 0x1000), (0x2000, 0x4000)]
                as [(UInt64, UInt64)]
            {
                let reply = try peer.call(Number.unmapDMA, Payload.unmap(at: base + first, size: size))
                #expect(reply.error == invalid)
            }
            try peer.enableBusMaster()
            memory[0..<64] = pattern(64)
            try peer.eduRead(from: base, count: 64)
            try peer.eduWrite(to: base + 0x3fc0, count: 64)
            #expect(memory[0x3fc0..<0x4000] == pattern(64))
        }
    }

    @Test func `S50 an unmap may end at the top of the address space`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.succeed(Number.mapDMA, Payload.map(at: 0xffff_ffff_ffff_f000, size: 0x1000))
            try peer.succeed(Number.mapDMA, Payload.map(at: 0xfef0_0000, size: 0x1000))
            let request = Payload.unmap(at: 0xfef0_0000, size: 0xffff_ffff_0110_0000)
            let reply = try peer.succeed(Number.unmapDMA, request)
            #expect(reply.payload == request)
            let again = try peer.call(Number.mapDMA, Payload.map(at: 0xffff_ffff_ffff_f000, size: 0x1000))
            #expect(again.error == nil)
        }
    }

    @Test(arguments: [0, 2] as [UInt32])
    func `S50 S51 an unmap of everything, by its flag or by zeroes, takes everything`(flags: UInt32) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let request = Payload.unmap(at: 0, size: 0, flags: flags)
            #expect(try peer.succeed(Number.unmapDMA, request).payload == request)
            try peer.succeed(Number.mapDMA, Payload.map(at: 0, size: 0x1000), [memory.number])
            try peer.succeed(Number.mapDMA, Payload.map(at: 0xffff_ffff_ffff_f000, size: 0x1000))
            #expect(try peer.succeed(Number.unmapDMA, request).payload == request)
            #expect(try Open.mappingCount(of: memory.number) == 1)
            #expect(try peer.call(Number.mapDMA, Payload.map(at: 0, size: 0x8000)).error == nil)
        }
    }

    @Test(arguments: [(0x1000, 0), (0, 0x1000), (0x1000, 0x1000)] as [(UInt64, UInt64)])
    func `S50 an unmap of everything names no range`(address: UInt64, size: UInt64) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.succeed(Number.mapDMA, Payload.map(at: 0x1000, size: 0x1000))
            let reply = try peer.call(Number.unmapDMA, Payload.unmap(at: address, size: size, flags: 2))
            #expect(reply.error == invalid)
            #expect(try peer.call(Number.mapDMA, Payload.map(at: 0x1000, size: 0x2000)).error == exists)
        }
    }

    @Test func `S52 an unmap with any other flag is refused, the old dirty bitmap among them`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000))
            for flags in [3, 4, 8, 0x8000_0000] as [UInt32] {
                let reply = try peer.call(Number.unmapDMA, Payload.unmap(at: base, size: 0x1000, flags: flags))
                #expect(reply.error == invalid)
            }
            let bitmap = Payload.unmap(at: base, size: 0x1000, flags: 1, argsz: 48) + bytes(.u64(4096), .u64(8))
            #expect(try peer.call(Number.unmapDMA, bitmap).error == invalid)
            #expect(try peer.call(Number.mapDMA, Payload.map(at: base, size: 0x2000)).error == exists)
        }
    }

    @Test func `S53 an unmap that is too short, or asks for too short or too long an answer, is refused`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let whole = Payload.unmap(at: base, size: 0x1000)
            let short = try peer.call(Number.unmapDMA, Array(whole.prefix(23)))
            #expect(short.error == invalid)
            for argsz in [0, 23, (1 << 20) + 1, .max] as [UInt32] {
                let reply = try peer.call(Number.unmapDMA, Payload.unmap(at: base, size: 0x1000, argsz: argsz))
                #expect(reply.error == invalid)
            }
        }
    }

    @Test func `S54 an unmap of memory that the device holds on to waits until it lets go`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x2000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x2000), [memory.number])
            try peer.enableBusMaster()
            try peer.write(0, at: VectorDevice.pin, bytes(.u64(base + 0x1000)))
            #expect(try peer.read(0, at: VectorDevice.pin, count: 8).number == 0)
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: base, size: 0x2000))
            #expect(try peer.read(0, at: VectorDevice.pin, count: 8).number == 1)
            #expect(try Open.mappingCount(of: memory.number) == 1)
        }
    }

    @Test func `S54 a reset lets go of memory, and a disconnection unmaps what the device holds`() throws {
        try withServer(of: VectorDevice.makeFunction()) { server in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            let first = try server.connect()
            try first.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try first.enableBusMaster()
            try first.write(0, at: VectorDevice.pin, bytes(.u64(base)))
            try first.succeed(Number.resetDevice)
            try first.enableBusMaster()
            try first.write(0, at: VectorDevice.pin, bytes(.u64(base)))
            first.close()
            server.waitForGoneClients(1)
            #expect(try Open.mappingCount(of: memory.number) == 1)
        }
    }

    @Test func `S55 mapping and unmapping one page of a file a hundred thousand times keeps nothing`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x10000)
            try peer.succeed(Number.mapDMA, Payload.map(at: 0, size: 0x10000), [memory.number])
            let unmap = message(Number.unmapDMA, Payload.unmap(at: base, size: 0x1000))
            for round in 0..<10_000 {
                for page in 0..<10 as Range<UInt64> {
                    let offset = (page + UInt64(round)) % 16 * 0x1000
                    try peer.send(
                        message(Number.mapDMA, Payload.map(at: base, size: 0x1000, offset: offset)), [memory.number])
                    try peer.send(unmap)
                }
                for _ in 0..<20 {
                    let reply = try peer.receive()
                    guard reply.error == nil else { throw PeerFailure.refused(reply) }
                }
            }
            #expect(try Open.count(like: memory.number) == 1)
            #expect(try Open.mappingCount(of: memory.number) == 2)
        }
    }

    @Test func `S56 a thousand pipelined maps and a question are answered in order`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let maps = (0..<1000 as Range<UInt16>).flatMap {
                message(Number.mapDMA, id: $0, Payload.map(at: UInt64($0) << 12, size: 0x1000))
            }
            try peer.send(maps + message(Number.getDeviceInfo, id: 1000, Payload.deviceInfo()))
            for number in 0...1000 as ClosedRange<UInt16> {
                let reply = try peer.receive()
                #expect(reply.id == number && reply.error == nil)
            }
        }
    }
}
