import Foundation
import Glibc
import LinuxHost
import Testing

private let strace = "/usr/bin/strace"

/// Why system calls cannot be counted here; `nil` when they can.
private let obstacle: String? = {
    guard FileManager.default.isExecutableFile(atPath: strace) else { return "there is no strace" }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: strace)
    process.arguments = ["-f", "-c", "-o", "/dev/null", "/bin/true"]
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return "strace does not start" }
    process.waitUntilExit()
    return process.terminationStatus == 0 ? nil : "strace may not trace"
}()

/// A message, its numbers least significant byte first.
private func message(_ command: UInt16, _ payload: [UInt8]) -> [UInt8] {
    little(1, 2) + little(UInt64(command), 2) + little(UInt64(16 + payload.count), 4) + little(0, 8) + payload
}

private func little(_ value: UInt64, _ byteCount: Int) -> [UInt8] {
    (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

extension UNIXSocket {
    fileprivate func sendAll(_ bytes: [UInt8], _ descriptor: Int32? = nil) throws {
        var bundle = DescriptorBundle(adopting: descriptor.map { [$0] } ?? [])
        // Lent for the call.
        defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
        let count = try unsafe bytes.withUnsafeBytes { unsafe try send($0, descriptors: bundle, waiting: true) }
        try #require(count == bytes.count)
    }

    fileprivate func receiveAll(_ byteCount: Int) throws {
        var buffer = [UInt8](repeating: 0, count: byteCount)
        var done = 0
        while done < byteCount {
            let count = try unsafe buffer.withUnsafeMutableBytes { unsafe try receive(into: $0, waiting: true).count }
            try #require(count > 0)
            done += count
            buffer = [UInt8](repeating: 0, count: max(1, byteCount - done))
        }
    }
}

/// What a client asks, so many at a time, over and over.
private enum Load: CaseIterable {
    case pipelinedReads, singleReads, pipelinedMaps, singleMaps

    static let batchCount = 64

    private var depth: Int {
        switch self {
        case .pipelinedReads, .pipelinedMaps: Self.batchCount
        case .singleReads, .singleMaps: 1
        }
    }

    /// The most that each may cost; where several come in one read, what they share costs each a part.
    var maximumCalls: Double {
        switch self {
        case .pipelinedReads: 1.2
        case .singleReads: 3
        // recvmsg, fstat, the seals, the flags, close, sendmsg
        case .pipelinedMaps: 6.4
        // And the poller, and a read that finds nothing more.
        case .singleMaps: 8
        }
    }

    /// - Parameter memory: a file of `batchCount` pages.
    func run(batches: Int, over socket: UNIXSocket, _ memory: borrowing OwnedDescriptor) throws {
        for batch in 0..<batches {
            for first in stride(from: 0, to: Self.batchCount, by: depth) {
                switch self {
                case .pipelinedReads, .singleReads:
                    let read = message(9, little(0, 8) + little(0, 4) + little(4, 4))
                    try socket.sendAll(Array(repeatElement(read, count: depth).joined()))
                    try socket.receiveAll(depth * 36)
                case .pipelinedMaps, .singleMaps:
                    for number in first..<first + depth {
                        let address = UInt64(batch * Self.batchCount + number) << 12
                        let map = little(32, 4) + little(3, 4) + little(0, 8) + little(address, 8) + little(4096, 8)
                        try socket.sendAll(message(2, map), memory.rawValue)
                    }
                    try socket.receiveAll(depth * 16)
                }
            }
        }
    }
}

@Suite(.enabled(if: obstacle == nil, Comment(rawValue: obstacle ?? ""))) struct `System calls` {
    /// How many calls all threads of the tool made in its life, with so many batches of a load in it.
    private func calls(_ load: Load, batches: Int) throws -> Int {
        let report = FileManager.default.temporaryDirectory.path + "/outboard-calls-\(UUID().uuidString.prefix(8))"
        defer { try? FileManager.default.removeItem(atPath: report) }
        let tool = try RunningTool(under: [strace, "-f", "-c", "-o", report])
        tool.waitForSocket()
        let socket = try tool.connect()
        let text = Array(#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}}"#.utf8)
        try socket.sendAll(message(1, little(0, 4) + text + [0]))
        try socket.receiveAll(20)
        // The rest of its reply; then the reads are each answered in full.
        usleep(50_000)
        var rest = [UInt8](repeating: 0, count: 4096)
        _ = try unsafe rest.withUnsafeMutableBytes { unsafe try socket.receive(into: $0, waiting: true).count }
        let memory = try OwnedDescriptor.anonymousMemory(name: "client", byteCount: 4096)
        try load.run(batches: batches, over: socket, memory)
        socket.shutdown()
        #expect(try tool.terminateTraced() == 0)
        let lines = try String(contentsOfFile: report, encoding: .utf8).split(separator: "\n")
        let total = try #require(lines.last { $0.hasSuffix("total") })
        // Share, seconds, microseconds per call, calls, and errors if there are any.
        return try #require(Int(total.split(separator: " ")[3]))
    }

    @Test(arguments: Load.allCases)
    private func `messages cost no more system calls than they have to`(load: Load) throws {
        let (few, many) = (5, 55)
        let count = try calls(load, batches: many) - calls(load, batches: few)
        let each = Double(count) / Double((many - few) * Load.batchCount)
        print("\(load): \(each) system calls each")
        #expect(each <= load.maximumCalls + 0.2)
        #expect(each >= 1)
    }
}
