import Foundation
import LinuxHost
import Testing
import VFIOUserClient

/// A version message without capabilities.
private let hello: [UInt8] = [1, 0, 1, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
private let busy: UInt8 = 16

@Suite struct `Several clients of the tool` {
    /// Negotiates, and answers with the error number of the reply, zero for none.
    private func greet(_ socket: UNIXSocket) throws -> UInt8 {
        let sent = try unsafe hello.withUnsafeBytes {
            unsafe try socket.send($0, descriptors: DescriptorBundle(), waiting: true)
        }
        #expect(sent == hello.count)
        var reply = [UInt8](repeating: 0, count: 4096)
        let count = try unsafe reply.withUnsafeMutableBytes { unsafe try socket.receive(into: $0, waiting: true).count }
        #expect(count >= 16)
        return reply[12]
    }

    @Test func `edu has one client unless it is told otherwise, and a second is refused with a line in the log`() throws
    {
        let log = Pipe()
        let tool = try RunningTool(standardError: log.fileHandleForWriting)
        tool.waitForSocket()
        let first = try tool.connect()
        #expect(try greet(first) == 0)
        #expect(try greet(try tool.connect()) == busy)
        #expect(tool.terminate() == 0)
        try log.fileHandleForWriting.close()
        let text = String(decoding: log.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        #expect(text.contains("client refused"))
        #expect(first.isHungUp)
    }

    @Test func `a client whose device reaches no memory at all is told of, once`() throws {
        let log = Pipe()
        let tool = try RunningTool(standardError: log.fileHandleForWriting)
        tool.waitForSocket()
        do {
            let client = try Client(path: tool.socketPath, replyTimeout: .seconds(30))
            try client.writeRegister(UInt16(6), region: PCIRegion.configuration, at: 4)
            for _ in 0..<3 {
                // Source in the device, destination, byte count, and the command to move bytes to memory.
                for (offset, value) in [(0x80, 0x40000), (0x88, 0), (0x90, 16), (0x98, 3)] as [(UInt64, UInt64)] {
                    try client.writeRegister(value, region: 0, at: offset)
                }
                while try client.readRegister(UInt64.self, region: 0, at: 0x98) & 1 != 0 {}
            }
        }
        #expect(tool.terminate() == 0)
        try log.fileHandleForWriting.close()
        let text = String(decoding: log.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        #expect(text.split(separator: "\n").count { $0.contains("the device reaches no memory") } == 1)
    }

    @Test func `edu serves as many as it is told to`() throws {
        let tool = try RunningTool(serving: ["edu", "--max-clients", "2"])
        tool.waitForSocket()
        let clients = [try tool.connect(), try tool.connect()]
        for client in clients { #expect(try greet(client) == 0) }
        #expect(try greet(try tool.connect()) == busy)
        #expect(tool.terminate() == 0)
        #expect(clients.count { !$0.isHungUp } == 0)
    }

    @Test func `nvme serves several clients from an image that cannot be written`() throws {
        let image = try TemporaryFile(byteCount: 1 << 20)
        let tool = try RunningTool(serving: ["nvme", "--image", image.path, "--read-only", "--max-clients", "2"])
        tool.waitForSocket()
        let clients = [try tool.connect(), try tool.connect()]
        for client in clients { #expect(try greet(client) == 0) }
        #expect(try greet(try tool.connect()) == busy)
        #expect(tool.terminate() == 0)
        #expect(clients.count { !$0.isHungUp } == 0)
    }

    @Test func `nvme does not serve several clients from an image that can be written, and says why`() throws {
        let image = try TemporaryFile(byteCount: 1 << 20)
        let socket = image.path + ".sock"
        let (status, _, complaint) = try RunningTool.output(of: [
            "serve", "nvme", "--image", image.path, "--socket-path", socket, "--max-clients", "2",
        ])
        #expect(status == 64)
        #expect(complaint.contains("--read-only") && complaint.split(separator: "\n").count == 1)
        #expect(!FileManager.default.fileExists(atPath: socket))
    }

    @Test(arguments: ["0", "65", "-1", "two", "1.5"])
    func `a number of clients that makes no sense is a usage error`(count: String) throws {
        let (status, _, complaint) = try RunningTool.output(of: [
            "serve", "edu", "--socket-path", "x", "--max-clients=\(count)",
        ])
        #expect(status == 64)
        #expect(complaint.contains("max-clients"))
    }

    @Test func `a configuration file says it as well, and the command line comes first`() throws {
        let file = try TemporaryFile(contents: #"{"device": "edu", "maxClients": 3}"#)
        for (arguments, count) in [
            (["--config", file.path], 3), (["edu", "--config", file.path, "--max-clients=2"], 2),
        ] {
            let tool = try RunningTool(serving: arguments)
            tool.waitForSocket()
            let clients = try (0..<count).map { _ in try tool.connect() }
            for client in clients { #expect(try greet(client) == 0) }
            #expect(try greet(try tool.connect()) == busy)
            #expect(tool.terminate() == 0)
            #expect(clients.count { !$0.isHungUp } == 0)
        }
    }
}

/// A file that goes with the value.
private final class TemporaryFile {
    let path = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"

    init(byteCount: Int) throws {
        try Data(count: byteCount).write(to: URL(fileURLWithPath: path))
    }

    init(contents: String) throws {
        try Data(contents.utf8).write(to: URL(fileURLWithPath: path))
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}
