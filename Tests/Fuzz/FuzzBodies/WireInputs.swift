import Randomness
import VFIOUserWire
import VFIOUserCheck

/// Inputs of the decoder, by seed and by kind.
public enum WireInputs {
    /// Every layout once, as it should be, both ways.
    public static var seeds: [(String, [UInt8])] {
        let layouts = requests + replies
        return layouts.enumerated().map { number, layout in
            (
                "\(layout.name)",
                [UInt8(number % 3)] + message(layout.command, id: UInt16(number), flags: layout.flags, layout.payload)
            )
        }
            + proposals.enumerated().map { number, text in
                ("capabilities-\(number)", [UInt8(3 | (number & 3) << 2)] + versionPayload(text))
            }
    }

    private struct Layout {
        let name: String
        let command: UInt16
        let flags: UInt32
        let payload: [UInt8]
    }

    private static let proposals = [
        qemuCapabilities, cloudHypervisorCapabilities, "{}",
        #"{"capabilities":{"twin_socket":{"supported":true,"fd_index":0},"migration":{"pgsize":4096}}}"#,
        #"{"capabilities":{"max_msg_fds":1.6e1,"x":[null,true,{"y":"\u00e4\n"}],"pgsizes":18446744073709547520}}"#,
    ]

    private static func request(_ name: String, _ command: UInt16, _ payload: [UInt8]) -> Layout {
        Layout(name: name + "-request", command: command, flags: 0, payload: payload)
    }

    private static func reply(_ name: String, _ command: UInt16, _ payload: [UInt8]) -> Layout {
        Layout(name: name + "-reply", command: command, flags: HeaderFlags.reply, payload: payload)
    }

    private static var requests: [Layout] {
        [
            request("version", Number.version, versionPayload(qemuCapabilities)),
            request("map", Number.mapDMA, bytes(.u32(32), .u32(7), .u64(0x1000), .u64(0x10_0000), .u64(0x8000))),
            request("unmap", Number.unmapDMA, bytes(.u32(24), .u32(0), .u64(0x1000), .u64(0x1000))),
            request("unmap-everything", Number.unmapDMA, bytes(.u32(24), .u32(2), .u64(0), .u64(0))),
            request(
                "unmap-dirty", Number.unmapDMA,
                bytes(.u32(64), .u32(1), .u64(0x1000), .u64(0x1000), .u64(4096), .u64(8))),
            request("device-info", Number.getDeviceInfo, bytes(.u32(16), .zeros(12))),
            request("region-info", Number.getRegionInfo, bytes(.u32(32), .u32(0), .u32(2), .zeros(20))),
            request("io-descriptors", Number.getRegionIODescriptors, bytes(.u32(4096), .u32(0), .u32(0), .u32(0))),
            request("interrupt-info", Number.getInterruptInfo, bytes(.u32(16), .u32(0), .u32(2), .u32(0))),
            request(
                "set-interrupts", Number.setInterrupts, bytes(.u32(20), .u32(0x24), .u32(2), .u32(0), .u32(3))),
            request(
                "set-booleans", Number.setInterrupts,
                bytes(.u32(23), .u32(0x12), .u32(2), .u32(0), .u32(3), .raw([1, 0, 1]))),
            request("read", Number.readRegion, bytes(.u64(0x10), .u32(7), .u32(4))),
            request("write", Number.writeRegion, bytes(.u64(0x10), .u32(7), .u32(4), .u32(0xffff_ffff))),
            request("reset", Number.resetDevice, []),
            request(
                "writes", Number.writeRegions,
                bytes(
                    .u64(2), .u64(0x10), .u32(0), .u32(4), .u64(0x1234), .u64(0x18), .u32(0), .u32(8), .u64(~0))),
            request("feature", Number.deviceFeature, bytes(.u32(64), .u32(2 | 1 << 17), .u32(1), .u32(0))),
            request("migration-read", Number.readMigrationData, bytes(.u32(72), .u32(64))),
            request("migration-write", Number.writeMigrationData, bytes(.u32(12), .u32(4), .u32(0xdead_beef))),
            request("memory-read", Number.readClientMemory, bytes(.u64(0x1000), .u64(64))),
            request("memory-write", Number.writeClientMemory, bytes(.u64(0x1000), .u64(4), .u32(1))),
        ]
    }

