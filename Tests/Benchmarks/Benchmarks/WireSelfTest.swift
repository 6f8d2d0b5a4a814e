import CBaselines
import LinuxHost
import Randomness

/// Whether all servers with the measured device answer alike: they get the same random requests, good and bad, and their
/// replies are compared byte by byte; what they transfer has to arrive; and the NVMe driver has to find the right blocks.
struct WireSelfTest {
    let steps: Int
    private let seed: UInt64 = 0x0b0b

    init(steps: Int) { self.steps = steps }

    /// Returns what differs, `nil` when nothing does.
    func run() throws -> String? {
        if let difference = try compareReplies() { return difference }
        for role in ServerRole.measured {
            if let fault = try transferFault(role) { return "\(role.name): \(fault)" }
        }
        try readBlocks()
        return nil
    }

    private func compareReplies() throws -> String? {
        let memory = try SharedMemory.makeDescriptor()
        let servers = try ServerProcess.each(ServerRole.measured)
        var random = SeededNumbers(seed: seed)
        let questions = WireRequest.questions
        for step in 0..<questions.count + steps {
            let request = step < questions.count ? questions[step] : WireRequest.random(using: &random)
            let replies = try servers.map { server in
                try server.client.exchange(
                    request.command, request.payload, descriptor: request.hasDescriptor ? memory.rawValue : -1)
            }
            guard replies.contains(where: { $0 != replies[0] }) else { continue }
            let lines = zip(servers, replies).map { "  \($0.role.name): \($1)" }
            return "seed \(seed), step \(step), \(request):\n" + lines.joined(separator: "\n")
        }
        return nil
    }

    /// What goes wrong when a device reads client memory by messages and writes it back.
    private func transferFault(_ role: ServerRole) throws -> String? {
        let server = try ServerProcess(role)
        server.client.negotiate()
        server.client.mapOwnMemory()
        let memory = unsafe server.client.memory
        for size in [1, 4096, 100_000, Int(MEASURED_DMA_BUFFER_SIZE)] {
            for place in 0..<size { unsafe memory[place] = UInt8(truncatingIfNeeded: place &* 167 &+ size) }
            server.client.transfer(byteCount: size, deviceReads: true)
            for place in 0..<size { unsafe memory[place] = 0 }
            server.client.transfer(byteCount: size, deviceReads: false)
            let wrong = (0..<size).first { unsafe memory[$0] != UInt8(truncatingIfNeeded: $0 &* 167 &+ size) }
            if let wrong { return "of \(size) bytes that were read and written back, byte \(wrong) is another" }
        }
        return nil
    }

    /// A read that does not find what is in the file ends the process.
    private func readBlocks() throws {
        let file = try ImageFile(blockCount: 1024)
        let server = try ServerProcess(.nvme(path: file.path))
        let driver = NVMeDriver(server.client, file)
        for depth in [1, 2, 128] {
            for spins in [false, true] { _ = driver.read(1000, depth: depth, spins: spins, seed: depth) }
        }
        _ = file.read(1000, threads: 3, seed: 1)
    }
}

/// A message to all servers.
private struct WireRequest {
    var command: UInt16
    var payload: [UInt8] = []
    var hasDescriptor = false

    init(_ command: Command, _ fields: Field..., hasDescriptor: Bool = false) {
        self.command = command.rawValue
        payload = fields.flatMap(\.bytes)
        self.hasDescriptor = hasDescriptor
    }

    enum Command: UInt16 {
        case version = 1
        case map = 2
        case unmap = 3
        case deviceInfo = 4
        case regionInfo = 5
        case interruptInfo = 7
        case read = 9
        case write = 10
        case readClientMemory = 11
        case reset = 13
        case unknown = 99
    }

    enum Field {
        case word(UInt32)
        case long(UInt64)
        case data([UInt8])

