import Foundation
import LinuxHost
import Randomness
import Testing
import VFIOUserRecording
import VFIOUserWire

/// `tshark` with our dissector.
private enum Tshark {
    static let program = ["/usr/bin/tshark", "/usr/local/bin/tshark"].first {
        FileManager.default.isExecutableFile(atPath: $0)
    }

    static var isInstalled: Bool {
        if program == nil { print("tshark is not installed: the dissector's tests are skipped") }
        return program != nil
    }

    private static let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("schemas/vfio-user.lua").path

    /// What it prints of a capture, and what it complains of.
    static func run(_ capture: [UInt8], _ arguments: [String]) throws -> (lines: [Substring], complaints: String) {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/capture.pcapng"
        try Data(capture).write(to: URL(fileURLWithPath: path))
        let (output, errors) = (directory.path + "/output", directory.path + "/errors")
        for file in [output, errors] { try Data().write(to: URL(fileURLWithPath: file)) }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program ?? "")
        process.arguments = ["-n", "-2", "-X", "lua_script:\(script)", "-r", path] + arguments
        var environment = ProcessInfo.processInfo.environment
        environment["HOME"] = directory.path
        process.environment = environment
        process.standardOutput = FileHandle(forWritingAtPath: output)
        process.standardError = FileHandle(forWritingAtPath: errors)
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        let text = String(decoding: try directory.read("output"), as: UTF8.self)
        let complaints = String(decoding: try directory.read("errors"), as: UTF8.self)
        return (text.split(separator: "\n", omittingEmptySubsequences: false).dropLast(), complaints)
    }
}

