import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

@Suite struct Description {
    @Test(arguments: [16, 32, 4096, 0xffff_ffff] as [UInt32])
    func `S64 the device is a PCI device that can be reset, with nine regions and five interrupt indexes`(
        argsz: UInt32
    ) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo(argsz: argsz))
            #expect(reply.payload == bytes(.u32(16), .u32(3), .u32(9), .u32(5)))
        }
    }

    @Test func `S64 what clients leave in the other fields of the question does not matter`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.succeed(
                Number.getDeviceInfo, bytes(.u32(32), .u32(.max), .u32(.max), .u32(7), .zeros(16)))
            #expect(reply.size == 32)
        }
    }

    @Test func `S64 a question for the device that is too short, or says so, is refused`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for payload in [Payload.deviceInfo(argsz: 0), Payload.deviceInfo(argsz: 15), [16, 0, 0, 0]] {
                let reply = try peer.call(Number.getDeviceInfo, payload)
                #expect(reply.error == invalid)
            }
        }
    }

    @Test func `S65 every region up to eight is described, absent ones by their size`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for index in 0..<9 as Range<UInt32> {
                let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(index))
                let size: UInt64 = index == 0 ? 1 << 20 : index == 7 ? 256 : 0
                let flags: UInt32 = size == 0 ? 0 : 3
                #expect(
                    reply.payload
                        == bytes(.u32(32), .u32(flags), .u32(index), .u32(0), .u64(size), .u64(0)))
                #expect(reply.descriptors.isEmpty)
            }
        }
    }

    @Test func `S66 a region that does not exist, or a question that is too short, is refused`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            for payload in [
                Payload.regionInfo(9), Payload.regionInfo(.max), Payload.regionInfo(0, argsz: 31),
                Array(Payload.regionInfo(0).prefix(31)),
            ] {
                let reply = try peer.call(Number.getRegionInfo, payload)
                #expect(reply.error == invalid)
            }
        }
    }

    @Test(arguments: [32, 33, 79] as [UInt32])
    func `S67 a client with too little room gets the fixed part, and learns how much to ask for`(argsz: UInt32) throws {
        try withPeer(of: WindowDevice()) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: argsz))
            #expect(reply.size == 48)
            // Readable, writable, mappable; the flag for capabilities is clear, for there are none here.
            #expect(
                reply.payload == bytes(.u32(80), .u32(7), .u32(0), .u32(0), .u64(0x4000), .u64(0x2000)))
            #expect(reply.descriptors.isEmpty)
        }
    }

    @Test(arguments: [80, 81, 4096, 0xffff_ffff] as [UInt32])
    func `S67 S68 a client with room enough gets it all, with one descriptor`(argsz: UInt32) throws {
        try withPeer(of: WindowDevice()) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: argsz))
            #expect(reply.size == 16 + 80)
            #expect(
                reply.payload
                    == bytes(
                        .u32(80), .u32(15), .u32(0), .u32(32), .u64(0x4000), .u64(0x2000),
                        .u16(1), .u16(1), .u32(0), .u32(2), .u32(0),
                        .u64(0x1000), .u64(0x1000), .u64(0x3000), .u64(0x1000)))
            #expect(reply.descriptors.count == 1 && reply.strays.isEmpty)
        }
    }

    @Test func `S67 a region without capabilities takes the room it needs, however much there is`() throws {
        try withPeer(of: WindowDevice()) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(7, argsz: 4096))
            #expect(reply.payload == bytes(.u32(32), .u32(3), .u32(7), .u32(0), .u64(256), .u64(0)))
            #expect(reply.descriptors.isEmpty)
        }
    }

    @Test func `S69 the areas that can be mapped are whole pages in order, within their region`() throws {
        try withPeer(of: WindowDevice()) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: 80))
            let size = reply.payload.u64(at: 16)
            var end: UInt64 = 0
            for index in 0..<Int(reply.payload.u32(at: 40)) {
                let first = reply.payload.u64(at: 48 + index * 16)
                let count = reply.payload.u64(at: 56 + index * 16)
                #expect(first >= end && count > 0 && first % 4096 == 0 && count % 4096 == 0)
                end = first + count
            }
            #expect(end > 0 && end <= size)
        }
    }

    @Test func `S69 nothing covers the MSI-X table, for its region cannot be mapped at all`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: 4096))
            #expect(reply.payload.u32(at: 4) == 3 && reply.descriptors.isEmpty)
        }
    }

    @Test func `S70 base address registers have sizes that are powers of two, and 64-bit ones an empty second half`()
        throws
    {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            var sizes: [UInt64] = []
            for index in 0..<8 as Range<UInt32> {
                sizes.append(try peer.succeed(Number.getRegionInfo, Payload.regionInfo(index)).payload.u64(at: 16))
            }
            #expect(sizes == [0x10000, 0, 32, 0x1000, 0, 0, 0, 4096])
        }
    }

    @Test func `S71 what is mapped and what is asked for by messages are the same bytes`() throws {
        try withPeer(of: WindowDevice()) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: 80))
            let descriptor = try #require(reply.descriptors.first)
            let offset = reply.payload.u64(at: 24)
            for area in 0..<2 {
                let first = reply.payload.u64(at: 48 + area * 16)
                let count = reply.payload.u64(at: 56 + area * 16)
                let window = try MemoryWindow(descriptor.number, at: offset + first, byteCount: Int(count))
                window[0..<64] = pattern(64, seed: UInt8(area))
                #expect(try peer.read(0, at: first, count: 64) == pattern(64, seed: UInt8(area)))
                try peer.write(0, at: first + 0xfc0, pattern(64, seed: 99))
                #expect(window[0xfc0..<0x1000] == pattern(64, seed: 99))
            }
            // Messages reach the rest of the region, too.
            try peer.write(0, at: 0x10, pattern(16))
            #expect(try peer.read(0, at: 0x10, count: 16) == pattern(16))
        }
    }

    @Test func `S72 a region without descriptors for its accesses has none, which is an answer`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            for argsz in [16, 4096] as [UInt32] {
                let reply = try peer.succeed(
                    Number.getRegionIODescriptors, bytes(.u32(argsz), .u32(0), .u32(0), .u32(0)))
                #expect(reply.payload == bytes(.u32(16), .u32(0), .u32(0), .u32(0)))
                #expect(reply.descriptors.isEmpty)
            }
        }
    }

    @Test(arguments: [
        bytes(.u32(16), .u32(1), .u32(0), .u32(0)), bytes(.u32(16), .u32(0), .u32(9), .u32(0)),
        bytes(.u32(16), .u32(0), .u32(0), .u32(1)), bytes(.u32(15), .u32(0), .u32(0), .u32(0)),
        bytes(.u32((1 << 20) + 1), .u32(0), .u32(0), .u32(0)), bytes(.u32(16), .u32(0), .u32(1), .u32(0)),
        bytes(.u32(16), .u32(0), .u32(0)),
    ])
    func `S72 a question for descriptors that makes no sense is refused`(payload: [UInt8]) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(Number.getRegionIODescriptors, payload)
            #expect(reply.error == invalid)
        }
    }
}

/// A part of a file, mapped as a client maps an area of a region.
@safe
private final class MemoryWindow {
    private let bytes: UnsafeMutableRawBufferPointer

    init(_ descriptor: Int32, at offset: UInt64, byteCount: Int) throws {
        let address = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, Int(offset))
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw Errno(rawValue: errno) }
        unsafe bytes = UnsafeMutableRawBufferPointer(start: address, count: byteCount)
    }

    deinit { unsafe munmap(bytes.baseAddress, bytes.count) }

    subscript(range: Range<Int>) -> [UInt8] {
        get { unsafe Array(bytes[range]) }
        set { unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[range]).copyBytes(from: newValue) }
    }
}
