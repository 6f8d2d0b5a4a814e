import Foundation
import LinuxHost
import Testing

/// A command of the tool that has ended.
private struct Ran {
    let status: Int32
    let output: [Substring]
    let complaint: String

    init(_ arguments: String...) throws {
        let ran = try RunningTool.output(of: arguments)
        (status, output, complaint) = (ran.status, ran.output.split(separator: "\n"), ran.errors)
    }
}

@Suite struct `Recordings with the tool` {
    private let directory = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
    private let golden = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("VFIOUserRecordingTests/Fixtures/qemu-11.1.3-edu.recording").path

    /// Runs `body` with a directory that is gone afterwards.
    private func withDirectory(_ body: (String) throws -> Void) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try body(directory)
    }

    @Test func `what is served is recorded, and the recording can be played to what is served`() throws {
        try withDirectory { directory in
            let tool = try RunningTool(serving: ["edu", "--record", directory + "/first"])
            tool.waitForSocket()
            let replay = try Ran("replay", golden, "--socket-path", tool.socketPath)
            #expect(replay.status == 0, "\(replay.output) \(replay.complaint)")
            #expect(replay.output.last?.hasSuffix(" 0 not") == true)
            #expect(tool.terminate() == 0)
            let first = try Ran("decode", directory + "/first")
            #expect(first.status == 0)
            #expect(first.output.count { $0.contains(" command ") } >= 1041)
            #expect(first.output.last?.hasSuffix("end of recording") == true)

            let again = try RunningTool()
            again.waitForSocket()
            let second = try Ran("replay", directory + "/first", "--socket-path", again.socketPath)
            #expect(second.status == 0, "\(second.output)")
            #expect(again.terminate() == 0)
        }
    }

    @Test func `the recording of a tool that is killed can be read`() throws {
        try withDirectory { directory in
            let tool = try RunningTool(serving: ["edu", "--record", directory + "/file"])
            tool.waitForSocket()
            #expect(try Ran("replay", golden, "--socket-path", tool.socketPath).status == 0)
            while try FileManager.default.attributesOfItem(atPath: directory + "/file")[.size] as? Int ?? 0 < 50_000 {
                usleep(1000)
            }
            tool.kill()
            let decoded = try Ran("decode", directory + "/file")
            #expect(decoded.status == 0)
            #expect(decoded.output.count > 500)
        }
    }

    @Test func `messages become files, captures and JSON`() throws {
        try withDirectory { directory in
            #expect(try Ran("decode", golden, "--raw", directory).status == 0)
            let files = try FileManager.default.contentsOfDirectory(atPath: directory)
            #expect(files.count > 150)
            #expect(files.contains { $0.hasSuffix("-DEVICE_SET_IRQS") })
            #expect(try Ran("decode", golden, "--pcapng", directory + "/capture").status == 0)
            let capture = try Data(contentsOf: URL(fileURLWithPath: directory + "/capture"))
            #expect(capture.starts(with: [0x0a, 0x0d, 0x0d, 0x0a]))
            let json = try Ran("decode", golden, "--json")
            for line in json.output { _ = try JSONSerialization.jsonObject(with: Data(line.utf8)) }
            #expect(json.output.count > 1000)
        }
    }

    @Test func `no file is overwritten`() throws {
        try withDirectory { directory in
            let path = directory + "/there"
            try Data("mine".utf8).write(to: URL(fileURLWithPath: path))
            for ran in [
                try Ran("decode", golden, "--pcapng", path),
                try Ran("serve", "edu", "--socket-path", directory + "/socket", "--record", path),
            ] {
                #expect(ran.status == 1)
                #expect(ran.complaint.contains("File exists"))
            }
            #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data("mine".utf8))
        }
    }

    @Test func `another answer ends a replay with status 1, and the counts are the last line`() throws {
        try withDirectory { directory in
            let path = directory + "/changed"
            var bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: golden)))
            // In the reply to DEVICE_GET_INFO, how many regions there are.
            let reply: [UInt8] = [3, 0, 4, 0, 32, 0, 0, 0, 1]
            let place = try #require((0..<bytes.count - 32).first { Array(bytes[$0..<$0 + 9]) == reply })
            bytes[place + 24] = 8
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            let tool = try RunningTool()
            tool.waitForSocket()
            let replay = try Ran("replay", path, "--socket-path", tool.socketPath)
            #expect(replay.status == 1)
            #expect(replay.complaint == "outboard: \(path): the server answered otherwise\n")
            #expect(replay.output.contains { $0.contains("device.regions=9") })
            #expect(replay.output.last?.contains(" answers compared, ") == true)
            // A record that makes no sense, after which nothing can be read.
            bytes[16 + 4] = 99
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            let decoded = try Ran("decode", path)
            #expect(decoded.status == 1)
            #expect(decoded.complaint == "outboard: \(path): a record of the unknown kind 99 at byte 16\n")
        }
    }

    @Test func `what cannot be is told in one line`() throws {
        #expect(try Ran("serve", "edu", "--socket-path", "x", "--record-memory").status == 64)
        #expect(try Ran("decode", golden, "--json", "--raw", "x").status == 64)
        #expect(try Ran("replay", golden).status == 64)
        let nonsense = try Ran("decode", #filePath)
        #expect(nonsense.status == 1)
        #expect(nonsense.complaint.hasSuffix("not a recording\n"))
        let nobody = try Ran("replay", golden, "--socket-path", "/nonexistent/socket")
        #expect(nobody.status == 1)
        #expect(nobody.complaint.hasPrefix("outboard: /nonexistent/socket: "))
    }
}
