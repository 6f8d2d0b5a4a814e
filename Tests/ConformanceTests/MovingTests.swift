import LinuxHost
import Randomness
import Testing
import VFIOUserCheck

/// Devices that move from one process of the tool to another, in the middle of their work.
@Suite struct MovingTests {
    private let directory: WorkDirectory

    init() throws {
        directory = try WorkDirectory()
    }

    /// Takes a state in and lets the device go on.
    private func restore(_ state: [UInt8], _ peer: RawPeer) throws {
        #expect(try peer.go(to: Migration.resuming).error == nil)
        #expect(try peer.writeState(state).error == nil)
        #expect(try peer.go(to: Migration.running).error == nil)
    }

    @Test func `S87 edu goes on in another process with a factorial, a transfer and interrupts under way`() throws {
        let base: UInt64 = 0x10_0000
        let memory = PeerMemory(byteCount: 0x2000, at: base)
        let source = try ServedProcess(["edu"], in: directory)
        var peer = try source.connect()
        try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x2000))
        try peer.enableBusMaster()
        try peer.write(0, at: 0x04, bytes(.u32(0x1234_5678)))
        try peer.write(0, at: 0x20, bytes(.u32(0x80)))
        try peer.write(0, at: EduOffset.interruptRaise, bytes(.u32(0x40)))
        // A transfer whose data the client never sends, and behind it a factorial.
        try peer.startEdu(source: base + 0x100, destination: EduOffset.memory + 16, count: 1000, command: 1 | 4)
        var request = try memory.nextRequest(peer)
        while request.count == 0 {
            try memory.answer(request, peer)
            request = try memory.nextRequest(peer)
        }
        #expect(request.address == base + 0x100 && request.count == 1000 && !request.isWrite)
        try peer.write(0, at: 0x08, bytes(.u32(10)))
        let state = try peer.saveState()
        // The answer comes too late for a device that is stopped.
        try memory.answer(request, peer)
        #expect(try peer.migrationState() == Migration.stopCopy)
        source.kill()

        let destination = try ServedProcess(["edu"], in: directory)
        peer = try destination.connect()
        try peer.succeed(Number.mapDMA, Payload.map(at: base, size: 0x2000))
        try restore(state, peer)
        let served = try memory.serve(peer, until: .reads(1))
        #expect(served.map(\.address) == [base + 0x100] && served.map(\.count) == [1000])
        try peer.waitForEdu()
        try eventually { try peer.read(0, at: 0x20, count: 4).number == 0x80 }
        #expect(try peer.read(0, at: 0x08, count: 4).number == 3_628_800)
        #expect(try peer.read(0, at: 0x04, count: 4).number == 0xedcb_a987)
        #expect(try peer.read(0, at: EduOffset.interruptStatus, count: 4).number == 0x141)
        let counter = try EventCounter()
        try peer.connect(Interrupt.intx, to: [counter])
        #expect(try counter.waitForSignal() == 1)
        // The command register came along, and so did the device's memory.
        try peer.startEduWrite(to: base + 0x1000, count: 1000, from: 16)
        _ = try memory.serve(peer, until: .writes(1))
        #expect(memory.bytes[0x1000..<0x1000 + 1000] == memory.bytes[0x100..<0x100 + 1000])
        #expect(destination.isRunning)
    }

    @Test func `S87 nvme goes on in another process, and every outstanding command is completed once, its data right`()
        throws
    {
        let image = try directory.write(pattern(1 << 20, seed: 5), to: "image")
        let arguments = ["nvme", "--image", image, "--queues", "4"]
        let disk = MovingDisk()
        let source = try ServedProcess(arguments, in: directory)
        let peer = try source.connect()
        try disk.connect(peer)
        try disk.start(peer)
        let outstanding = try disk.loadWithWork(peer)
        let state = try peer.saveState()
        // Nothing was completed by then, and answers that come now change nothing.
        #expect(disk.completions(of: 1).isEmpty)
        for request in outstanding { try disk.remote.answer(request, peer) }
        #expect(try peer.migrationState() == Migration.stopCopy)
        #expect(disk.completions(of: 1).isEmpty)
        source.kill()
        #expect(
            try directory.read("image") == pattern(1 << 20, seed: 5), "no data had come that could have been written")

        let destination = try ServedProcess(arguments, in: directory)
        let second = try destination.connect()
        let counters = try eventCounters(3)
        try disk.connect(second)
        try second.connect(Interrupt.msix, to: counters)
        try restore(state, second)
        try disk.finishWork(second)
        #expect(try counters[1].waitForSignal() > 0)
        #expect(try directory.read("image") == disk.expectedImage)
        #expect(destination.isRunning)
    }

    @Test func `S87 a process that was made with other options refuses the state and says why`() throws {
        let image = try directory.write(pattern(1 << 20), to: "image")
        let larger = try directory.write(pattern(2 << 20), to: "larger")
        let original = ["nvme", "--image", image, "--queues", "4", "--serial", "disk"]
        let source = try ServedProcess(original, in: directory)
        let state = try source.connect().saveState()
        source.kill()
        let refusals: [([String], String)] = [
            (["nvme", "--image", image, "--queues", "5", "--serial", "disk"], "queue pairs"),
            (["nvme", "--image", image, "--queues", "4", "--serial", "another"], "serial number"),
            (["nvme", "--image", larger, "--queues", "4", "--serial", "disk"], "blocks"),
            (["nvme", "--image", image, "--queues", "4", "--serial", "disk", "--block-size", "4096"], "blocks"),
            (["nvme", "--image", image, "--queues", "4", "--serial", "disk", "--read-only"], "write-protected"),
            (["edu"], "otherDevice"),
        ]
        for (arguments, reason) in refusals {
            let process = try ServedProcess(arguments, in: directory)
            let peer = try process.connect()
            #expect(try peer.go(to: Migration.resuming).error == nil)
            #expect(try peer.writeState(state).error == invalid)
            #expect(try peer.go(to: Migration.stop).error == invalid)
            #expect(try peer.migrationState() == Migration.error)
            try eventually { process.logText.contains(reason) }
            try peer.succeed(Number.resetDevice)
            #expect(try peer.migrationState() == Migration.running)
            #expect(try peer.read(Region.configuration, at: 0, count: 2).count == 2)
            #expect(process.isRunning)
        }
    }

    @Test func `S87 a hostile stream ends in error, a reset in running, thousands of times`() throws {
        let process = try ServedProcess(["edu", "--log-level", "critical"], in: directory)
        let peer = try process.connect()
        let state = try peer.saveState()
        try peer.succeed(Number.resetDevice)
        var numbers = SeededNumbers(seed: 0x0b0a_4d01)
        for round in 0..<3000 {
            var stream = state
            switch round % 3 {
            case 0: stream = Array(state.prefix(numbers.below(state.count)))
            case 1: stream[numbers.below(state.count)] ^= 1 << UInt8(numbers.below(8))
            default: stream = (0..<numbers.below(400)).map { _ in UInt8(numbers.below(256)) }
            }
            #expect(try peer.go(to: Migration.resuming).error == nil)
            // What is refused early need not be written to its end.
            _ = try peer.writeState(stream)
            #expect(try peer.go(to: Migration.stop).error == invalid)
            #expect(try peer.migrationState() == Migration.error)
            try peer.succeed(Number.resetDevice)
            #expect(try peer.migrationState() == Migration.running)
        }
        try restore(state, peer)
        #expect(try peer.read(0, at: 0, count: 4).number == 0x0100_00ed)
        #expect(process.isRunning)
    }
}
