import Edu
import LinuxHost
import Testing
import VFIOUserCheck

private let base: UInt64 = 0x10_0000

/// A connection to edu with memory at `base` that only messages reach.
private func withRemoteMemory(
    byteCount: Int = 0x4000, layout: PeerMemory.Layout = .standard, capabilities: String = Payload.qemuCapabilities,
    _ body: (RawPeer, PeerMemory) throws -> Void
) throws {
    try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
        try peer.negotiate(capabilities)
        try peer.succeed(Number.mapDMA, Payload.map(at: base, size: UInt64(byteCount)))
        try peer.enableBusMaster()
        try body(peer, PeerMemory(byteCount: byteCount, at: base, layout: layout))
    }
}

@Suite struct MessageDMA {
    @Test func `S57 the device reads and writes memory that came without a descriptor by messages`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base + 0x123, count: 1000)
            let reads = try memory.serve(peer, until: .reads(1))
            #expect(reads.map(\.address) == [base + 0x123] && reads.map(\.count) == [1000])
            // A request to read is a header, an address and a count of 64 bits.
            #expect(reads[0].message.size == 32 && reads[0].message.flags == 0)
            #expect(reads[0].message.descriptors.isEmpty)
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x2001, count: 1000)
            let writes = try memory.serve(peer, until: .writes(1))
            #expect(writes[0].message.size == 32 + 1000)
            #expect(writes[0].message.payload.u64(at: 8) == 1000)
            #expect(memory.bytes[0x2001..<0x2001 + 1000] == memory.bytes[0x123..<0x123 + 1000])
            try peer.waitForEdu()
        }
    }

    @Test(arguments: [1, 100, 512, 4095])
    func `S57 S35 no message carries more data than the client takes`(limit: Int) throws {
        let capabilities = #"{"capabilities":{"max_data_xfer_size":\#(limit)}}"#
        try withRemoteMemory(capabilities: capabilities) { peer, memory in
            let count = limit == 1 ? 10 : 4096
            let messageCount = (count + limit - 1) / limit
            try peer.startEduRead(from: base, count: count)
            let reads = try memory.serve(peer, until: .reads(messageCount))
            #expect(reads.allSatisfy { $0.count <= limit } && reads.map(\.count).reduce(0, +) == count)
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x2000, count: count)
            let writes = try memory.serve(peer, until: .writes(messageCount))
            #expect(writes.allSatisfy { $0.count <= limit })
            #expect(memory.bytes[0x2000..<0x2000 + count] == memory.bytes[0..<count])
            try peer.waitForEdu()
        }
    }

    @Test func `S57 after an answer of fewer bytes the device asks for the rest`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base, count: 100)
            var request = try memory.nextRequest(peer)
            while request.count == 0 {
                try memory.answer(request, peer)
                request = try memory.nextRequest(peer)
            }
            try memory.reply(to: request, bytes(.u64(base), .u64(30), .raw(Array(memory.bytes[0..<30]))), peer)
            let rest = try memory.serve(peer, until: .reads(1))
            #expect(rest.map(\.address) == [base + 30] && rest.map(\.count) == [70])
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x1000, count: 100)
            request = try memory.nextRequest(peer)
            memory.bytes.replaceSubrange(0x1000..<0x1000 + 40, with: request.message.payload[16..<56])
            try memory.reply(to: request, bytes(.u64(base + 0x1000), .u64(40)), peer)
            #expect(try memory.serve(peer, until: .writes(1)).map(\.count) == [60])
            #expect(memory.bytes[0x1000..<0x1064] == memory.bytes[0..<100])
            try peer.waitForEdu()
        }
    }

    /// What a client may answer to a request that asks for `count` bytes at `address`, none of which is data.
    enum BadAnswer: CaseIterable {
        case error, errorWithoutNumber, nothing, noBytes, anotherAddress, moreThanAsked, lessThanStated, hugeCount
    }

    @Test(arguments: BadAnswer.allCases)
    func `S57 an error, or an answer that makes no sense, fails the transfer and nothing else`(answer: BadAnswer) throws
    {
        try withRemoteMemory { peer, memory in
            // A good transfer first, so that the device has something to lose.
            try peer.startEduRead(from: base, count: 64)
            _ = try memory.serve(peer, until: .reads(1))
            try peer.waitForEdu()
            try peer.startEduRead(from: base + 0x100, count: 64)
            let request = try memory.nextRequest(peer)
            let data = [UInt8](repeating: 0xee, count: 64)
            switch answer {
            case .error: try memory.refuse(request, 14, peer)
            case .errorWithoutNumber: try memory.refuse(request, 0, peer)
            case .nothing: try memory.reply(to: request, [], peer)
            case .noBytes: try memory.reply(to: request, bytes(.u64(request.address), .u64(0)), peer)
            case .anotherAddress:
                try memory.reply(to: request, bytes(.u64(request.address + 1), .u64(64), .raw(data)), peer)
            case .moreThanAsked:
                try memory.reply(to: request, bytes(.u64(request.address), .u64(128), .raw(data + data)), peer)
            case .lessThanStated:
                try memory.reply(to: request, bytes(.u64(request.address), .u64(64), .raw(Array(data[0..<63]))), peer)
            case .hugeCount:
                try memory.reply(to: request, bytes(.u64(request.address), .u64(.max), .raw(data)), peer)
            }
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x1000, count: 64)
            _ = try memory.serve(peer, until: .writes(1))
            #expect(memory.bytes[0x1000..<0x1040] == memory.bytes[0..<64])
            try peer.waitForEdu()
        }
    }

    @Test func `S57 an error reply to a write fails that write and nothing else`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduWrite(to: base, count: 64)
            var request = try memory.nextRequest(peer)
            while request.count == 0 {
                try memory.answer(request, peer)
                request = try memory.nextRequest(peer)
            }
            try memory.refuse(request, 19, peer)
            try peer.waitForEdu()
            try peer.startEduWrite(to: base, count: 64)
            #expect(try memory.serve(peer, until: .writes(1)).count == 1)
            try peer.waitForEdu()
        }
    }

    @Test func `S58 S59 a client of the old layout is recognised before any data is at stake, and spoken to in it`()
        throws
    {
        try withRemoteMemory(layout: .legacy) { peer, memory in
            try peer.startEduRead(from: base + 0x40, count: 100)
            let probe = try memory.nextRequest(peer)
            #expect(probe.isWrite && probe.count == 0)
            try memory.answer(probe, peer)
            let read = try memory.nextRequest(peer)
            #expect(!read.isWrite && read.count == 100 && read.message.size == 32)
            try memory.answer(read, peer)
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x1000, count: 100)
            let write = try memory.nextRequest(peer)
            // As long as the standard's message; this is what such a client checks.
            #expect(write.isWrite && write.message.size == 32 + 100)
            try memory.answer(write, peer)
            #expect(memory.bytes[0x1000..<0x1064] == memory.bytes[0x40..<0xa4])
            try peer.waitForEdu()
        }
    }

    @Test func `S58 a client that refuses to write nothing is taken for one of the standard`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base, count: 64)
            let probe = try memory.nextRequest(peer)
            #expect(probe.count == 0)
            try memory.refuse(probe, invalid, peer)
            #expect(try memory.serve(peer, until: .reads(1)).map(\.count) == [64])
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x1000, count: 64)
            _ = try memory.serve(peer, until: .writes(1))
            #expect(memory.bytes[0x1000..<0x1040] == memory.bytes[0..<64])
            try peer.waitForEdu()
        }
    }

    @Test func `S60 the reply to the write that starts a transfer does not wait for the transfer`() throws {
        try withRemoteMemory { peer, memory in
            try peer.write(0, at: EduOffset.dmaSource, bytes(.u64(base)))
            try peer.write(0, at: EduOffset.dmaDestination, bytes(.u64(EduOffset.memory)))
            try peer.write(0, at: EduOffset.dmaCount, bytes(.u64(64)))
            try peer.send(
                message(Number.writeRegion, id: 9, Payload.write(0, at: EduOffset.dmaCommand, bytes(.u64(1)))))
            var requests: [RawMessage] = []
            var next = try peer.receive()
            while !next.isReply {
                requests.append(next)
                next = try peer.receive()
            }
            #expect(next.id == 9 && next.error == nil)
            // The device's first question is a write of nothing, so the read itself cannot have come yet.
            for request in requests { try memory.answer(try memory.parse(request), peer) }
            _ = try memory.serve(peer, until: .reads(1))
            try peer.waitForEdu()
        }
    }

    @Test func `S60 while a request goes unanswered the server answers everything else`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base, count: 64)
            let request = try memory.nextRequest(peer)
            #expect(try peer.read(0, at: 0, count: 4).number == 0x0100_00ed)
            try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo())
            try peer.succeed(Number.mapDMA, Payload.map(at: 0x4000_0000, size: 0x1000))
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0x4000_0000, size: 0x1000))
            #expect(try peer.isEduTransferring())
            try memory.answer(request, peer)
            _ = try memory.serve(peer, until: .reads(1))
            try peer.waitForEdu()
        }
    }

    @Test func `S61 nothing is asked of a client that shared all its memory by descriptors`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x1000)
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x1000), [memory.number])
            try peer.enableBusMaster()
            // Inside, across the end, and outside of what there is; `call` takes nothing but its reply.
            for address in [base, base + 0xfc0, base + 0xff0, base + 0x1000, 0] {
                try peer.eduRead(from: address, count: 64)
                try peer.eduWrite(to: address, count: 64)
            }
        }
    }

    @Test(arguments: ["unmap", "unmap everything", "reset"])
    func `S62 S54 an unmap and a reset do not wait for a request that is with the client`(what: String) throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base, count: 64)
            let request = try memory.nextRequest(peer)
            switch what {
            case "unmap": try peer.succeed(Number.unmapDMA, Payload.unmap(at: base, size: 0x4000))
            case "reset": try peer.succeed(Number.resetDevice)
            default: try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
            }
            try peer.waitForEdu()
            // The late answer is nobody's.
            try memory.answer(request, peer)
            try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo())
            // And what comes after is served as ever.
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
            try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
            try peer.enableBusMaster()
            try peer.startEduRead(from: base, count: 64)
            #expect(try memory.serve(peer, until: .reads(1)).count == 1)
            try peer.waitForEdu()
        }
    }

    @Test func `S62 S99 a reset ends a transfer between two of its messages as well`() throws {
        try withRemoteMemory(capabilities: #"{"capabilities":{"max_data_xfer_size":16}}"#) { peer, memory in
            for _ in 0..<500 {
                try peer.enableBusMaster()
                try peer.startEduWrite(to: base, count: 4096)
                var request = try memory.nextRequest(peer)
                while request.count == 0 {
                    try memory.answer(request, peer)
                    request = try memory.nextRequest(peer)
                }
                // The answer that lets the device go on, and the reset on its heels.
                let answer = message(
                    Number.writeClientMemory, id: request.id, flags: HeaderFlags.reply,
                    bytes(.u64(request.address), .u64(16)))
                try peer.send(answer + message(Number.resetDevice, id: 1))
                var next = try peer.receive()
                while !next.isReply { next = try peer.receive() }
                #expect(next.id == 1 && next.error == nil)
                // Once the reset has been answered the device asks for nothing: these take no message but their reply.
                for _ in 0..<20 { try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo()) }
                #expect(try !peer.isEduTransferring())
            }
        }
    }

    @Test func `S62 a client that leaves with a request unanswered makes room for the next`() throws {
        try withServer(of: Edu.makeFunction()) { server in
            for _ in 0..<3 {
                let peer = try server.connect()
                try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
                try peer.enableBusMaster()
                try peer.startEduRead(from: base, count: 64)
                _ = try PeerMemory(byteCount: 0x4000, at: base).nextRequest(peer)
                peer.close()
            }
            let last = try server.connect()
            try last.succeed(Number.mapDMA, Payload.map(at: base, size: 0x4000))
            try last.enableBusMaster()
            try last.waitForEdu()
            try last.startEduRead(from: base, count: 64)
            #expect(try PeerMemory(byteCount: 0x4000, at: base).serve(last, until: .reads(1)).count == 1)
            try last.waitForEdu()
        }
    }

    @Test func `S62 S20 a client that never answers keeps sixteen IDs and no more, until late answers come`() throws {
        try withRemoteMemory { peer, memory in
            func begin() throws {
                try peer.enableBusMaster()
                try peer.startEduRead(from: base, count: 64)
            }
            var unanswered: [PeerMemory.Request] = []
            for _ in 0..<16 {
                try begin()
                unanswered.append(try memory.nextRequest(peer))
                try peer.succeed(Number.resetDevice)
            }
            #expect(Set(unanswered.map(\.id)).count == 16)
            for _ in 0..<4 {
                try begin()
                // These take no message but their reply.
                for _ in 0..<5 { try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo()) }
                #expect(try peer.isEduTransferring())
                try peer.succeed(Number.resetDevice)
            }
            try begin()
            try memory.answer(unanswered[3], peer)
            let request = try memory.nextRequest(peer)
            #expect(unanswered.enumerated().allSatisfy { $0.offset == 3 || $0.element.id != request.id })
            try memory.answer(request, peer)
            for late in unanswered where late.id != unanswered[3].id { try memory.answer(late, peer) }
            _ = try memory.serve(peer, until: .reads(1))
            try peer.waitForEdu()
        }
    }

    @Test func `S63 the IDs of the two directions have nothing to do with each other`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base, count: 64)
            var request = try memory.nextRequest(peer)
            while request.count == 0 {
                try memory.answer(request, peer)
                request = try memory.nextRequest(peer)
            }
            // The very ID of the server's request, for a command of ours; and its answer after that of ours.
            try peer.send(message(Number.readRegion, id: request.id, Payload.read(0, at: 0, count: 4)))
            let reply = try peer.receive()
            #expect(reply.id == request.id && reply.isReply && reply.payload.u32(at: 16) == 0x0100_00ed)
            try memory.answer(request, peer)
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x1000, count: 64)
            _ = try memory.serve(peer, until: .writes(1))
            #expect(memory.bytes[0x1000..<0x1040] == memory.bytes[0..<64])
            try peer.waitForEdu()
        }
    }

    @Test func `S63 an answer that names another command than its ID stands for is nobody's`() throws {
        try withRemoteMemory { peer, memory in
            try peer.startEduRead(from: base, count: 64)
            var request = try memory.nextRequest(peer)
            while request.count == 0 {
                try memory.answer(request, peer)
                request = try memory.nextRequest(peer)
            }
            let data = bytes(.u64(base), .u64(64), .zeros(64))
            try peer.send(message(Number.writeClientMemory, id: request.id, flags: HeaderFlags.reply, data))
            try peer.send(message(Number.readClientMemory, id: request.id &+ 1, flags: HeaderFlags.reply, data))
            #expect(try peer.isEduTransferring())
            try memory.answer(request, peer)
            try peer.waitForEdu()
            try peer.startEduWrite(to: base + 0x1000, count: 64)
            _ = try memory.serve(peer, until: .writes(1))
            #expect(memory.bytes[0x1000..<0x1040] == memory.bytes[0..<64])
            try peer.waitForEdu()
        }
    }
}
