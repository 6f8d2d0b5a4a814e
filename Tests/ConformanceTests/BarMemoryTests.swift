import DMA
import DeviceModel
import Glibc
import LinuxHost
import PCI
import Testing
import VFIOUserCheck

/// Base address registers of a PCI function that are memory, as a client sees them.
@Suite struct `Memory that a client maps` {
    @Test func `S67 S68 S69 pages of a register are told as areas, clear of the MSI-X structures`() throws {
        let (function, _) = try Board.makeFunction()
        try withPeer(of: function) { peer in
            let short = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0))
            #expect(short.payload == bytes(.u32(80), .u32(7), .u32(0), .u32(0), .u64(0x8000), .u64(0)))
            #expect(short.descriptors.isEmpty)
            let full = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: 80))
            #expect(
                full.payload
                    == bytes(
                        .u32(80), .u32(15), .u32(0), .u32(32), .u64(0x8000), .u64(0),
                        .u16(1), .u16(1), .u32(0), .u32(2), .u32(0),
                        .u64(0x1000), .u64(0x1000), .u64(0x4000), .u64(0x4000)))
            #expect(full.descriptors.count == 1 && full.strays.isEmpty)
            let whole = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(2, argsz: 64))
            #expect(
                whole.payload[32...].elementsEqual(
                    bytes(.u16(1), .u16(1), .u32(0), .u32(1), .u32(0), .u64(0), .u64(0x10000))))
            #expect(whole.descriptors.count == 1)
        }
    }

    @Test func `S71 the client's mapping, its messages and the model see the same bytes`() throws {
        let (function, memory) = try Board.makeFunction()
        try withPeer(of: function) { peer in
            let window = try peer.map(0)
            unsafe window.bytes[0x1010] = 77
            #expect(try peer.read(0, at: 0x1010, count: 1) == [77])
            #expect(memory.read(at: 0x1010, byteCount: 1) == 77)
            try peer.write(0, at: 0x7ff0, pattern(16))
            #expect(unsafe window.bytes[0x7ff0..<0x8000].elementsEqual(pattern(16)))
            memory.write(0x0102_0304, at: 0x4000, byteCount: 4)
            #expect(try peer.read(0, at: 0x4000, count: 4) == [4, 3, 2, 1])
            // What is no memory is registers: the mapping has nothing to do with them.
            unsafe window.bytes[0x10] = 1
            #expect(try peer.read(0, at: 0x10, count: 1) == [Board.registerValue])
            // The vectors' table is the function's own.
            unsafe window.bytes[0x2000] = 0xff
            #expect(try peer.read(0, at: 0x2000, count: 1) == [0])
        }
    }

    @Test func `S35 S71 a client without descriptors reaches it by messages`() throws {
        let (function, memory) = try Board.makeFunction()
        try withPeer(of: function, negotiated: false) { peer in
            try peer.negotiate(#"{"capabilities":{"max_msg_fds":0}}"#)
            let info = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: 4096))
            #expect(info.payload == bytes(.u32(32), .u32(3), .u32(0), .u32(0), .u64(0x8000), .u64(0)))
            #expect(info.descriptors.isEmpty)
            try peer.write(0, at: 0x1000, pattern(0x1000))
            #expect(try peer.read(0, at: 0x1000, count: 0x1000) == pattern(0x1000))
            #expect(memory.read(at: 0x1001, byteCount: 1) == UInt64(pattern(2)[1]))
        }
    }

    @Test func `S99 S100 a reset and a client that leaves keep the bytes`() throws {
        let (function, _) = try Board.makeFunction()
        try withServer(of: function) { server in
            let first = try server.connect()
            let window = try first.map(2)
            unsafe window.bytes[0xffff] = 9
            try first.succeed(Number.resetDevice)
            #expect(try first.read(2, at: 0xffff, count: 1) == [9])
            first.close()
            let second = try server.connect()
            #expect(try second.read(2, at: 0xffff, count: 1) == [9])
        }
    }

    @Test func `a client cannot shrink the memory, and so cannot make an access fail`() throws {
        let (function, _) = try Board.makeFunction()
        try withPeer(of: function) { peer in
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(2, argsz: 64))
            let descriptor = try #require(reply.descriptors.first)
            #expect(ftruncate(descriptor.number, 0) == -1)
            #expect(ftruncate(descriptor.number, 1 << 30) == -1)
            #expect(throws: Errno.self) { try descriptor.owned.add(.write) }
            #expect(try peer.read(2, at: 0, count: 1) == [0])
        }
    }
}

extension RawPeer {
    /// The file behind a region, mapped from its start.
    fileprivate func map(_ region: UInt32) throws -> MemoryObject {
        let reply = try succeed(Number.getRegionInfo, Payload.regionInfo(region, argsz: 4096))
        guard let descriptor = reply.descriptors.first else { throw PeerFailure.refused(reply) }
        return try MemoryObject(adopting: descriptor.owned.duplicate().take())
    }
}

/// A function whose BAR 0 is 32 KiB with memory in its second page and from its fifth on, and the MSI-X structures between
/// them; its other registers all read the same. BAR 2 is 64 KiB of memory.
private final class Board: PCIDeviceModel {
    static let registerValue: UInt8 = 0x5a

    static func makeFunction() throws -> (PCIFunction<Board>, BarMemory) {
        let memory = try BarMemory(bar: 0, areas: [0x1000..<0x2000, 0x4000..<0x8000])
        let second = BaseAddressRegister(2, .memory32, byteCount: 0x10000)
        let description = PCIDescription(
            vendorID: 0x1b36, deviceID: 0x0d02, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
            bars: [BaseAddressRegister(0, .memory64, byteCount: 0x8000), second],
            msix: MSIXDescription(vectorCount: 4, bar: 0, tableOffset: 0x2000, pendingOffset: 0x3000),
            memory: [memory, try BarMemory(second)])
        return (PCIFunction(description) { _ in Board() }, memory)
    }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        (0..<byteCount).reduce(0) { value, _ in value << 8 | UInt64(Self.registerValue) }
    }

    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {}
    func reset() {}
}
