import BlockStorage
import DMA
import DeviceModel
import Glibc
import LinuxHost
import NVMe
import PCI
import Testing

/// A small driver: it reaches the controller as a guest does, by registers, rings in memory, and nothing else.
///
/// Layouts are spelled out by number here, so that the controller's own definitions are checked against another reading of
/// the standard.
final class NVMeTestDriver {
    struct Queue {
        let id: UInt16
        let submissionBase, completionBase: UInt64
        let submissionEntries, completionEntries: Int
        var tail = 0
        var head = 0
        var phase: UInt32 = 1
        var nextCommand: UInt16 = 0
    }

    struct Completion: Equatable {
        let result: UInt32
        let submissionQueueHead, submissionQueue, command: UInt16
        /// Status code type and status code.
        let status: UInt16
        let isFinal: Bool
    }

    let store: TestStore
    let ram: GuestRAM
    private(set) var function: PCIFunction<NVMeController>
    private let options: NVMeController.Options
    var admin: Queue
    /// By queue identifier.
    var queues: [UInt16: Queue] = [:]

    init(
        store: TestStore? = nil, reach: GuestRAM.Reach = .shared,
        options: (inout NVMeController.Options) -> Void = { _ in },
        adminEntries: Int = 32, adminCompletionEntries: Int? = nil
    ) throws {
        let serial = try #require(NVMeController.SerialNumber("OBTEST1"))
        var chosen = NVMeController.Options(serial: serial)
        options(&chosen)
        self.options = chosen
        self.store = try store ?? TestStore()
        ram = try GuestRAM(reach)
        function = try NVMeController.makeFunction(store: self.store, options: chosen)
        try function.attach(to: ram.space)
        admin = Queue(
            id: 0, submissionBase: ram.allocate(adminEntries * 64),
            completionBase: ram.allocate((adminCompletionEntries ?? adminEntries) * 16),
            submissionEntries: adminEntries, completionEntries: adminCompletionEntries ?? adminEntries)
        setBusMaster(true)
    }

    deinit {
        store.letGo()
        function.reset()
        function.detach()
    }
}

/// Migration.
extension NVMeTestDriver {
    /// Lets the controller come to rest, for however long it takes.
    func stop() throws {
        function.beginStop()
        try function.finishStop(by: .after(.seconds(60)))
    }

    /// The state of a stopped controller.
    func savedState() -> [UInt8] { StateStream.opening(of: function) + StateStream.body(of: function) }

    /// Puts another controller into the place of a stopped one, which neither the store nor the memory hears of again, and
    /// has it take a state; it is stopped then.
    func replaceController(restoring state: [UInt8], options change: (inout NVMeController.Options) -> Void = { _ in })
        throws
    {
        var options = options
        change(&options)
        function.reset()
        function.detach()
        function = try NVMeController.makeFunction(store: store, options: options)
        try function.attach(to: ram.space)
        function.beginStop()
        try function.finishStop(by: .after(.seconds(60)))
        try restore(state)
    }

    func restore(_ state: [UInt8]) throws {
        var incoming = StateStream.Incoming(for: function)
        try incoming.append(state.span)
        var reader = try incoming.finish()
        try function.restoreState(from: &reader)
    }

    /// Moves the controller as it is into another, which goes on.
    func migrate() throws {
        try stop()
        try replaceController(restoring: savedState())
        function.resume()
    }
}

/// Registers.
extension NVMeTestDriver {
    static let ready: UInt32 = 1
    static let fatal: UInt32 = 2
    /// Entries of I/O queues: 64 and 16 bytes.
    static let entrySizes: UInt32 = 6 << 16 | 4 << 20

    func setBusMaster(_ isOn: Bool) {
        let command: [UInt8] = [isOn ? 0x06 : 0x02, 0x00]
        function.writeRegion(PCIRegion.configuration, at: 4, from: command.span)
    }

    func write(_ bytes: [UInt8], at offset: UInt64) { function.writeRegion(0, at: offset, from: bytes.span) }

