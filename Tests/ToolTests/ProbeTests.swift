import Foundation
import JSONText
import Testing

/// The answers of a device with a configuration space of its own making.
private func device(_ configuration: [UInt8], regionCount: UInt8 = 9)
    -> @Sendable (UInt16, [UInt8])
    -> ScriptedServer.Answer
{
    { command, payload in
        switch command {
        case 1: .payload([0, 0, 0, 0] + Array("{\"capabilities\":{}}".utf8) + [0])
        case 4: .payload([16, 0, 0, 0, 3, 0, 0, 0, regionCount, 0, 0, 0, 5, 0, 0, 0])
        case 5:
            .payload(
                [32, 0, 0, 0, 3, 0, 0, 0] + payload[8..<12] + [0, 0, 0, 0]
                    + [0, payload[8] == 7 ? UInt8(configuration.count >> 8) : 0, 0, 0, 0, 0, 0, 0]
                    + [UInt8](repeating: 0, count: 8))
        case 7: .payload([16, 0, 0, 0, 1, 0, 0, 0] + payload[8..<12] + [1, 0, 0, 0])
        case 9: .payload(payload[..<16] + configuration)
        default: .error(22)
        }
    }
}

/// 256 bytes, or 4096, with a list of capabilities that begins at `first`.
private func space(_ byteCount: Int = 256, first: UInt8, _ bytes: [Int: UInt8]) -> [UInt8] {
    var space = [UInt8](repeating: 0, count: byteCount)
    space.replaceSubrange(0..<8, with: [0x34, 0x12, 0xe8, 0x11, 0, 0, 0x10, 0])
    space[0x34] = first
    for (offset, byte) in bytes { space[offset] = byte }
    return space
}

