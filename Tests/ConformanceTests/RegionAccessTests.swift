import Edu
import LinuxHost
import Testing
import VFIOUserCheck

private let storage = VectorDevice.storage

@Suite struct RegionAccesses {
    @Test(arguments: [1, 2, 4, 8])
    func `S90 accesses of every width at every offset do what they say`(width: Int) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            for offset in 0..<16 {
                let request = Payload.write(0, at: storage + UInt64(offset), pattern(width, seed: UInt8(offset)))
                let written = try peer.succeed(Number.writeRegion, request)
                // The place and the count, and no data.
                #expect(written.payload == Array(request.prefix(16)))
                let question = Payload.read(0, at: storage + UInt64(offset), count: UInt32(width))
                let read = try peer.succeed(Number.readRegion, question)
                #expect(read.payload == question + pattern(width, seed: UInt8(offset)))
            }
        }
    }

    @Test(arguments: [3, 5, 7, 12, 100, 256])
    func `S90 accesses of other sizes are whole as well`(count: Int) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            try peer.write(0, at: storage, pattern(count))
            #expect(try peer.read(0, at: storage, count: UInt32(count)) == pattern(count))
        }
    }

    @Test func `S91 all of configuration space is read in one message`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let whole = try peer.succeed(Number.readRegion, Payload.read(7, at: 0, count: 4096))
            #expect(whole.size == 32 + 4096 && whole.payload.u32(at: 12) == 4096)
            #expect(whole.payload.u32(at: 16) == 0x0d00_1b36)
            let bytewise = try (0..<256 as Range<UInt64>).flatMap { try peer.read(7, at: $0, count: 1) }
            #expect(bytewise == Array(whole.payload[16..<272]))
        }
        try withPeer(of: Edu.makeFunction()) { peer in
            let whole = try peer.read(7, at: 0, count: 256)
            #expect(whole.prefix(4) == [0x34, 0x12, 0xe8, 0x11])
        }
    }

    @Test(
        arguments: [
            (0, 0x10000, 1), (0, 0xffff, 2), (0, .max, 1), (0, .max, .max), (0, 0, 0x10001), (7, 4096, 1), (7, 4095, 2),
            (6, 0, 1), (8, 0, 1), (1, 0, 4), (9, 0, 4), (.max, 0, 4), (0, 0, (1 << 20) + 1), (0, 0, .max),
            (0, 1 << 63, 4), (7, 0xffff_ffff_ffff_fffc, 8),
        ] as [(UInt32, UInt64, UInt32)])
    func `S92 a read outside of what there is is refused`(region: UInt32, offset: UInt64, count: UInt32) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let read = try peer.call(Number.readRegion, Payload.read(region, at: offset, count: count))
            #expect(read.error == invalid)
            guard count <= 16 else { return }
            let write = try peer.call(
                Number.writeRegion, Payload.write(region, at: offset, [UInt8](repeating: 0, count: Int(count))))
            #expect(write.error == invalid)
        }
    }

    @Test(arguments: [(0, 1), (4, 3), (4, 5), (8, 0), (8, .max)] as [(Int, UInt32)])
    func `S92 a write whose data is not what it says is refused`(byteCount: Int, stated: UInt32) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let payload = Payload.write(0, at: storage, pattern(byteCount), count: stated)
            let reply = try peer.call(Number.writeRegion, payload)
            #expect(reply.error == invalid)
            #expect(try peer.read(0, at: storage, count: 8).number == 0)
        }
    }

    @Test func `S92 an access that is too short, or a read with data, is refused`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let whole = Payload.read(0, at: 0, count: 4)
            for payload in [Array(whole.prefix(15)), whole + [0]] {
                let reply = try peer.call(Number.readRegion, payload)
                #expect(reply.error == invalid)
            }
            let write = try peer.call(Number.writeRegion, Array(whole.prefix(15)))
            #expect(write.error == invalid)
        }
    }

    @Test func `S93 an access of no bytes succeeds anywhere within its region`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            for offset in [0, 5, 0x10000] as [UInt64] {
                let read = try peer.succeed(Number.readRegion, Payload.read(0, at: offset, count: 0))
                #expect(read.payload == Payload.read(0, at: offset, count: 0))
                let write = try peer.succeed(Number.writeRegion, Payload.write(0, at: offset, []))
                #expect(write.payload == Payload.read(0, at: offset, count: 0))
            }
        }
    }

    @Test func `S94 the sizes of base address registers are found by writing ones`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            // A 64-bit one of 64 KiB, one for I/O of 32 bytes, a 32-bit one of 4 KiB, none, and no ROM.
            for (offset, sized) in [
                (0x10, 0xffff_0004), (0x14, 0xffff_ffff), (0x18, 0xffff_ffe1), (0x1c, 0xffff_f000), (0x20, 0),
                (0x24, 0),
                (0x30, 0),
            ] as [(UInt64, UInt32)] {
                try peer.write(7, at: offset, bytes(.u32(.max)))
                #expect(try peer.read(7, at: offset, count: 4) == bytes(.u32(sized)))
                try peer.write(7, at: offset, bytes(.u32(0)))
            }
        }
    }

    @Test func `S94 bytes of a register are written one by one, and only where they may be`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            try peer.write(7, at: 0x12, [0xab])
            try peer.write(7, at: 0x11, [0xff])
            try peer.write(7, at: 0x13, [0xcd])
            #expect(try peer.read(7, at: 0x10, count: 4) == bytes(.u32(0xcdab_0004)))
            // Vendor, device, class and revision are what they are.
            let before = try peer.read(7, at: 0, count: 16)
            for offset in [0, 1, 2, 3, 8, 9, 10, 11] as [UInt64] { try peer.write(7, at: offset, [0x5a]) }
            #expect(try peer.read(7, at: 0, count: 16) == before)
            // Reserved bits of the command register stay clear; an access across the status register clears nothing
            // that it does not say.
            try peer.write(7, at: 4, bytes(.u16(0xffff)))
            #expect(try peer.read(7, at: 4, count: 2) == bytes(.u16(0x0547)))
            try peer.write(7, at: 5, [0])
            #expect(try peer.read(7, at: 4, count: 2) == bytes(.u16(0x0047)))
        }
    }

    @Test func `S95 a read after posted writes sees them`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            for value in 0..<500 as Range<UInt64> {
                let write = message(
                    Number.writeRegion, flags: HeaderFlags.noReply, Payload.write(0, at: storage, bytes(.u64(value))))
                try peer.send(write)
                #expect(try peer.read(0, at: storage, count: 8).number == value)
            }
        }
    }

    /// An entry of a write of many.
    private func entry(_ offset: UInt64, _ data: [UInt8], region: UInt32 = 0, count: UInt32? = nil) -> [UInt8] {
        bytes(
            .u64(offset), .u32(region), .u32(count ?? UInt32(data.count)), .raw(data), .zeros(8 - data.count))
    }

    @Test func `S96 two hundred writes in one message are done in order`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let entries = (0..<200).flatMap { entry(storage + UInt64($0 % 3), [UInt8($0), UInt8($0)]) }
            let reply = try peer.succeed(Number.writeRegions, bytes(.u64(200)) + entries)
            #expect(reply.payload == bytes(.u64(200)))
            // 198 at 0 and 1, then 199 at 1 and 2; 197 was at 2 and 3.
            #expect(try peer.read(0, at: storage, count: 4) == [198, 199, 199, 197])
        }
    }

    @Test func `S96 writes of many that want no reply get none and are done before what follows`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let payload = bytes(.u64(2)) + entry(storage, pattern(8)) + entry(storage + 8, pattern(4))
            try peer.send(message(Number.writeRegions, flags: HeaderFlags.noReply, payload))
            #expect(try peer.read(0, at: storage, count: 12) == pattern(8) + pattern(4))
        }
    }

    @Test func `S96 writes of many may go to any region, configuration space among them, and each acts in its turn`()
        throws
    {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(1)
            try peer.connect(Interrupt.msix, to: counters)
            let express = UInt64(try #require(try peer.capability(0x10)))
            // The vector is raised while there is no bus master, so that it is told by the write that makes one, and the
            // reset in the middle undoes what comes before it and not what comes after.
            let writes = [
                entry(VectorDevice.raise, bytes(.u32(0))), entry(4, bytes(.u16(6)), region: 7), entry(storage, [1, 2]),
                entry(express + 8, bytes(.u16(1 << 15)), region: 7), entry(storage + 1, [3]),
                entry(0x10, bytes(.u32(0xfe00_0000)), region: 7), entry(4, [], region: 7),
            ]
            let payload = bytes(.u64(UInt64(writes.count)), .raw(writes.flatMap { $0 }))
            #expect(try peer.succeed(Number.writeRegions, payload).payload == bytes(.u64(7)))
            #expect(counters[0].drain() == 1)
            #expect(try peer.read(0, at: storage, count: 2) == [0, 3])
            #expect(try peer.read(7, at: 4, count: 2) == [0, 0])
            #expect(try peer.read(7, at: 0x10, count: 4).number & ~0xf == 0xfe00_0000)
        }
    }

    @Test func `S96 writes of many are offered to who asks, and taken as many as a message holds`() throws {
        try withPeer(of: VectorDevice.makeFunction(), negotiated: false) { peer in
            let reply = try peer.negotiate()
            let text = String(decoding: reply.payload[4...], as: UTF8.self)
            #expect(text.contains(#""write_multiple":true"#))
            let count = ((1 << 20) + 32 - 16 - 8) / 24
            let writes = (0..<count).flatMap { entry(storage + UInt64($0 % 256), [UInt8(truncatingIfNeeded: $0 >> 8)]) }
            let done = try peer.succeed(Number.writeRegions, bytes(.u64(UInt64(count)), .raw(writes)))
            #expect(done.payload == bytes(.u64(UInt64(count))))
            #expect(try peer.read(0, at: storage, count: 1) == [UInt8((count - 1) >> 8)])
        }
    }

    @Test func `S96 a write of many with one that cannot be is refused, whatever its count`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let good = entry(storage, [1])
            for payload in [
                bytes(.u64(1)) + entry(storage, [1], count: 9), bytes(.u64(2)) + good, bytes(.u64(1)) + good + [0],
                bytes(.u64(.max)) + good, bytes(.u64(0x0aaa_aaaa_aaaa_aaab)) + good, bytes(.u64(1)), [1, 0, 0, 0],
                bytes(.u64(2)) + good + entry(0x10000, [1]), bytes(.u64(2)) + good + entry(0, [1], region: 9),
                bytes(.u64(2)) + good + entry(.max, [1]), bytes(.u64(2)) + good + entry(0, [1], region: 6),
            ] {
                let reply = try peer.call(Number.writeRegions, payload)
                #expect(reply.error == invalid)
                #expect(try peer.read(0, at: storage, count: 1) == [0])
            }
            #expect(try peer.succeed(Number.writeRegions, bytes(.u64(0))).payload == bytes(.u64(0)))
        }
    }

    @Test func `S97 the pending bits show vectors that were raised while the client held them back`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(4)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: counters)
            try peer.setInterrupts(SetFlags.none | SetFlags.mask, index: Interrupt.msix, start: 2, count: 2)
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(3)))
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(1)))
            #expect(try peer.read(0, at: VectorDevice.pendingOffset, count: 8).number == 1 << 3)
            try peer.setInterrupts(SetFlags.none | SetFlags.unmask, index: Interrupt.msix, start: 2, count: 2)
            #expect(try peer.read(0, at: VectorDevice.pendingOffset, count: 8).number == 0)
            #expect(counters.map { $0.drain() } == [0, 1, 0, 1])
            // Nobody writes to them.
            try peer.write(0, at: VectorDevice.pendingOffset, bytes(.u64(.max)))
            #expect(try peer.read(0, at: VectorDevice.pendingOffset, count: 8).number == 0)
        }
    }

    @Test func `S97 vectors are told without the table ever having been written, and by its masks once it has`() throws
    {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let counters = try eventCounters(2)
            try peer.enableBusMaster()
            try peer.connect(Interrupt.msix, to: counters)
            try peer.write(0, at: VectorDevice.raise, bytes(.u32(0)))
            #expect(counters[0].drain() == 1)
            // A client that passes the table on: vector 0 unmasked, vector 1 as after reset.
            try peer.write(0, at: VectorDevice.tableOffset, bytes(.u32(0xfee0_0000), .u32(0), .u32(0x31), .u32(0)))
            #expect(
                try peer.read(0, at: VectorDevice.tableOffset, count: 16)
                    == bytes(.u32(0xfee0_0000), .u32(0), .u32(0x31), .u32(0)))
            for vector in 0..<2 as Range<UInt32> { try peer.write(0, at: VectorDevice.raise, bytes(.u32(vector))) }
            #expect(counters.map { $0.drain() } == [1, 0])
            #expect(try peer.read(0, at: VectorDevice.pendingOffset, count: 8).number == 2)
            try peer.write(0, at: VectorDevice.tableOffset + 28, bytes(.u32(0)))
            #expect(counters.map { $0.drain() } == [0, 1])
        }
    }

    @Test func `S98 a region that cannot be written, or not read, refuses to be`() throws {
        try withPeer(of: WindowDevice()) { peer in
            let write = try peer.call(Number.writeRegion, Payload.write(1, at: 0, [1]))
            #expect(write.error == notPermitted)
            let read = try peer.call(Number.readRegion, Payload.read(2, at: 0, count: 1))
            #expect(read.error == notPermitted)
            let many = try peer.call(Number.writeRegions, bytes(.u64(1)) + entry(0, [1], region: 1))
            #expect(many.error == notPermitted)
            #expect(try peer.read(1, at: 0, count: 1) == [0])
            try peer.write(2, at: 0, [1])
        }
    }
}
