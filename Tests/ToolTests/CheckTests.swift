import Foundation
import JSONText
import Testing

@Suite struct `Checking our own servers` {
    @Test(arguments: ["edu", "nvme", "copy-engine", "virtio-rng"])
    func `nothing of the checklist fails`(device: String) throws {
        let image = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8)).img"
        defer { try? FileManager.default.removeItem(atPath: image) }
        let tool = try RunningTool(serving: [device] + (device == "nvme" ? ["--image", image, "--size", "1M"] : []))
        tool.waitForSocket()
        _ = try tool.connect()
        let (status, text, errors) = try RunningTool.output(of: [
            "check", "--timeout", "60", "--socket-path", tool.socketPath,
        ])
        #expect(status == 0 && errors == "", "\(text)\(errors)")
        let lines = text.split(separator: "\n")
        #expect(!text.contains("FAILS"), "\(text)")
        // Each item is one line when nothing fails, and the last line counts.
        #expect(lines.count == 109)
        let last = try #require(lines.last)
        #expect(last.wholeMatch(of: #/\d+ hold, 0 fail, \d+ not applicable, \d+ not judged/#) != nil, "\(last)")
        let counts = last.split(separator: " ").compactMap { Int($0) }
        #expect(counts.reduce(0, +) == 108 && counts[0] >= (device == "edu" ? 90 : 78), "\(last)")
        #expect(tool.terminate() == 0)
    }

    @Test func `what fails is said with what was sent, expected and got, and ends with 1`() throws {
        // A server that takes any first message for a version.
        let server = try ScriptedServer { _, _ in .payload([0, 0, 0, 0]) }
        defer { server.end() }
        let (status, text, _) = try RunningTool.output(of: [
            "check", "--timeout", "2", "--item", "S64", "--socket-path", server.path,
        ])
        #expect(status == 1)
        #expect(text.hasSuffix("0 hold, 1 fail, 0 not applicable, 0 not judged\n"), "\(text)")
        for word in ["sent ", "expected ", "got "] { #expect(text.contains(word), "\(text)") }
    }

    @Test func `the list has every item, with or without a server`() throws {
        let (status, text, _) = try RunningTool.output(of: ["check", "--list"])
        #expect(status == 0)
        for number in 1...108 { #expect(text.contains("S\(number)  "), "S\(number)") }
        let (_, json, _) = try RunningTool.output(of: ["check", "--list", "--json"])
        let value = try JSONValue(parsing: Array(json.utf8))
        guard case .array(let items)? = value.members?["items"] else {
            Issue.record("no items in \(json)")
            return
        }
        #expect(items.count == 108)
    }

    @Test func `JSON holds the items that were asked for and their count`() throws {
        let tool = try RunningTool()
        tool.waitForSocket()
        _ = try tool.connect()
        let (status, json, _) = try RunningTool.output(of: [
            "check", "--json", "--item", "S1", "S18", "--socket-path", tool.socketPath,
        ])
        let value = try JSONValue(parsing: Array(json.utf8))
        #expect(status == 0)
        let summary = value.members?["summary"]?.members
        #expect(summary?["hold"]?.wholeNumber == 1 && summary?["not_judged"]?.wholeNumber == 1)
    }
}