@Suite(.enabled(if: Tshark.isInstalled)) struct `The dissector for Wireshark` {
    @Test(arguments: Golden.allCases)
    func `reads every message of QEMU as our decoder does`(golden: Golden) throws {
        try compare(try golden.entries())
    }

    @Test func `reads every other message as our decoder does`() throws {
        try compare(messagesOfEveryKind)
    }

    /// A field that only the dissector takes apart.
    @Test func `reads what features say`() throws {
        let report = MessageWriter.message(.deviceFeature) { writer in
            DeviceFeature(feature: .reportDMALogging, operations: .get, argumentSize: 40).write(to: &writer)
            for number in [0x10000, 0x8000, 4096] as [UInt64] { writer.append(number) }
            writer.append(0xff as UInt64)
        }
        let state = MessageWriter.message(.deviceFeature) { writer in
            DeviceFeature(feature: .migrationDeviceState, operations: .set, argumentSize: 16).write(to: &writer)
            writer.append(3 as UInt32)
            writer.append(0 as UInt32)
        }
        let names = [
            "feature.range.address", "feature.range.size", "feature.page_size", "feature.bitmap", "feature.state",
        ]
        let lines = try fields(names, of: capture(entries([report, state])))
        #expect(lines[0] == ["0x0000000000010000", "0x0000000000008000", "0x0000000000001000", "ff00000000000000", ""])
        #expect(lines[1] == ["", "", "", "", "3"])
    }

    /// Numbers that Lua cannot hold as they are.
    @Test func `reads memory at the very top`() throws {
        let map = MessageWriter.message(.mapDMA) { writer in
            MapDMA(flags: [.read], fileOffset: 0, address: .max, size: 1).write(to: &writer)
        }
        let result = try Tshark.run(capture(entries([map])), [])
        #expect(result.lines.first?.contains("DMA_MAP: 0xffffffffffffffff, 0x1 bytes") == true, "\(result)")
    }

    /// Each says that areas follow up to the end, and that the next begins where they do.
    @Test func `capabilities inside each other are not read over and over`() throws {
        let (capabilityCount, byteCount) = (1000, 32 + 1000 * 16)
        let reply = MessageWriter.message(.getRegionInfo, .reply) { writer in
            for number in [byteCount, 0xf, 0, 32] { writer.append(UInt32(number)) }
            for number in [0x1000, 0] as [UInt64] { writer.append(number) }
            for number in 0..<capabilityCount {
                for half in [1, 1] as [UInt16] { writer.append(half) }
                writer.append(UInt32(32 + (number + 1) * 16))
                writer.append(UInt32(capabilityCount - number - 1))
                writer.append(UInt32(0))
            }
        }
        let lines = try fields(["region.areas"], of: capture(entries([reply], .toClient)))
        #expect(lines == [["\(capabilityCount - 1)"]])
    }

    @Test func `finds the reply of each request`() throws {
        let entries = try Golden.nvme.entries()
        let lines = try fields(["reply_in", "reply_to", "command", "id"], of: capture(entries))
        let messages = entries.compactMap(\.message)
        #expect(lines.count == messages.count)
        for (index, line) in lines.enumerated() {
            let bytes = messages[index].bytes
            let header = try MessageHeader(parsing: bytes.span)
            #expect(line[1].isEmpty == (header.kind == .command))
            #expect(line[0].isEmpty == (header.kind == .reply || header.expectsNoReply))
            guard let request = Int(line[1]) else { continue }
            #expect(lines[request - 1][2...] == line[2...])
            #expect(lines[request - 1][0] == "\(index + 1)")
        }
    }

    @Test func `messages that are broken in any way raise no error in it`() throws {
        var numbers = SeededNumbers(seed: 1)
        let whole = messagesOfEveryKind.compactMap(\.message)
        var broken: [RecordedMessage] = []
        for message in whole {
            for count in 0..<min(message.bytes.count, 60) {
                var cut = message
                cut.bytes = Array(message.bytes.prefix(count))
                broken.append(cut)
            }
            for _ in 0..<20 {
                var changed = message
                let place = Int.random(in: 0..<changed.bytes.count, using: &numbers)
                changed.bytes[place] = UInt8.random(in: 0...255, using: &numbers)
                broken.append(changed)
            }
        }
        let entries = broken.map { RecordingEntry(time: 0, conversation: 1, event: .message($0)) }
        let result = try Tshark.run(capture(entries), ["-V"])
        #expect(!result.lines.contains { $0.contains("Lua") }, "\(result.lines.first { $0.contains("Lua") } ?? "")")
        #expect(!result.complaints.contains("Lua"), "\(result.complaints)")
        #expect(result.lines.count { $0.hasPrefix("Frame ") } == broken.count)
        #expect(result.lines.contains { $0.contains("ends too early") })
    }

    @Test func `a message too long for a capture is cut, and not told as broken`() throws {
        let long = MessageWriter.message(.writeRegion) { writer in
            RegionAccess(offset: 0x10, region: 1, count: 1 << 20).write(to: &writer)
            writer.appendZeros(1 << 20)
        }
        let next = MessageWriter.message(.resetDevice)
        let lines = try fields(["access.count", "malformed", "command"], of: capture(entries([long, next])))
        #expect(lines == [["1048576", "", "10"], ["", "", "13"]])
    }

    @Test func `a packet that is none of ours raises no error in it`() throws {
        // The last message's pseudo-header says more descriptors than there are, then a layout of its own.
        var bytes = capture(entries([MessageWriter.message(.resetDevice)]))
        let place = try #require((0..<bytes.count - 8).first { Array(bytes[$0..<$0 + 4]) == [1, 0, 1, 0] && $0 > 60 })
        bytes[place + 4] = 200
        for version in [1, 9] as [UInt8] {
            bytes[place] = version
            let result = try Tshark.run(bytes, ["-V"])
            #expect(!result.lines.contains { $0.contains("Lua") })
            #expect(
                result.lines.contains {
                    $0.contains("Malformed") || $0.contains("descriptors end too early")
                        || $0.contains("no pseudo-header")
                })
        }
    }

    private func capture(_ entries: [RecordingEntry]) -> [UInt8] {
        var capture = PacketCapture()
        for entry in entries { capture.append(entry) }
        return capture.bytes
    }

    private func entries(_ messages: [[UInt8]], _ direction: RecordedDirection = .toServer) -> [RecordingEntry] {
        messages.map {
            RecordingEntry(
                time: 0, conversation: 1, event: .message(RecordedMessage(direction: direction, bytes: $0)))
        }
    }

    /// The values of fields, a line for each message.
    private func fields(_ names: [String], of capture: [UInt8]) throws -> [[String]] {
        let options = names.flatMap { ["-e", "vfio_user." + $0] }
        let result = try Tshark.run(capture, ["-T", "fields", "-E", "aggregator=;"] + options)
        return result.lines.map { $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init) }
    }

    private func compare(_ entries: [RecordingEntry]) throws {
        let messages = entries.compactMap(\.message)
        let decoded = messages.map { DecodedMessage($0.bytes, direction: $0.direction) }
        let names = Set(decoded.flatMap { $0.fields.map(\.name) }).sorted()
        let lines = try fields(names + ["fds", "fd.size", "to_client"], of: capture(entries))
        try #require(lines.count == messages.count)
        for (index, line) in lines.enumerated() {
            #expect(decoded[index].error == nil, "\(decoded[index])")
            for (column, name) in names.enumerated() {
                let ours = decoded[index].fields.filter { $0.name == name }.map(\.value)
                // The dissector also shows fields that mean nothing in their message.
                guard !ours.isEmpty else { continue }
                // Text may have the separator in it, and comes once.
                let theirs =
                    if case .text = ours[0] { [line[column]] } else {
                        line[column].split(separator: ";").map(String.init)
                    }
                #expect(theirs.count == ours.count, "message \(index) \(name): \(line[column]) and \(ours)")
                for (our, their) in zip(ours, theirs) {
                    #expect(Self.isSame(our, their), "message \(index) \(name): \(their) and \(our)")
                }
            }
            let descriptors = messages[index].descriptors
            #expect(line[names.count] == "\(descriptors.count)")
            #expect(line[names.count + 1] == descriptors.map { "\($0.byteCount)" }.joined(separator: ";"))
            #expect(Self.isSame(.number(messages[index].direction == .toClient ? 1 : 0), line[names.count + 2]))
        }
    }

    /// Versions of `tshark` differ in how they print what is true.
    private static func isSame(_ ours: DecodedMessage.Value, _ theirs: String) -> Bool {
        switch ours {
        case .number(let number), .bits(let number):
            switch theirs {
            case "True": number == 1
            case "False": number == 0
            default:
                (theirs.hasPrefix("0x") ? UInt64(theirs.dropFirst(2), radix: 16) : UInt64(theirs)) == number
            }
        // Quotes are escaped.
        case .text(let text): theirs.replacingOccurrences(of: "\\\"", with: "\"") == text
        case .bytes(let bytes): theirs.replacingOccurrences(of: ":", with: "") == bytes.map(\.twoDigits).joined()
        }
    }

    /// What QEMU does not send, or a server of ours does not answer.
    private var messagesOfEveryKind: [RecordingEntry] {
        let area = RegionCapability.Area(offset: 0x1000, size: 0x2000)
        let toServer: [[UInt8]] = [
            MessageWriter.message(.getRegionIODescriptors) {
                RegionIODescriptorsRequest(index: 2, maximumReplySize: 4096).write(to: &$0)
            },
            MessageWriter.message(.setInterrupts) {
                SetInterrupts(action: .mask, data: .booleans, index: 2, start: 3, count: 4).write(to: &$0)
                $0.append(contentsOf: [1, 0, 1, 1])
            },
            MessageWriter.message(.writeRegions) {
                WriteRegions(count: 2).write(to: &$0)
                WriteRegions.Write(offset: 0x1000, region: 0, count: 4, data: 0x1122).write(to: &$0)
                WriteRegions.Write(offset: 0x1008, region: 1, count: 8, data: .max).write(to: &$0)
            },
            MessageWriter.message(.deviceFeature) {
                DeviceFeature(feature: .migration, operations: .get, argumentSize: 16).write(to: &$0)
            },
            MessageWriter.message(.deviceFeature) {
                DeviceFeature(feature: .startDMALogging, operations: .set, argumentSize: 40).write(to: &$0)
                $0.append(4096 as UInt64)
                $0.append(1 as UInt32)
                $0.append(0 as UInt32)
                $0.append(0x10000 as UInt64)
                $0.append(0x8000 as UInt64)
            },
            MessageWriter.message(.readMigrationData) { MigrationDataRequest(count: 512).write(to: &$0) },
            MessageWriter.message(.writeMigrationData) {
                MigrationData(count: 3).write(to: &$0)
                $0.append(contentsOf: [7, 8, 9])
            },
            MessageWriter.message(.unmapDMA) { UnmapDMA(scope: .everything).write(to: &$0) },
            MessageWriter.message(.unmapDMA) {
                UnmapDMA(
                    scope: .addresses(0x1000...0x1fff), dirtyBitmap: .init(pageSize: 4096, size: 8),
                    maximumReplySize: 48
                ).write(to: &$0)
            },
            MessageWriter.message(.readClientMemory, .reply) {
                ClientMemoryAccess(address: 0x1234_5678_9abc, count: 2).write(to: &$0)
                $0.append(contentsOf: [1, 2])
            },
            MessageWriter.message(.writeClientMemory, .reply),
        ]
        let toClient: [[UInt8]] = [
            MessageWriter.message(.getRegionInfo, .reply) {
                RegionInfo(
                    index: 0, flags: [.read, .write, .mappable], size: 0x4000, mappingOffset: 0x10000,
                    capabilities: [.mappableAreas([area, area]), .type(0x8000_1af4, subtype: 2), .mappableMSIX]
                ).write(to: &$0, maximumReplySize: 4096)
            },
            MessageWriter.message(.getRegionIODescriptors, .reply) {
                RegionIODescriptors(
                    index: 2,
                    entries: [
                        .init(offset: 8, size: 4, descriptorIndex: 0, kind: .event(dataMatch: 5)),
                        .init(offset: 16, size: 0, descriptorIndex: 1, flags: 2, kind: .region(userData: 6)),
                    ]
                ).write(to: &$0, maximumReplySize: 4096)
            },
            MessageWriter.message(.writeRegions, .reply) { WriteRegions(count: 2).write(to: &$0) },
            MessageWriter.message(.deviceFeature, .reply) {
                DeviceFeature(feature: .migration, operations: .get, argumentSize: 16).write(to: &$0)
                $0.append(5 as UInt64)
            },
            MessageWriter.message(.readMigrationData, .reply) {
                MigrationData(count: 2).write(to: &$0)
                $0.append(contentsOf: [3, 4])
            },
            MessageWriter.message(.writeMigrationData, .reply),
            MessageWriter.message(.readClientMemory) { ClientMemoryAccess(address: .max, count: 0).write(to: &$0) },
            MessageWriter.message(.writeClientMemory) {
                ClientMemoryAccess(address: 0x1000, count: 3).write(to: &$0)
                $0.append(contentsOf: [1, 2, 3])
            },
            {
                var writer = MessageWriter()
                writer.appendErrorReply(id: MessageID(rawValue: 9), command: .readRegion, errorNumber: 22)
                return writer.bytes
            }(),
        ]
        return entries(toServer) + entries(toClient, .toClient)
    }
}

extension UInt8 {
    fileprivate var twoDigits: String { (self < 16 ? "0" : "") + String(self, radix: 16) }
}
