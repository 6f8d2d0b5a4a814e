import LinuxHost
import Testing
import VFIOUserCheck

/// A guest with an NVMe disk that moves: its queues are in memory that is mapped, its data in memory that only messages
/// reach, so that the client has every transfer of data in its hand.
///
/// Layouts are spelled out by number, from the standard.
final class MovingDisk {
    private static let queueBase: UInt64 = 0x10_0000
    private static let dataBase: UInt64 = 0x80_0000
    private let queues: ClientMemoryFile
    let remote: PeerMemory
    /// What the image holds at the end.
    private(set) var expectedImage = pattern(1 << 20, seed: 5)
    private var tails: [Int: Int] = [:]

    /// Queue 0 has 16 entries both ways, queue 1 has 16, queue 2 has 16 commands and 4 completions.
    private enum Layout {
        static func submission(_ queue: Int) -> Int { queue * 0x2000 }
        static func completion(_ queue: Int) -> Int { queue * 0x2000 + 0x1000 }
        static func completionCount(_ queue: Int) -> Int { queue == 2 ? 4 : 16 }
    }

    init() {
        do {
            queues = try ClientMemoryFile(byteCount: 0x6000)
        } catch {
            fatalError("no memory for a test: \(error)")
        }
        remote = PeerMemory(byteCount: 0x10000, at: Self.dataBase)
    }

    /// Shows the memory to a server.
    func connect(_ peer: RawPeer) throws {
        try peer.succeed(Number.mapDMA, Payload.map(at: Self.queueBase, size: 0x6000), [queues.number])
        try peer.succeed(Number.mapDMA, Payload.map(at: Self.dataBase, size: 0x10000))
    }

    /// Switches MSI-X and the controller on and makes two queue pairs.
    func start(_ peer: RawPeer) throws {
        try peer.enableBusMaster()
        var capability = try peer.read(Region.configuration, at: 0x34, count: 1).number
        while try peer.read(Region.configuration, at: capability, count: 1).number != 0x11 {
            capability = try peer.read(Region.configuration, at: capability + 1, count: 1).number
        }
        try peer.write(Region.configuration, at: capability + 3, [0x80])
        try peer.write(0, at: 0x24, bytes(.u32(15 | 15 << 16)))
        try peer.write(0, at: 0x28, bytes(.u64(Self.queueBase)))
        try peer.write(0, at: 0x30, bytes(.u64(Self.queueBase + 0x1000)))
        try peer.write(0, at: 0x14, bytes(.u32(1 | 6 << 16 | 4 << 20)))
        try eventually { try peer.read(0, at: 0x1c, count: 4).number == 1 }
        for queue in 1...2 {
            let (count, commands) = (Layout.completionCount(queue), 16)
            try runAdmin(
                0x05, UInt16(queue * 2), prp1: Self.queueBase + UInt64(Layout.completion(queue)),
                UInt32(count - 1) << 16 | UInt32(queue), UInt32(queue) << 16 | 0b11, peer)
            try runAdmin(
                0x01, UInt16(queue * 2 + 1), prp1: Self.queueBase + UInt64(Layout.submission(queue)),
                UInt32(commands - 1) << 16 | UInt32(queue), UInt32(queue) << 16 | 1, peer)
        }
    }

    /// Leaves the controller with a parked request, a full completion queue, four transfers that the client owes an answer,
    /// and two commands that nobody has fetched.
    ///
    /// - Returns: what the server has asked for.
    func loadWithWork(_ peer: RawPeer) throws -> [PeerMemory.Request] {
        put(0x0c, 100, in: 0)
        try ring(0, peer)
        for number in 0..<6 { put(0x00, UInt16(200 + number), in: 2) }
        try ring(2, peer)
        try eventually { completions(of: 2).count == 3 }
        // Three reads, then three writes, of eight blocks each.
        for number in 0..<6 {
            let isWrite = number >= 3
            put(
                isWrite ? 0x01 : 0x02, UInt16(300 + number), in: 1, prp1: Self.dataBase + UInt64(number) * 4096,
                block: UInt32(number * 16))
            guard isWrite else { continue }
            let place = number * 16 * 512
            expectedImage.replaceSubrange(place..<place + 4096, with: remote.bytes[number * 4096..<(number + 1) * 4096])
        }
        try ring(1, peer)
        var outstanding: [PeerMemory.Request] = []
        while outstanding.count < 4 {
            let request = try remote.nextRequest(peer)
            if request.count == 0 {
                try remote.answer(request, peer)
            } else {
                outstanding.append(request)
            }
        }
        return outstanding
    }

