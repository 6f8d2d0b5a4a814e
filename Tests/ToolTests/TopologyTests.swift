import Foundation
import LinuxHost
import Testing
import VFIOUserClient

/// The tool serving a topology whose files are in a directory of its own.
private final class ServedTopology {
    let directory: String
    let tool: RunningTool
    private let output = Pipe()
    private let errors: FileHandle

    /// - Parameters:
    ///   - text: the topology, with `@` for the directory.
    ///   - prepare: does something to the directory before the tool starts.
    init(_ text: String, _ options: [String] = [], _ prepare: (String) throws -> Void = { _ in }) throws {
        let directory = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
        self.directory = directory
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        let path = directory + "/topology.json"
        try Data(text.replacingOccurrences(of: "@", with: directory).utf8).write(to: URL(fileURLWithPath: path))
        let log = directory + "/log"
        try Data().write(to: URL(fileURLWithPath: log))
        errors = try FileHandle(forWritingTo: URL(fileURLWithPath: log))
        try prepare(directory)
        let options = options.map { $0.replacingOccurrences(of: "@", with: directory) }
        tool = try RunningTool(
            serving: ["--config", path] + options, hasSocketPath: false,
            standardOutput: output.fileHandleForWriting, standardError: errors)
        try output.fileHandleForWriting.close()
    }

    deinit {
        tool.kill()
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// The next lines on standard output, fewer if the tool ends before.
    func lines(_ count: Int) -> [String] {
        var bytes: [UInt8] = []
        while bytes.count(where: { $0 == UInt8(ascii: "\n") }) < count {
            guard let byte = try? output.fileHandleForReading.read(upToCount: 1), !byte.isEmpty else { break }
            bytes += byte
        }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    var log: String { (try? String(contentsOfFile: directory + "/log", encoding: .utf8)) ?? "" }

    func has(_ name: String) -> Bool { FileManager.default.fileExists(atPath: directory + "/" + name) }

    func client(_ name: String) throws -> Client {
        try Client(path: directory + "/" + name, replyTimeout: .seconds(30))
    }
}

private let small = """
    {"iommu": {"address": "00:02.0", "socketPath": "@/iommu"},
     "devices": [{"name": "disk", "device": "nvme", "address": "00:03.0", "socketPath": "@/disk",
                  "options": {"image": "@/image", "size": "1MiB"}},
                 {"device": "edu", "address": "00:04.0", "socketPath": "@/edu", "options": {"dmaMask": 64}},
                 {"device": "virtio-rng", "address": "00:05.0", "socketPath": "@/rng", "behindIOMMU": false}]}
    """
private let sockets = ["iommu", "disk", "edu", "rng"]

@Suite struct `Serving a topology` {
    @Test(arguments: [[], ["--busy-poll", "100"], ["--inject", "seed=3,short-reads=50%,interruptions=20%"]])
    func `every socket serves one client after another, and SIGTERM leaves none`(options: [String]) throws {
        let served = try ServedTopology(small, options)
        let directory = served.directory
        #expect(
            served.lines(5) == [
                "iommu: listening on \(directory)/iommu", "disk: listening on \(directory)/disk",
                "edu-00:04.0: listening on \(directory)/edu", "virtio-rng-00:05.0: listening on \(directory)/rng",
                "outboard: listening on 4 sockets",
            ])
        // Vendor and device ID.
        let identities: [String: UInt32] = [
            "iommu": 0x1057_1af4, "disk": 0x00f0_1b36, "edu": 0x11e8_1234, "rng": 0x1044_1af4,
        ]
        for _ in 0..<2 {
            // All at the same time.
            let clients = try sockets.map { ($0, try served.client($0)) }
            for (name, client) in clients {
                let identity = try client.readRegister(UInt32.self, region: PCIRegion.configuration, at: 0)
                #expect(identity == identities[name], "\(name)")
            }
        }
        let last = try served.client("iommu")
        #expect(served.tool.terminate() == 0)
        #expect(sockets.allSatisfy { !served.has($0) })
        #expect(throws: (any Error).self) { try last.readRegister(UInt32.self, region: 7, at: 0) }
    }

    @Test func `if one socket cannot be had, nothing is served and nothing created`() throws {
        let served = try ServedTopology(small) { try Data().write(to: URL(fileURLWithPath: $0 + "/rng")) }
        #expect(served.tool.waitForEnd() == 1)
        #expect(served.lines(1).isEmpty)
        #expect(
            served.log == "outboard: socket \(served.directory)/rng: somebody listens there, or it is not a socket\n")
        #expect(["iommu", "disk", "edu", "image"].allSatisfy { !served.has($0) })
    }

