import Edu
import LinuxHost
import Testing
import VFIOUserCheck

private typealias Operation = Payload.FeatureOperation

private let base: UInt64 = 0x10_0000

extension RawPeer {
    fileprivate func startLogging(pageSize: UInt64 = 4096, _ ranges: [(UInt64, UInt64)] = []) throws -> RawMessage {
        let list = ranges.flatMap { bytes(.u64($0.0), .u64($0.1)) }
        let data = bytes(.u64(pageSize), .u32(UInt32(ranges.count)), .u32(0), .raw(list))
        return try call(
            Number.deviceFeature, Payload.feature(6, Operation.set, argsz: UInt32(8 + data.count), data))
    }

    fileprivate func stopLogging() throws -> RawMessage {
        try call(Number.deviceFeature, Payload.feature(7, Operation.set))
    }

    fileprivate func report(
        at address: UInt64, _ size: UInt64, pageSize: UInt64 = 4096, argsz: UInt32 = 1 << 20
    ) throws -> RawMessage {
        try call(
            Number.deviceFeature,
            Payload.feature(8, Operation.get, argsz: argsz, bytes(.u64(address), .u64(size), .u64(pageSize))))
    }

    /// The numbers of the pages that are reported.
    fileprivate func dirtyPages(at address: UInt64, _ size: UInt64, pageSize: UInt64 = 4096) throws -> [Int] {
        let reply = try report(at: address, size, pageSize: pageSize)
        #expect(reply.error == nil)
        let pages = Int((size + pageSize - 1) / pageSize)
        #expect(reply.payload.count == 32 + (pages + 63) / 64 * 8 && reply.size == 16 + reply.payload.count)
        #expect(reply.payload.u32(at: 0) == UInt32(reply.payload.count))
        #expect(reply.payload[8..<32].elementsEqual(bytes(.u64(address), .u64(size), .u64(pageSize))))
        let bitmap = Array(reply.payload[32...])
        return (0..<bitmap.count * 8).filter { bitmap[$0 / 8] >> UInt8($0 % 8) & 1 != 0 }
    }
}

/// How the memory that edu writes to is mapped.
enum Mapped: CaseIterable {
    case directly, byMessages, byFileIO
}

@Suite struct DMALogging {
    /// Runs `body` with edu behind 64 pages of memory at `base`, and a way to have it write a few bytes.
    private func withEdu(
        _ mapped: Mapped = .directly, _ body: (RawPeer, _ write: (UInt64, Int) throws -> Void) throws -> Void
    ) throws {
        let size: UInt64 = 64 << 12
        let memory = try ClientMemoryFile(byteCount: Int(size))
        try withPeer(of: Edu.makeFunction()) { peer in
            let remote = PeerMemory(byteCount: Int(size), at: base)
            switch mapped {
            case .directly: try peer.succeed(Number.mapDMA, Payload.map(at: base, size: size), [memory.number])
            case .byFileIO:
                try peer.succeed(Number.mapDMA, Payload.map(at: base, size: size, flags: 0b1011), [memory.number])
            case .byMessages: try peer.succeed(Number.mapDMA, Payload.map(at: base, size: size))
            }
            try peer.enableBusMaster()
            try body(peer) { address, count in
                try peer.startEduWrite(to: address, count: count)
                if mapped == .byMessages { _ = try remote.serve(peer, until: .writes(1)) }
                try peer.waitForEdu()
            }
        }
    }

    @Test(arguments: Mapped.allCases)
    func `S88 the pages that the device writes to are told once, however the memory is reached`(mapped: Mapped) throws {
        try withEdu(mapped) { peer, write in
            try write(base, 16)
            #expect(try peer.startLogging().error == nil)
            #expect(try peer.dirtyPages(at: base, 64 << 12) == [])
            try write(base + 0x3008, 16)
            try write(base + 0x5ff8, 16)
            try write(base + (63 << 12), 4096)
            #expect(try peer.dirtyPages(at: base, 64 << 12) == [3, 5, 6, 63])
            #expect(try peer.dirtyPages(at: base, 64 << 12) == [])
            try write(base + 0x4000, 1)
            #expect(try peer.dirtyPages(at: base + 0x4000, 0x1000) == [0])
        }
    }

    @Test func `S88 a read of the device makes no page dirty`() throws {
        try withEdu { peer, _ in
            #expect(try peer.startLogging().error == nil)
            try peer.eduRead(from: base, count: 4096)
            #expect(try peer.dirtyPages(at: base, 64 << 12) == [])
        }
    }

    @Test func `S88 pages can have any size, and a report forgets what it told of and nothing else`() throws {
        try withEdu { peer, write in
            #expect(try peer.startLogging(pageSize: 1 << 16).error == nil)
            for page in [1, 17, 18, 40] as [UInt64] { try write(base + page << 12, 8) }
            #expect(try peer.dirtyPages(at: base, 32 << 12, pageSize: 1 << 16) == [0, 1])
            #expect(try peer.dirtyPages(at: base, 64 << 12) == [40])
            try write(base + 2 << 12, 8)
            #expect(try peer.dirtyPages(at: 0, 1 << 62, pageSize: 1 << 60) == [0])
            // A last page that is there in part only has its bit.
            try write(base + 0x10000, 8)
            #expect(try peer.dirtyPages(at: base, 0x10001, pageSize: 1 << 16) == [1])
        }
    }