        var bytes: [UInt8] {
            switch self {
            case .word(let value): (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
            case .long(let value): (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * UInt64($0))) }
            case .data(let bytes): bytes
            }
        }
    }

    /// What is asked of a device that is found, and some that has no answer.
    static var questions: [WireRequest] {
        var requests = [16, 32, 15].map { WireRequest(.deviceInfo, .word($0), .word(0), .long(0)) }
        for index in UInt32(0)..<11 {
            for size in [32, 100, 31] as [UInt32] {
                requests.append(
                    WireRequest(.regionInfo, .word(size), .word(0), .word(index), .word(0), .long(0), .long(0)))
            }
            requests.append(WireRequest(.interruptInfo, .word(16), .word(0), .word(index), .word(0)))
        }
        requests.append(WireRequest(.version, .word(0)))
        requests.append(WireRequest(.readClientMemory, .long(0), .long(1)))
        requests.append(WireRequest(.unknown, .long(0)))
        return requests
    }

    static func random(using random: inout SeededNumbers) -> WireRequest {
        var request = sound(using: &random)
        switch Int.random(in: 0..<40, using: &random) {
        case 0: request.payload.removeLast(min(request.payload.count, Int.random(in: 1...8, using: &random)))
        case 1 where request.command != Command.map.rawValue: request.hasDescriptor = true
        default: break
        }
        return request
    }

    private static func sound(using random: inout SeededNumbers) -> WireRequest {
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<25: return access(using: &random)
        case 25..<30: return WireRequest(.read, .long(UInt64(MEASURED_PROBE)), .word(0), .word(8))
        case 30..<60: return map(using: &random)
        case 60..<80: return unmap(using: &random)
        case 80..<99:
            let address = page(using: &random) + UInt64.random(in: 0..<512, using: &random) * 8
            return WireRequest(.write, .long(UInt64(MEASURED_PROBE)), .word(0), .word(8), .long(address))
        default: return WireRequest(.reset)
        }
    }

    /// An access to the storage, to registers, or beyond all of it.
    private static func access(using random: inout SeededNumbers) -> WireRequest {
        let region: UInt32 = [0, 0, 0, 0, 7, 3, 9][Int.random(in: 0..<7, using: &random)]
        let count = UInt32([0, 1, 2, 4, 8, 8, 13, 64][Int.random(in: 0..<8, using: &random)])
        var offset = UInt64.random(in: 0..<4200, using: &random)
        if Bool.random(using: &random) { offset = offset / 8 * 8 }
        if Int.random(in: 0..<50, using: &random) == 0 { offset = .max - UInt64.random(in: 0..<16, using: &random) }
        // Servers differ in how much they allocate, and a command would start a transfer.
        if offset == MEASURED_ALLOCATIONS || offset == MEASURED_DMA_COMMAND { offset = 0 }
        if Bool.random(using: &random) { return WireRequest(.read, .long(offset), .word(region), .word(count)) }
        let data = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
        return WireRequest(.write, .long(offset), .word(region), .word(count), .data(data))
    }

    private static func page(using random: inout SeededNumbers) -> UInt64 {
        0x7fff_f000_0000 + UInt64.random(in: 0..<48, using: &random) * SharedMemory.pageSize
    }

    private static func map(using random: inout SeededNumbers) -> WireRequest {
        let pages = UInt64.random(in: 1...4, using: &random)
        let hasDescriptor = Int.random(in: 0..<4, using: &random) > 0
        // Now and then past the end of the file.
        let offset = hasDescriptor ? UInt64.random(in: 0..<UInt64(SharedMemory.pageCount), using: &random) : 0
        let flags: UInt32 = [3, 3, 3, 3, 1, 2, 0, 7, 16][Int.random(in: 0..<9, using: &random)]
        var size = pages * SharedMemory.pageSize
        if Int.random(in: 0..<50, using: &random) == 0 { size = [0, .max][Int.random(in: 0..<2, using: &random)] }
        return WireRequest(
            .map, .word(32), .word(flags), .long(offset * SharedMemory.pageSize), .long(page(using: &random)),
            .long(size), hasDescriptor: hasDescriptor)
    }

    private static func unmap(using random: inout SeededNumbers) -> WireRequest {
        let flags: UInt32 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 8][Int.random(in: 0..<12, using: &random)]
        let isEverything = flags == 2 || Int.random(in: 0..<100, using: &random) == 0
        let pages = UInt64.random(in: 1...12, using: &random)
        return WireRequest(
            .unmap, .word(24), .word(flags), .long(isEverything ? 0 : page(using: &random)),
            .long(isEverything ? 0 : pages * SharedMemory.pageSize))
    }
}