    /// Answers all that the server asks for, and expects every command to be completed once.
    func finishWork(_ peer: RawPeer) throws {
        remote.bytes.replaceSubrange(0..<3 * 4096, with: [UInt8](repeating: 0xcc, count: 3 * 4096))
        var served = 0
        while served < 6 {
            let request = try remote.nextRequest(peer)
            try remote.answer(request, peer)
            if request.count > 0 { served += 1 }
        }
        try eventually { completions(of: 1).count == 6 }
        #expect(completions(of: 1).map(\.command).sorted() == (300..<306).map { UInt16($0) })
        #expect(completions(of: 1).allSatisfy { $0.status == 0 && $0.queue == 1 })
        for number in 0..<3 {
            let place = number * 16 * 512
            #expect(remote.bytes[number * 4096..<(number + 1) * 4096] == expectedImage[place..<place + 4096])
        }
        // The full queue is still full of the same three, until the guest has taken them.
        let first = completions(of: 2)
        #expect(first.count == 3)
        try peer.write(0, at: 0x1000 + 2 * 8 + 4, bytes(.u32(3)))
        // Slot 3 ends the first round, slots 0 and 1 belong to the second; they are written in any order.
        try eventually { completions(of: 2).count == 2 && completions(of: 2, round: 1).count == 2 }
        let all = first + completions(of: 2).suffix(1) + completions(of: 2, round: 1)
        #expect(Set(all.map(\.command)) == Set(200..<206) && all.count == 6)
        #expect(all.allSatisfy { $0.status == 0 })
        // The parked request: a doorbell of a queue that does not exist is an event.
        #expect(completions(of: 0).count == 4)
        try peer.write(0, at: 0x1000 + 3 * 8, bytes(.u32(1)))
        try eventually { completions(of: 0).count == 5 }
        #expect(completions(of: 0).last.map { $0.command == 100 && $0.result == 0x0001_0000 } == true)
        // And new commands work as ever.
        put(0x00, 400, in: 1)
        try ring(1, peer)
        try eventually { completions(of: 1).count == 7 }
        #expect(completions(of: 1).last?.command == 400)
    }
}

/// Queues.
extension MovingDisk {
    struct Completion {
        let command, status, queue: UInt16
        let result: UInt32
    }

    /// The completions in a queue's slots, as far as they are of a round, counted from 0.
    func completions(of queue: Int, round: Int = 0) -> [Completion] {
        (0..<Layout.completionCount(queue)).compactMap { slot in
            let start = Layout.completion(queue) + slot * 16
            let entry = queues[start..<start + 16]
            let last = entry.u32(at: 12)
            // The phase tag of the first round is one.
            guard last >> 16 & 1 == UInt32(1 - round % 2), last != 0 else { return nil }
            return Completion(
                command: UInt16(last & 0xffff), status: UInt16(last >> 17 & 0x7ff), queue: entry.u16(at: 10),
                result: entry.u32(at: 0))
        }
    }

    private func put(
        _ opcode: UInt32, _ command: UInt16, in queue: Int, prp1: UInt64 = 0, block: UInt32 = 0,
        _ dword10: UInt32? = nil,
        _ dword11: UInt32 = 0
    ) {
        let tail = tails[queue, default: 0]
        let start = Layout.submission(queue) + tail * 64
        // Commands on blocks are of eight blocks; others have no use for dword 12.
        let entry = bytes(
            .u32(opcode | UInt32(command) << 16), .u32(queue == 0 ? 0 : 1), .zeros(16), .u64(prp1), .u64(0),
            .u32(dword10 ?? block), .u32(dword11), .u32(queue == 0 ? 0 : 7), .zeros(12))
        queues[start..<start + 64] = entry
        tails[queue] = (tail + 1) % 16
    }

    private func ring(_ queue: Int, _ peer: RawPeer) throws {
        try peer.write(0, at: 0x1000 + UInt64(queue) * 8, bytes(.u32(UInt32(tails[queue, default: 0]))))
    }

    private func runAdmin(
        _ opcode: UInt32, _ command: UInt16, prp1: UInt64, _ dword10: UInt32, _ dword11: UInt32, _ peer: RawPeer
    ) throws {
        let before = completions(of: 0).count
        put(opcode, command, in: 0, prp1: prp1, dword10, dword11)
        try ring(0, peer)
        try eventually { completions(of: 0).count == before + 1 }
        #expect(completions(of: 0).last.map { $0.command == command && $0.status == 0 } == true)
    }
}