    @Test func `S88 writes outside of the ranges that were asked for are not told`() throws {
        try withEdu { peer, write in
            #expect(try peer.startLogging([(base + 0x2000, 0x2000), (base + 0x8000, 0x1000)]).error == nil)
            for page in 0..<12 as Range<UInt64> { try write(base + page << 12, 8) }
            #expect(try peer.dirtyPages(at: base, 64 << 12) == [2, 3, 8])
            try write(base + 0x1000, 8)
            #expect(try peer.dirtyPages(at: base, 64 << 12, pageSize: 1 << 14) == [])
            try write(base + 0x3000, 8)
            #expect(try peer.dirtyPages(at: base, 64 << 12, pageSize: 1 << 14) == [0])
        }
    }

    @Test func `S88 a report is refused before the start and after the end, a second start too`() throws {
        try withEdu { peer, write in
            #expect(try peer.report(at: base, 0x1000).error == invalid)
            #expect(try peer.startLogging().error == nil)
            #expect(try peer.startLogging().error == invalid)
            try write(base, 8)
            #expect(try peer.stopLogging().error == nil)
            #expect(try peer.report(at: base, 0x1000).error == invalid)
            #expect(try peer.startLogging().error == nil)
            #expect(try peer.dirtyPages(at: base, 0x1000) == [], "what was written before is not remembered")
        }
    }

    @Test func `S88 the answer to a start says which page size is used`() throws {
        try withEdu { peer, _ in
            let small = try peer.startLogging(pageSize: 512, [(base, 0x1000)])
            #expect(small.error == nil && small.payload.u64(at: 8) == 4096)
            #expect(small.payload[16...].elementsEqual(bytes(.u32(1), .u32(0), .u64(base), .u64(0x1000))))
            _ = try peer.stopLogging()
            #expect(try peer.startLogging(pageSize: 1 << 21).payload.u64(at: 8) == 1 << 21)
        }
    }

    @Test func `S88 a start that makes no sense is refused and starts nothing`() throws {
        try withEdu { (peer, _) throws in
            for pageSize in [0, 3, 4097, .max] as [UInt64] {
                #expect(try peer.startLogging(pageSize: pageSize).error == invalid)
            }
            #expect(try peer.startLogging([(base, 0)]).error == invalid)
            #expect(try peer.startLogging([(.max, 2)]).error == invalid)
            #expect(try peer.startLogging([(base, 0x2000), (base + 0x1000, 0x1000)]).error == invalid)
            #expect(try peer.startLogging((0..<257).map { (UInt64($0) << 12, 0x1000) }).error == invalid)
            // More ranges than there are bytes.
            for count in [1, 2, 1 << 28, .max] as [UInt32] {
                let data = bytes(.u64(4096), .u32(count), .u32(0), .zeros(count == 2 ? 31 : 0))
                let payload = Payload.feature(6, Operation.set, argsz: UInt32(8 + data.count), data)
                #expect(try peer.call(Number.deviceFeature, payload).error == invalid)
            }
            #expect(try peer.report(at: base, 0x1000).error == invalid)
            #expect(try peer.startLogging((0..<256).map { (UInt64($0) << 12, 0x1000) }).error == nil)
        }
    }

    @Test func `S88 a report that makes no sense, or that no message holds, is refused and forgets nothing`() throws {
        try withEdu { peer, write in
            #expect(try peer.startLogging().error == nil)
            try write(base, 8)
            for (address, size, pageSize) in [
                (base, 0, 4096), (base, 0x1000, 0), (base, 0x1000, 2048), (base, 0x1000, 12288),
                (base + 1, 0x1000, 4096), (.max - 4095, 8192, 4096), (0, .max, 4096), (0, 1 << 36, 4096),
            ] as [(UInt64, UInt64, UInt64)] {
                #expect(try peer.report(at: address, size, pageSize: pageSize).error == invalid)
            }
            #expect(try peer.report(at: base, 0x1000, argsz: 39).error == invalid)
            #expect(try peer.report(at: base, 0x1000, argsz: 31).error == invalid)
            let short = Payload.feature(8, Operation.get, argsz: 64, bytes(.u64(base), .u64(4096)))
            #expect(try peer.call(Number.deviceFeature, short).error == invalid)
            #expect(try peer.report(at: base, 0x1000, argsz: 40).payload[32...].elementsEqual(bytes(.u64(1))))
        }
    }

    @Test func `S88 the largest report there is fills a message`() throws {
        try withEdu { peer, write in
            #expect(try peer.startLogging().error == nil)
            try write(base, 8)
            let reply = try peer.report(at: 0, 1 << 35, argsz: 32 + 1 << 20)
            #expect(reply.error == nil && reply.payload.count == 32 + 1 << 20)
            #expect(reply.payload[32 + Int(base >> 15)] == 1)
        }
    }

    @Test func `S88 S100 a client that leaves takes its log along`() throws {
        try withServer(of: try Edu.makeFunction()) { server in
            let first = try server.connect()
            #expect(try first.startLogging().error == nil)
            first.close()
            server.waitForGoneClients(1)
            let second = try server.connect()
            #expect(try second.report(at: base, 0x1000).error == invalid)
            #expect(try second.startLogging().error == nil)
        }
    }
}