    func write32(_ value: UInt32, at offset: UInt64) {
        let bytes = (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
        function.writeRegion(0, at: offset, from: bytes.span)
    }

    func write64(_ value: UInt64, at offset: UInt64) {
        let bytes = (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        function.writeRegion(0, at: offset, from: bytes.span)
    }

    func read64(_ offset: UInt64, byteCount: Int = 8) -> UInt64 {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var span = bytes.mutableSpan
        function.readRegion(0, at: offset, into: &span)
        return bytes.enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64($1.offset * 8) }
    }

    func read32(_ offset: UInt64) -> UInt32 { UInt32(read64(offset, byteCount: 4)) }

    var status: UInt32 { read32(0x1c) }

    var isExecuting: Bool { function.model.hasPendingTransactions }

    /// Waits for something the controller does on its own. Gives up after a time in which a hang is certain.
    func wait(_ location: SourceLocation = #_sourceLocation, until isTrue: () -> Bool) {
        let deadline = MonotonicInstant.after(.seconds(60))
        while !isTrue() {
            if MonotonicInstant.now > deadline {
                Issue.record("the controller did nothing for a minute", sourceLocation: location)
                return
            }
            sched_yield()
        }
    }

    /// Enables the controller with fresh admin queues, and waits for it to say that it is ready or has failed.
    func enable(memoryPageShift: UInt32 = 0, entrySizes: UInt32 = NVMeTestDriver.entrySizes) {
        startEnabling(memoryPageShift: memoryPageShift, entrySizes: entrySizes)
        wait { status & (Self.ready | Self.fatal) != 0 }
    }

    func startEnabling(memoryPageShift: UInt32 = 0, entrySizes: UInt32 = NVMeTestDriver.entrySizes) {
        admin = Queue(
            id: 0, submissionBase: admin.submissionBase, completionBase: admin.completionBase,
            submissionEntries: admin.submissionEntries, completionEntries: admin.completionEntries)
        queues = [:]
        ram.write([UInt8](repeating: 0, count: admin.completionEntries * 16), at: admin.completionBase)
        write32(UInt32(admin.submissionEntries - 1) | UInt32(admin.completionEntries - 1) << 16, at: 0x24)
        write64(admin.submissionBase, at: 0x28)
        write64(admin.completionBase, at: 0x30)
        write32(1 | memoryPageShift << 7 | entrySizes, at: 0x14)
    }

    func disable() {
        write32(0, at: 0x14)
        wait { status & Self.ready == 0 }
    }
}

/// Queues.
extension NVMeTestDriver {
    /// Writes a command into a queue without telling the controller.
    @discardableResult
    func put(_ command: Command, _ queue: inout Queue) -> UInt16 {
        var dwords = command.dwords
        dwords[0] |= UInt32(queue.nextCommand) << 16
        ram.write(dwords, at: queue.submissionBase + UInt64(queue.tail * 64))
        queue.tail = (queue.tail + 1) % queue.submissionEntries
        queue.nextCommand &+= 1
        return queue.nextCommand &- 1
    }

    func ring(_ queue: Queue) { write32(UInt32(queue.tail), at: 0x1000 + UInt64(queue.id) * 8) }

    @discardableResult
    func submit(_ command: Command, to id: UInt16 = 0) -> UInt16 {
        withQueue(id) { queue in
            let command = put(command, &queue)
            ring(queue)
            return command
        }
    }

    /// The next completion if there is one.
    func poll(_ id: UInt16 = 0, acknowledging: Bool = true) -> Completion? {
        withQueue(id) { queue in
            let address = queue.completionBase + UInt64(queue.head * 16)
            let last = ram.poll(address + 12)
            guard last >> 16 & 1 == queue.phase else { return nil }
            let bytes = ram.read(address, 12)
            let dwords = stride(from: 0, to: 12, by: 4).map { start in
                (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[start + $1]) << UInt32($1 * 8) }
            }
            queue.head += 1
            if queue.head == queue.completionEntries {
                queue.head = 0
                queue.phase ^= 1
            }
            if acknowledging { acknowledge(queue) }
            return Completion(
                result: dwords[0], submissionQueueHead: UInt16(dwords[2] & 0xffff),
                submissionQueue: UInt16(dwords[2] >> 16), command: UInt16(last & 0xffff),
                status: UInt16(last >> 17 & 0x7ff), isFinal: last >> 31 != 0)
        }
    }

