import Foundation
import Testing

/// A directory with a topology in it; it goes with this value.
private final class TopologyFile {
    let directory: String
    var path: String { directory + "/topology.json" }

    init() throws {
        directory = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        let text = """
            {"iommu": {"address": "00:02.0", "socketPath": "i"},
             "devices": [{"device": "edu", "address": "00:03.0", "socketPath": "a"},
                         {"device": "edu", "address": "00:03.1", "socketPath": "b"},
                         {"device": "edu", "address": "00:04.0", "socketPath": "c", "behindIOMMU": false},
                         {"device": "edu", "address": "01:00.0", "socketPath": "d"}]}
            """
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    }

    deinit {
        try? FileManager.default.removeItem(atPath: directory)
    }

    func contents(of name: String) -> [UInt8] {
        [UInt8](FileManager.default.contents(atPath: directory + "/" + name) ?? Data())
    }
}

@Suite struct `outboard viot` {
    @Test func `prints what the table says`() throws {
        let file = try TopologyFile()
        let run = try RunningTool.output(of: ["viot", "--config", file.path, "--text"])
        #expect(run.status == 0 && run.errors.isEmpty)
        #expect(
            run.output == """
                VIOT: 112 bytes, checksum 0xae
                  virtio-iommu: PCI 00:02.0
                  endpoints 0x0018 to 0x0019: PCI 00:03.0 to 00:03.1
                  endpoint 0x0100: PCI 01:00.0

                """)
    }

    @Test func `writes the same bytes to a file and to standard output`() throws {
        let file = try TopologyFile()
        let table = file.directory + "/table"
        // Longer than the table, so that what is left of it would show.
        try Data(repeating: 7, count: 4096).write(to: URL(fileURLWithPath: table))
        let run = try RunningTool.output(of: ["viot", "--config", file.path, "--output", table])
        #expect(run.status == 0 && run.output.isEmpty && run.errors.isEmpty)
        let bytes = file.contents(of: "table")
        #expect(bytes.count == 112 && bytes.reduce(0, &+) == 0)
        #expect(bytes.starts(with: "VIOT".utf8))

        let shell = Process()
        shell.executableURL = URL(fileURLWithPath: "/bin/sh")
        shell.arguments = ["-c", "\"$0\" viot --config \"$1\" >\"$2\"", RunningTool.executable.path, file.path]
        shell.arguments?.append(file.directory + "/printed")
        try shell.run()
        shell.waitUntilExit()
        #expect(shell.terminationStatus == 0)
        #expect(file.contents(of: "printed") == bytes)
    }

    @Test func `refuses a device's file, a directory to write to, and a table as text in a file`() throws {
        let file = try TopologyFile()
        let device = file.directory + "/device.json"
        try Data(#"{"device": "edu"}"#.utf8).write(to: URL(fileURLWithPath: device))
        let noTopology = try RunningTool.output(of: ["viot", "--config", device, "--text"])
        #expect(noTopology.status == 1)
        #expect(noTopology.errors == "outboard: \(device): describes a device, not a topology\n")
        let noFile = try RunningTool.output(of: ["viot", "--config", file.path, "--output", file.directory])
        #expect(noFile.status == 1 && noFile.errors.hasPrefix("outboard: \(file.directory): "))
        let both = try RunningTool.output(of: ["viot", "--config", file.path, "--text", "--output", "x"])
        #expect(both.status == 64)
        #expect(both.errors == "outboard: --text and --output exclude each other\n")
    }

    /// ACPICA's own disassembler, which reads the table by its own definition of it.
    @Test(.enabled(if: Disassembler.obstacle == nil, Comment(rawValue: Disassembler.obstacle ?? "")))
    func `writes a table that iasl takes apart as it was meant`() throws {
        let file = try TopologyFile()
        let table = file.directory + "/table"
        #expect(try RunningTool.output(of: ["viot", "--config", file.path, "--output", table]).status == 0)
        let (status, complaints) = try Disassembler.run(["-d", table], in: URL(fileURLWithPath: file.directory))
        #expect(status == 0)
        #expect(!complaints.localizedCaseInsensitiveContains("error") && !complaints.contains("checksum"))
        let text = String(decoding: file.contents(of: "table.dsl"), as: UTF8.self)
        // [044h 0068 004h]              Endpoint start : 00000018
        let fields = text.matches(of: #/(?m)^\[\w+ \d+ +\w+\] +(.+?) : (\S+)/#).map { "\($0.1) \($0.2)" }
        let expected = [
            "Table Length 00000070", "Node count 0003", "Node offset 0030",
            "Type 03", "Length 0010", "PCI Segment 0000", "PCI BDF number 0010",
            "Type 01", "Length 0018", "Endpoint start 00000018", "PCI Segment start 0000", "PCI Segment end 0000",
            "PCI BDF start 0018", "PCI BDF end 0019", "Output node 0030",
            "Type 01", "Length 0018", "Endpoint start 00000100", "PCI Segment start 0000", "PCI Segment end 0000",
            "PCI BDF start 0100", "PCI BDF end 0100", "Output node 0030",
        ]
        let names = ["Table", "Node", "Type", "Length", "PCI", "Endpoint", "Output"]
        #expect(fields.filter { field in names.contains { field.hasPrefix($0) } } == expected)
        #expect(!text.contains("Invalid") && !text.contains("Unknown"))
    }
}

/// `iasl` of Debian's acpica-tools, where it is and knows the table: since version 20210331.
private enum Disassembler {
    /// Why it cannot be asked; `nil` when it can.
    static let obstacle: String? = {
        // It says so after it has written a file, so it gets a place for that.
        let place = FileManager.default.temporaryDirectory.appendingPathComponent(
            "outboard-\(UUID().uuidString.prefix(8))")
        defer { try? FileManager.default.removeItem(at: place) }
        try? FileManager.default.createDirectory(at: place, withIntermediateDirectories: false)
        guard let known = try? run(["-T", "VIOT"], in: place) else { return "there is no iasl" }
        return known.output.contains("Unrecognized") ? "this iasl is too old to know the VIOT" : nil
    }()

    static func run(_ arguments: [String], in directory: URL) throws -> (status: Int32, output: String) {
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["iasl"] + arguments
        process.currentDirectoryURL = directory
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let printed = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        // What a shell, and env, say of a program that is not there.
        if process.terminationStatus == 127 { throw CocoaError(.fileNoSuchFile) }
        return (process.terminationStatus, printed)
    }
}