    private static var replies: [Layout] {
        let areas = bytes(
            .u16(1), .u16(1), .u32(80), .u32(2), .u32(0), .u64(0x1000), .u64(0x1000), .u64(0x3000), .u64(0x1000))
        let type = bytes(.u16(2), .u16(1), .u32(96), .u32(1), .u32(2))
        let descriptor = bytes(.u64(0x1000), .u64(4), .u32(0), .u32(0), .u32(1), .u32(0), .u64(7))
        return [
            reply("device-info", Number.getDeviceInfo, bytes(.u32(16), .u32(3), .u32(9), .u32(5))),
            reply(
                "region-info", Number.getRegionInfo,
                bytes(
                    .u32(104), .u32(15), .u32(0), .u32(32), .u64(0x4000), .u64(0x2000), .raw(areas), .raw(type),
                    .u16(3), .u16(1), .u32(0))),
            reply(
                "io-descriptors", Number.getRegionIODescriptors,
                bytes(.u32(96), .u32(0), .u32(0), .u32(2), .raw(descriptor), .raw(descriptor))),
            reply("interrupt-info", Number.getInterruptInfo, bytes(.u32(16), .u32(9), .u32(2), .u32(32))),
            reply("read", Number.readRegion, bytes(.u64(0x10), .u32(7), .u32(4), .u32(1))),
            reply("writes", Number.writeRegions, bytes(.u64(2))),
            reply("feature", Number.deviceFeature, bytes(.u32(16), .u32(1 | 1 << 16), .u64(5))),
            reply("migration-read", Number.readMigrationData, bytes(.u32(16), .u32(8), .u64(~0))),
            reply("memory-read", Number.readClientMemory, bytes(.u64(0x1000), .u64(8), .u64(~0))),
            reply("memory-read-legacy", Number.readClientMemory, bytes(.u64(0x1000), .u32(8), .u64(~0), .u32(0))),
        ]
    }

    /// A few layouts in a row, with some bytes changed, taken out or put in; now and then bytes at random.
    public static func input(seed: UInt64, number: UInt64) -> [UInt8] {
        var random = SeededNumbers(seed: seed, run: number)
        if random.below(32) == 0 { return random.bytes(random.below(200)) }
        if random.below(5) == 0 {
            var text = versionPayload(proposals[random.below(proposals.count)])
            change(&text, times: random.below(4), &random)
            return [UInt8(3 | random.below(16) << 2)] + text
        }
        let layouts = requests + replies
        var stream: [UInt8] = [UInt8(random.below(85) * 3)]
        if stream[0] & 3 == 3 { stream[0] = 1 }
        for _ in 0...random.below(6) {
            let layout = layouts[random.below(layouts.count)]
            var payload = layout.payload
            if random.below(2) == 0 { change(&payload, times: 1 + random.below(3), &random) }
            stream += message(layout.command, id: UInt16(random.below(0x1_0000)), flags: layout.flags, payload)
        }
        if random.below(4) == 0 { change(&stream, times: 1 + random.below(3), &random) }
        return stream
    }

    private static func change(_ bytes: inout [UInt8], times: Int, _ random: inout SeededNumbers) {
        for _ in 0..<times where !bytes.isEmpty {
            let place = random.below(bytes.count)
            switch random.below(6) {
            case 0: bytes[place] = UInt8(truncatingIfNeeded: random.next())
            case 1: bytes[place] ^= 1 << UInt8(random.below(8))
            case 2: bytes.removeSubrange(place..<min(bytes.count, place + 1 + random.below(8)))
            case 3: bytes.insert(contentsOf: random.bytes(1 + random.below(24)), at: place)
            case 4:
                let edges: [UInt64] = [0, 1, 8, 15, 16, 24, 32, 40, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x10_0021]
                let word = place & ~3
                if word + 4 <= bytes.count { bytes.put(edges[random.below(edges.count)], at: word, byteCount: 4) }
            default: bytes[place] = [0, 0xff, 0x7f, 0x80, UInt8(ascii: "\""), UInt8(ascii: "}")][random.below(6)]
            }
        }
    }
}