    func acknowledge(_ queue: Queue) { write32(UInt32(queue.head), at: 0x1000 + UInt64(queue.id) * 8 + 4) }

    func next(
        _ id: UInt16 = 0, acknowledging: Bool = true, _ location: SourceLocation = #_sourceLocation
    ) throws -> Completion {
        var completion: Completion?
        wait(location) {
            completion = poll(id, acknowledging: acknowledging)
            return completion != nil
        }
        return try #require(completion, sourceLocation: location)
    }

    /// Submits a command and waits for its completion, which must be the next.
    @discardableResult
    func run(
        _ command: Command, on id: UInt16 = 0, _ location: SourceLocation = #_sourceLocation
    ) throws -> Completion {
        let number = submit(command, to: id)
        let completion = try next(id, location)
        #expect(completion.command == number, sourceLocation: location)
        #expect(completion.submissionQueue == id, sourceLocation: location)
        return completion
    }

    /// Creates a queue pair and expects that to work.
    func createPair(
        _ id: UInt16, entries: Int = 64, completionEntries: Int? = nil, _ location: SourceLocation = #_sourceLocation
    ) throws {
        let queue = Queue(
            id: id, submissionBase: ram.allocate(entries * 64),
            completionBase: ram.allocate((completionEntries ?? entries) * 16), submissionEntries: entries,
            completionEntries: completionEntries ?? entries)
        let size = UInt32(queue.completionEntries - 1) << 16
        let made = try run(
            Command(0x05, prp1: queue.completionBase, [10: size | UInt32(id), 11: UInt32(id) << 16 | 0b11]))
        #expect(made.status == 0, sourceLocation: location)
        let second = try run(
            Command(
                0x01, prp1: queue.submissionBase,
                [10: UInt32(entries - 1) << 16 | UInt32(id), 11: UInt32(id) << 16 | 1]))
        #expect(second.status == 0, sourceLocation: location)
        queues[id] = queue
    }

    func withQueue<Result>(_ id: UInt16, _ body: (inout Queue) -> Result) -> Result {
        if id == 0 { return body(&admin) }
        guard var queue = queues[id] else { preconditionFailure("the test uses a queue that it has made") }
        defer { queues[id] = queue }
        return body(&queue)
    }
}

/// The sixteen dwords of a command.
struct Command {
    var dwords = [UInt32](repeating: 0, count: 16)

    init(
        _ opcode: UInt8, namespace: UInt32 = 0, prp1: UInt64 = 0, prp2: UInt64 = 0, _ parameters: [Int: UInt32] = [:]
    ) {
        dwords[0] = UInt32(opcode)
        dwords[1] = namespace
        dwords[6] = UInt32(truncatingIfNeeded: prp1)
        dwords[7] = UInt32(prp1 >> 32)
        dwords[8] = UInt32(truncatingIfNeeded: prp2)
        dwords[9] = UInt32(prp2 >> 32)
        for (number, value) in parameters { dwords[number] = value }
    }

    /// A command on blocks of namespace 1.
    static func blocks(
        _ opcode: UInt8, _ first: UInt64, _ count: Int, prp1: UInt64 = 0, prp2: UInt64 = 0, flags: UInt32 = 0
    ) -> Command {
        Command(
            opcode, namespace: 1, prp1: prp1, prp2: prp2,
            [10: UInt32(truncatingIfNeeded: first), 11: UInt32(first >> 32), 12: UInt32(count - 1) | flags])
    }
}

/// A few of the standard's numbers.
enum Opcode {
    static let flush: UInt8 = 0x00
    static let write: UInt8 = 0x01
    static let read: UInt8 = 0x02
    static let compare: UInt8 = 0x05
    static let writeZeroes: UInt8 = 0x08
    static let datasetManagement: UInt8 = 0x09
    static let verify: UInt8 = 0x0c

    static let getLogPage: UInt8 = 0x02
    static let identify: UInt8 = 0x06
    static let abort: UInt8 = 0x08
    static let setFeatures: UInt8 = 0x09
    static let getFeatures: UInt8 = 0x0a
    static let eventRequest: UInt8 = 0x0c
}
