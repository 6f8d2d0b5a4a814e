import DeviceModel
import Edu
import LinuxHost
import Randomness
import Testing
import VFIOUserCheck

/// Messages that are nearly right, or not at all, from a generator whose seed is the test's argument.
@Suite struct RandomMessages {
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `S103 random messages break nothing, leak nothing, and the next client is served`(seed: UInt64) throws {
        var random = SeededNumbers(seed: seed)
        let memory = try ClientMemoryFile(byteCount: 0x4000)
        let counter = try EventCounter()
        let pipe = try makePipe()
        let descriptors = [memory.number, counter.rawDescriptor, pipe.reading.number, pipe.writing.number]
        let device: any Device = seed % 2 == 0 ? try Edu.makeFunction() : VectorDevice.makeFunction()
        try withServer(of: device) { server in
            for _ in 0..<30 {
                let peer = try server.connect()
                try? converse(with: peer, descriptors, &random)
                peer.close()
            }
            let last = try server.connect()
            try last.succeed(Number.resetDevice)
            try last.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
            #expect(try last.read(7, at: 0, count: 4).number != 0xffff_ffff)
            last.close()
            server.waitForGoneClients(31)
        }
        for descriptor in descriptors.prefix(2) { #expect(try Open.count(like: descriptor) == 1) }
        #expect(try Open.mappingCount(of: memory.number) == 1)
    }

    /// Sends messages in small groups and reads what comes, until the server has had enough or the script ends.
    private func converse(with peer: RawPeer, _ descriptors: [Int32], _ random: inout SeededNumbers) throws {
        for group in 0..<40 as Range<UInt16> {
            for _ in 0..<8 {
                let count = random.chance(1, of: 4) ? Int(random.next(below: 4)) : 0
                let attached = (0..<count).map { _ in descriptors[Int(random.next(below: 4))] }
                let bytes = randomMessage(&random)
                try peer.send(bytes, attached)
                // The server waits for the rest of what the header promised, or reads what should not be there.
                if Int(bytes.u32(at: 4)) != bytes.count { return }
            }
            let id = 0x8000 + group
            try peer.send(message(Number.getDeviceInfo, id: id, Payload.deviceInfo()))
            while true {
                let received = try peer.receive()
                if received.isReply, received.id == id { break }
            }
        }
    }

    private func randomMessage(_ random: inout SeededNumbers) -> [UInt8] {
        let command = UInt16(random.chance(1, of: 30) ? random.next() & 0xffff : random.next(below: 19))
        var payload = randomPayload(command, &random)
        // One field in some messages is anything.
        if payload.count >= 8, random.chance(1, of: 3) {
            let place = Int(random.next(below: UInt64(payload.count / 4))) * 4
            payload.replaceSubrange(place..<place + 4, with: littleEndian(random.interesting(), byteCount: 4))
        }
        if random.chance(1, of: 10) { payload.removeLast(min(payload.count, Int(random.next(below: 20)))) }
        var flags: UInt32 = random.chance(1, of: 3) ? HeaderFlags.noReply : 0
        if random.chance(1, of: 20) { flags |= HeaderFlags.reply }
        if random.chance(1, of: 200) { flags = UInt32(truncatingIfNeeded: random.next()) }
        let size: UInt32? = random.chance(1, of: 1000) ? UInt32(truncatingIfNeeded: random.interesting()) : nil
        return message(command, id: UInt16(random.next(below: 100)), flags: flags, size: size, payload)
    }

    private func randomPayload(_ command: UInt16, _ random: inout SeededNumbers) -> [UInt8] {
        let address = random.next(below: 16) * 0x1000
        let size = (1 + random.next(below: 4)) * 0x1000
        let region: UInt32 = random.chance(1, of: 2) ? 0 : 7
        let offset = random.next(below: region == 0 ? 0x4000 : 0x100)
        switch command {
        case Number.mapDMA:
            return Payload.map(
                at: address, size: size, offset: random.next(below: 4) * 0x1000, flags: UInt32(random.next(below: 16)))
        case Number.unmapDMA:
            return random.chance(1, of: 8)
                ? Payload.unmap(at: 0, size: 0, flags: 2) : Payload.unmap(at: address, size: size)
        case Number.getDeviceInfo: return Payload.deviceInfo()
        case Number.getRegionInfo: return Payload.regionInfo(UInt32(random.next(below: 10)), argsz: 32)
        case Number.getRegionIODescriptors, Number.getInterruptInfo:
            return Payload.interruptInfo(UInt32(random.next(below: 6)))
        case Number.setInterrupts:
            let data: UInt32 = 1 << UInt32(random.next(below: 3))
            let action: UInt32 = 8 << UInt32(random.next(below: 3))
            let count = UInt32(random.next(below: 4))
            let booleans = [UInt8](repeating: 1, count: data == SetFlags.booleans ? Int(count) : 0)
            return Payload.setInterrupts(
                data | action, index: UInt32(random.next(below: 5)), start: UInt32(random.next(below: 3)), count: count,
                booleans)
        case Number.readRegion: return Payload.read(region, at: offset, count: UInt32(random.next(below: 70)))
        case Number.writeRegion:
            return Payload.write(region, at: offset, randomBytes(Int(random.next(below: 20)), &random))
        case Number.writeRegions:
            let count = random.next(below: 5)
            let entries = (0..<count).flatMap { _ in
                bytes(
                    .u64(random.next(below: 0x1000)), .u32(0), .u32(UInt32(random.next(below: 9))),
                    .u64(random.next()))
            }
            return bytes(.u64(count)) + entries
        default: return randomBytes(Int(random.next(below: 64)), &random)
        }
    }

    private func randomBytes(_ count: Int, _ random: inout SeededNumbers) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }
}

extension SeededNumbers {
    fileprivate mutating func next(below limit: UInt64) -> UInt64 { next() % limit }

    fileprivate mutating func chance(_ count: UInt64, of all: UInt64) -> Bool { next(below: all) < count }

    /// A number at which something might go wrong.
    fileprivate mutating func interesting() -> UInt64 {
        let edges: [UInt64] = [0, 1, 15, 16, 17, 31, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff, 1 << 20]
        return chance(1, of: 2) ? edges[Int(next(below: UInt64(edges.count)))] : next()
    }
}