@Suite struct `Probing` {
    @Test(arguments: ["edu", "nvme"])
    func `a device is printed as lspci would, and as JSON`(name: String) throws {
        let image = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8)).img"
        defer { try? FileManager.default.removeItem(atPath: image) }
        let tool = try RunningTool(serving: [name] + (name == "nvme" ? ["--image", image, "--size", "1M"] : []))
        tool.waitForSocket()
        _ = try tool.connect()
        let (status, text, errors) = try RunningTool.output(of: ["probe", "--socket-path", tool.socketPath])
        #expect(status == 0 && errors == "")
        let expected =
            name == "edu"
            ? [
                "Unclassified device [00ff]: Device [1234:11e8] (rev 10)", "Control: I/O- Mem-",
                "Status: Cap+ 66MHz-", "Interrupt: pin A routed to IRQ 0",
                "Region 0: Memory at 00000000 (32-bit, non-prefetchable) [size=1M]",
                "[40] MSI: Enable- Count=1/1 Maskable- 64bit+", "7 configuration: 256 bytes, read, write",
            ]
            : [
                "Non-Volatile memory controller [0108]", "(prog-if 02)", "[size=16K]", "Power Management version 3",
                "MSI-X: Enable- Count=65 Masked-", "Vector table: BAR=0 offset=00002000", "Express (v2) Endpoint",
                "[100 v1] Device Serial Number", "7 configuration: 4096 bytes, read, write",
            ]
        for line in expected { #expect(text.contains(line), "\(line) is missing in:\n\(text)") }
        #expect(!text.contains("Wrong:"))
        let (jsonStatus, document, _) = try RunningTool.output(of: [
            "probe", "--json", "--socket-path", tool.socketPath,
        ])
        let value = try JSONValue(parsing: Array(document.utf8))
        #expect(jsonStatus == 0)
        #expect(value.members?.map(\.name) == ["protocol", "function", "regions", "interrupts", "complaints"])
        let vendor = value.members?["function"]?.members?["vendor"]?.wholeNumber
        #expect(vendor == (name == "edu" ? 0x1234 : 0x1b36))
    }

    @Test func `a probe leaves the device as it was`() throws {
        let tool = try RunningTool()
        tool.waitForSocket()
        _ = try tool.connect()
        let before = try RunningTool.output(of: ["probe", "--socket-path", tool.socketPath])
        let after = try RunningTool.output(of: ["probe", "--socket-path", tool.socketPath])
        #expect(before.output == after.output && before.status == 0)
    }

    @Test(
        arguments: [
            // To itself, in a circle of two, into the header, past the end.
            (space(first: 0x40, [0x40: 9, 0x41: 0x40]), "the list of capabilities comes back to 40"),
            (space(first: 0x40, [0x40: 9, 0x41: 0x50, 0x50: 9, 0x51: 0x40]), "comes back to 40"),
            (space(first: 0x10, [:]), "the list of capabilities leads to 10"),
            (space(first: 0x40, [0x40: 9, 0x41: 0x20]), "the list of capabilities leads to 20"),
            (
                space(4096, first: 0, [0x100: 0xb, 0x102: 1, 0x103: 0x10]),
                "the list of extended capabilities comes back to 100"
            ),
            (
                space(4096, first: 0, [0x100: 0xb, 0x102: 0x41, 0x103: 0x00]),
                "the list of extended capabilities leads to 04"
            ),
            (
                space(4096, first: 0, [0x100: 0xb, 0x102: 1, 0x103: 0x20]),
                "an extended capability at 200 is empty"
            ),
        ] as [([UInt8], String)])
    func `lists of capabilities that lead nowhere are followed no further and complained of`(
        configuration: [UInt8], complaint: String
    ) throws {
        let server = try ScriptedServer(device(configuration))
        defer { server.end() }
        let (status, text, errors) = try RunningTool.output(of: ["probe", "--socket-path", server.path])
        #expect(status == 0 && errors == "")
        #expect(text.contains("Wrong:") && text.contains(complaint), "\(text)")
    }

    @Test func `a capability at the very end is printed as far as it goes`() throws {
        // MSI, MSI-X, PCI Express and power management with most of their registers past the end.
        for id in [0x01, 0x05, 0x10, 0x11, 0x77] as [UInt8] {
            let server = try ScriptedServer(device(space(first: 0xfc, [0xfc: id, 0xfe: 0xff, 0xff: 0xff])))
            defer { server.end() }
            let (status, text, _) = try RunningTool.output(of: ["probe", "--socket-path", server.path])
            #expect(status == 0 && text.contains("[fc]"))
        }
    }

    @Test(
        arguments: [
            (.nothing, "no answer within"), (.flood, "no answer within"), (.close, "closed"),
            (.error(22), "refused"), (.payload([1, 2]), "DEVICE_GET_INFO"),
            (.raw([UInt8](repeating: 0xff, count: 64)), "makes no sense"),
        ] as [(ScriptedServer.Answer, String)])
    func `a server that hangs, floods or makes no sense ends the probe with one line`(
        answer: ScriptedServer.Answer, cause: String
    ) throws {
        let sound = device(space(first: 0, [:]))
        let server = try ScriptedServer { command, payload in command == 1 ? sound(command, payload) : answer }
        defer { server.end() }
        let (status, text, errors) = try RunningTool.output(of: [
            "probe", "--timeout", "1", "--socket-path", server.path,
        ])
        #expect(status == 1 && text == "")
        #expect(errors.hasPrefix("outboard: ") && errors.filter { $0 == "\n" }.count == 1, "\(errors)")
        #expect(errors.contains(cause), "\(errors)")
    }

    @Test func `more regions than anybody has are not all asked for`() throws {
        let server = try ScriptedServer(device(space(first: 0, [:]), regionCount: 255))
        defer { server.end() }
        let (status, text, _) = try RunningTool.output(of: ["probe", "--socket-path", server.path])
        #expect(status == 0 && text.contains("the server claims 255 regions"))
    }

    @Test func `usage errors end with 64, and what cannot be probed with 1`() throws {
        for arguments in [
            ["probe"], ["probe", "--socket-path", "x", "--timeout", "0"], ["probe", "--nonsense"],
            ["check"], ["check", "--item", "S109", "--list"], ["check", "--list", "--socket-path", "x"],
        ] {
            #expect(try RunningTool.output(of: arguments).status == 64, "\(arguments)")
        }
        for command in ["probe", "check"] {
            let (status, _, errors) = try RunningTool.output(of: [command, "--socket-path", "/nonexistent/socket"])
            #expect(status == 1 && errors.hasPrefix("outboard: socket /nonexistent/socket: "))
        }
    }
}
