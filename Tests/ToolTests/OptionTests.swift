import Foundation
import LinuxHost
import Testing
import VFIOUserClient

@Suite struct `Options of serve` {
    @Test(
        arguments: [
            ["--busy-poll", "-1"], ["--busy-poll", "1000001"], ["--busy-poll", "1ms"], ["--inject", ""],
            ["--inject", "speed=9"], ["--inject", "short-reads=20"], ["--inject", "delay=2s"],
            ["--inject", "seed=1,seed=2"],
        ])
    func `a value that makes no sense is a usage error of one line`(options: [String]) throws {
        try expectUsageError(["edu"] + options)
    }

    @Test(
        arguments: [
            ["--pasids", "1"], ["--pasids", "1048577"], ["--workers", "0"], ["--page-timeout", "3601"],
            ["--max-mappings", "0"], ["--dma-mask", "40"],
        ])
    func `so are those of the copy engine`(options: [String]) throws {
        try expectUsageError(["copy-engine"] + options)
    }

    @Test func `those of the copy engine reach it, the command line's before the file's`() throws {
        let file = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8)).json"
        defer { try? FileManager.default.removeItem(atPath: file) }
        for (fromFile, options, expected) in [(300, [], 300), (300, ["--pasids", "77"], 77)]
            as [(Int, [String], UInt32)]
        {
            let text = #"{"device": "copy-engine", "options": {"pasids": \#(fromFile), "workers": 2}}"#
            try Data(text.utf8).write(to: URL(fileURLWithPath: file))
            let tool = try RunningTool(serving: ["copy-engine", "--config", file] + options)
            tool.waitForSocket()
            let client = try Client(path: tool.socketPath, replyTimeout: .seconds(30))
            #expect(try client.readRegister(UInt32.self, region: 0, at: 8) == expected)
            #expect(tool.terminate() == 0)
        }
    }

    private func expectUsageError(_ arguments: [String]) throws {
        let pipe = Pipe()
        let tool = try RunningTool(serving: arguments, standardError: pipe.fileHandleForWriting)
        #expect(tool.waitForEnd() == 64)
        try pipe.fileHandleForWriting.close()
        let text = try String(decoding: pipe.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
        #expect(text.hasPrefix("outboard: ") && text.split(separator: "\n").count == 1)
        #expect(!tool.socketExists)
    }

    @Test(
        arguments: [
            ["--busy-poll", "1000"], ["--busy-poll", "1000000"],
            ["--inject", "seed=7,short-reads=50%,short-writes=50%,interruptions=20%,refusals=20%,delay=1ms"],
        ])
    func `a client is served all the same, and SIGTERM ends it`(options: [String]) throws {
        let tool = try RunningTool(serving: ["edu"] + options)
        tool.waitForSocket()
        let client = try tool.connect()
        // A reset before the version message: refused with a header, and the end.
        let request: [UInt8] = [1, 0, 13, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        try unsafe request.withUnsafeBytes {
            let sent = unsafe try client.send($0, descriptors: DescriptorBundle(), waiting: true)
            #expect(sent == request.count)
        }
        var reply = [UInt8](repeating: 0, count: 64)
        let counts = try unsafe reply.withUnsafeMutableBytes { buffer in
            let first = unsafe try client.receive(into: buffer, waiting: true).count
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[first...])
            return unsafe (first, try client.receive(into: rest, waiting: true).count)
        }
        #expect(counts == (16, 0) && reply[0..<4] == [1, 0, 13, 0] && reply[12] == 22)
        #expect(tool.terminate() == 0)
        #expect(!tool.socketExists)
    }
}
