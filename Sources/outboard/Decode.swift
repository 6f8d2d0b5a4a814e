import ArgumentParser
import JSONText
import VFIOUserRecording
import VFIOUserWire

/// `outboard decode FILE`
struct Decode: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print a recording, one line for each message.",
        discussion: """
            Or turn it into something else: JSON, one object a line; a capture for Wireshark, which schemas/vfio-user.lua \
            teaches to read it; or the bytes of each message as a file.
            """)

    @Argument(help: .init("What outboard serve --record wrote.", valueName: "file"))
    var file: String

    @Flag(help: "Print JSON, one object a line.")
    var json = false

    @Option(help: .init("Write a capture for Wireshark into a new file, and print nothing.", valueName: "file"))
    var pcapng: String?

    @Option(
        help: .init(
            "Write every message of the clients that differs from those before into a new file in this directory, and "
                + "print nothing.", valueName: "directory"))
    var raw: String?

    func validate() throws {
        if [json, pcapng != nil, raw != nil].count(where: { $0 }) > 1 {
            throw ValidationError("--json, --pcapng and --raw exclude each other")
        }
    }

    func run() throws {
        let recording = try RecordingFile(path: file)
        recording.tellIfCut()
        if let pcapng {
            var capture = PacketCapture()
            for entry in recording.entries { capture.append(entry) }
            try RecordingFile.write(capture.bytes, to: pcapng)
        } else if let raw {
            try writeMessages(of: recording, into: raw)
        } else if json {
            for entry in recording.entries {
                do throws(JSONError) {
                    FileOutput.standardOutput.write(String(decoding: try entry.json.text(), as: UTF8.self) + "\n")
                } catch {
                    throw Failure(message: "\(file): \(error)")
                }
            }
        } else {
            for entry in recording.entries { FileOutput.standardOutput.write(entry.line + "\n") }
        }
        // What comes before a fault in the file has been shown all the same.
        if let error = recording.error { throw Failure(message: "\(file): \(error)") }
    }

    private func writeMessages(of recording: RecordingFile, into directory: String) throws {
        var seen: Set<[UInt8]> = []
        for entry in recording.entries {
            guard case .message(let message) = entry.event, message.direction == .toServer else { continue }
            // The ID alone makes no difference.
            guard seen.insert(Array(message.bytes.dropFirst(2))).inserted else { continue }
            let number = String(seen.count)
            let name = String(repeating: "0", count: max(0, 5 - number.count)) + number
            let decoded = DecodedMessage(message.bytes, direction: .toServer)
            let command = decoded.header?.command.standardName ?? "unreadable"
            try RecordingFile.write(message.bytes, to: "\(directory)/\(name)-\(command)")
        }
    }
}
