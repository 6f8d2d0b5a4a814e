import Edu
import LinuxHost
import PCI
import Randomness
import Testing
import VFIOUserRecording
import VFIOUserWire

@Suite struct `Playing a recording again` {
    private static let hurried: Replay.Options = {
        var options = Replay.Options()
        options.patience = .milliseconds(300)
        options.settling = .milliseconds(50)
        return options
    }()

    private func play(
        _ entries: [RecordingEntry], to golden: Golden, _ options: Replay.Options = hurried
    ) throws -> Replay {
        var replay = Replay()
        try serving(try golden.device()) { try replay.play(entries, conversation: 1, over: $0, options: options) }
        return replay
    }

    /// The entries, with the first message changed that `isMeant`.
    private func changing(
        _ entries: [RecordingEntry], where isMeant: (RecordedMessage) -> Bool, _ change: (inout RecordedMessage) -> Void
    ) throws -> [RecordingEntry] {
        var entries = entries
        let place = try #require(entries.firstIndex { $0.message.map(isMeant) ?? false })
        guard case .message(var message) = entries[place].event else { return entries }
        change(&message)
        entries[place].event = .message(message)
        return entries
    }

    @Test func `a byte that differs is found`() throws {
        // How many regions there are.
        let entries = try changing(
            try Golden.edu.entries(),
            where: { $0.direction == .toClient && $0.bytes[2] == 4 }, { $0.bytes[24] ^= 1 })
        let replay = try play(entries, to: .edu, .patient)
        #expect(replay.differenceCount == 1)
        #expect(replay.differences.first?.text.contains("device.regions=8") == true, "\(replay.differences)")
    }

    @Test func `a register that never becomes what it was is found`() throws {
        // The identity of the device, which QEMU reads first.
        let entries = try changing(
            try Golden.edu.entries(),
            where: { $0.direction == .toClient && $0.bytes[2] == 9 }, { $0.bytes[32] ^= 1 })
        let replay = try play(entries, to: .edu, Self.hurried)
        #expect(replay.differenceCount >= 1)
        #expect(replay.differences.first?.text.contains("data=3512e811") == true, "\(replay.differences)")
    }

    @Test func `an error that was none is found`() throws {
        let entries = try changing(
            try Golden.edu.entries(), where: { $0.direction == .toServer && $0.bytes[2] == 5 }
        ) { $0.bytes[24] = 200 }
        let replay = try play(entries, to: .edu, .patient)
        #expect(replay.differenceCount == 1)
        #expect(replay.differences.first?.text.contains("ERROR=22") == true, "\(replay.differences)")
    }

    @Test func `another device is told apart at once`() throws {
        let replay = try play(try Golden.nvme.entries(), to: .edu)
        #expect(replay.differenceCount > 5)
    }

    @Test func `bytes that the device writes to memory are compared`() throws {
        let entries = try changing(
            try Golden.nvme.entries(),
            where: { $0.direction == .toClient && $0.bytes[2] == 12 && $0.bytes.count > 4096 }
        ) { $0.bytes[100] ^= 0xff }
        let replay = try play(entries, to: .nvme, .patient)
        #expect(replay.differenceCount == 1)
        #expect(replay.differences.first?.text.contains("DMA_WRITE") == true, "\(replay.differences)")
    }

    @Test func `a server that never answers does not hold it up`() throws {
        let (ours, theirs) = try UNIXSocket.pair()
        var replay = Replay()
        try replay.play(try Golden.edu.entries(), conversation: 1, over: ours, options: Self.hurried)
        #expect(replay.differenceCount == 2)
        #expect(replay.sentCount == 1)
        _ = theirs.descriptor.rawValue
    }

    @Test func `a server that hangs up ends it`() throws {
        let (ours, theirs) = try UNIXSocket.pair()
        theirs.shutdown()
        var replay = Replay()
        try replay.play(try Golden.edu.entries(), conversation: 1, over: ours, options: Self.hurried)
        #expect(replay.differenceCount == 1)
    }

    @Test func `a recording that was cut off is played as far as it goes`() throws {
        let bytes = try Golden.edu.bytes()
        var reader = try RecordingReader(Array(bytes.prefix(20_000)))
        let entries = try reader.all()
        #expect(reader.isCut)
        let replay = try play(entries, to: .edu, .patient)
        #expect(replay.differenceCount == 0, "\(replay.differences)")
        #expect(replay.sentCount > 100)
    }

    @Test(arguments: 0..<40 as Range<UInt64>)
    func `damaged recordings do no harm to player and server`(seed: UInt64) throws {
        var numbers = SeededNumbers(seed: seed)
        var bytes = Array(try Golden.edu.bytes().prefix(12_000))
        for _ in 0..<4 {
            bytes[Int.random(in: 300..<bytes.count, using: &numbers)] = UInt8.random(in: 0...255, using: &numbers)
        }
        var entries: [RecordingEntry] = []
        var reader = try RecordingReader(bytes)
        do throws(RecordingError) {
            while let entry = try reader.next() { entries.append(entry) }
        } catch {
            #expect(!entries.isEmpty)
        }
        var options = Self.hurried
        options.patience = .milliseconds(20)
        options.settling = .milliseconds(5)
        _ = try play(entries, to: .edu, options)
    }
}