    @Test func `if one device cannot be had, nothing is served`() throws {
        let served = try ServedTopology(small) { directory in
            try FileManager.default.createDirectory(
                atPath: directory + "/image", withIntermediateDirectories: false)
        }
        #expect(served.tool.waitForEnd() == 1)
        #expect(served.lines(1).isEmpty)
        #expect(
            served.log.hasPrefix("outboard: \(served.directory)/image: ")
                && served.log.split(separator: "\n").count == 1)
        #expect(sockets.allSatisfy { !served.has($0) })
    }

    @Test(arguments: [["--socket-path", "@/other"], ["--fd", "5"], ["--max-clients", "2"]])
    func `what is for one device is a usage error`(options: [String]) throws {
        let served = try ServedTopology(small, options)
        #expect(served.tool.waitForEnd() == 64)
        #expect(
            served.log
                == "outboard: \(options[0]) is for one device, and \(served.directory)/topology.json describes several\n"
        )
        #expect(sockets.allSatisfy { !served.has($0) })
    }

    @Test func `a device that is named beside a topology is not in it`() throws {
        let served = try ServedTopology(small)
        #expect(served.lines(5).count == 5)
        let path = served.directory + "/topology.json"
        let run = try RunningTool.output(of: ["serve", "edu", "--config", path, "--socket-path", "x"])
        #expect(run.status == 1)
        #expect(run.errors == "outboard: \(path): describes a topology, not edu\n")
    }

    @Test func `each device has a recording of its own, and none is written over`() throws {
        let served = try ServedTopology(small, ["--record", "@/recording"])
        #expect(served.lines(5).count == 5)
        _ = try served.client("edu").readRegister(UInt32.self, region: 0, at: 0)
        #expect(served.tool.terminate() == 0)
        let names = ["iommu", "disk", "edu-00:04.0", "virtio-rng-00:05.0"]
        for name in names { #expect(served.has("recording.\(name)"), "\(name)") }
        let decoded = try RunningTool.output(of: ["decode", served.directory + "/recording.edu-00:04.0"])
        #expect(decoded.status == 0 && decoded.output.contains("REGION_READ"))

        let next = try ServedTopology(small, ["--record", "@/recording"]) { directory in
            try Data().write(to: URL(fileURLWithPath: directory + "/recording.disk"))
        }
        #expect(next.tool.waitForEnd() == 1)
        #expect(next.log == "outboard: \(next.directory)/recording.disk: File exists\n")
        #expect(sockets.allSatisfy { !next.has($0) })
    }

    /// A queue whose rings are not aligned, again and again.
    @Test func `a driver that breaks its queue in a loop does not fill the log`() throws {
        let served = try ServedTopology(small)
        #expect(served.lines(5).count == 5)
        let client = try served.client("rng")
        let memory = try SharedMemory(byteCount: 1 << 16)
        try client.map(memory, byteCount: memory.byteCount, at: 0)
        try client.writeRegister(UInt16(6), region: PCIRegion.configuration, at: 4)
        let count = 300
        for _ in 0..<count {
            try client.writeRegister(UInt8(0), region: 4, at: 20)
            while try client.readRegister(UInt8.self, region: 4, at: 20) != 0 {}
            // Version 1 is accepted, the queue's first ring is at an odd address.
            for (offset, value) in [(8, 1), (12, 1), (32, 1)] as [(UInt64, UInt32)] {
                try client.writeRegister(value, region: 4, at: offset)
            }
            try client.writeRegister(UInt16(1), region: 4, at: 28)
            try client.writeRegister(UInt8(15), region: 4, at: 20)
            while try client.readRegister(UInt8.self, region: 4, at: 20) & 64 == 0 {}
        }
        #expect(served.tool.terminate() == 0)
        let lines = served.log.split(separator: "\n").filter { $0.contains("warning virtio-rng-00:05.0: ") }
        #expect(lines.first?.contains("a ring is not aligned") == true, "\(lines)")
        #expect(lines.count >= 10 && lines.count < count)
    }

    /// Without bypass and without a driver, whatever edu touches is a fault.
    @Test func `a flood of faults is some lines, and the number of the others`() throws {
        let closed = small.replacingOccurrences(
            of: #""socketPath": "@/iommu""#, with: #""socketPath": "@/iommu", "options": {"bootBypass": false}"#)
        let served = try ServedTopology(closed)
        #expect(served.lines(5).count == 5)
        let client = try served.client("edu")
        let memory = try SharedMemory(byteCount: 1 << 16)
        try client.map(memory, byteCount: memory.byteCount, at: 0)
        try client.writeRegister(UInt16(6), region: PCIRegion.configuration, at: 4)
        let count = 300
        for number in 0..<count {
            // Source in the device, destination, byte count, and the command to move bytes to memory.
            let address = UInt64(number % 16) << 12
            for (offset, value) in [(0x80, 0x40000), (0x88, address), (0x90, 16), (0x98, 3)] as [(UInt64, UInt64)] {
                try client.writeRegister(value, region: 0, at: offset)
            }
            while try client.readRegister(UInt64.self, region: 0, at: 0x98) & 1 != 0 {}
        }
        #expect(memory.read(0..<memory.byteCount).allSatisfy { $0 == 0 })
        #expect(served.tool.terminate() == 0)

        let lines = served.log.split(separator: "\n").filter { $0.contains("warning iommu: ") }
        let written = lines.filter {
            $0.contains("DMA of an endpoint that is attached to no domain: endpoint 00:04.0 wrote 0x")
                && $0.contains(" device=edu-00:04.0")
        }
        let others = lines.compactMap { $0.firstMatch(of: #/ … and (\d+) more faults$/#)?.1 }.compactMap { Int($0) }
        #expect(written.count + others.count == lines.count, "\(lines)")
        #expect(written.count + others.reduce(0, +) == count, "\(lines)")
        #expect(!others.isEmpty && written.count >= 10)
    }
}
