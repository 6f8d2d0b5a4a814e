import ArgumentParser
import LinuxHost
import VFIOUserRecording

/// `outboard replay FILE --socket-path PATH`
struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "Play the client's half of a recording to a server, and compare what it answers.",
        discussion: """
            Answers must be the same byte for byte, but for what this says is allowed. Ends with status 0 when they are, \
            and with 1 when they are not.
            """)

    @Argument(help: .init("What outboard serve --record wrote.", valueName: "file"))
    var file: String

    @Option(help: .init("The socket at which the server listens.", valueName: "path"))
    var socketPath: String

    @Flag(help: "Keep the pace of the recording, instead of sending as soon as answers come.")
    var timing = false

    @Option(help: .init("How long the server may take for an answer. (default: 5)", valueName: "seconds"))
    var patience: Int?

    func validate() throws {
        if let patience, !(1...3600).contains(patience) { throw ValidationError("--patience takes 1 to 3600 seconds") }
    }

    func run() throws {
        let recording = try RecordingFile(path: file)
        recording.tellIfCut()
        var conversations: [UInt16] = []
        for entry in recording.entries where entry.conversation != 0 && !conversations.contains(entry.conversation) {
            conversations.append(entry.conversation)
        }
        var options = Replay.Options()
        options.keepsPace = timing
        if let patience { options.patience = .seconds(patience) }
        var replay = Replay()
        do throws(Errno) {
            // A device may serve one client only, so they come one after another, whether they did or not.
            for conversation in conversations {
                let socket = try UNIXSocket.connect(toPath: socketPath, atMost: options.patience)
                try replay.play(recording.entries, conversation: conversation, over: socket, options: options)
            }
        } catch {
            throw Failure(message: "\(socketPath): \(error)")
        }
        tell(replay, conversations.count)
        if let error = recording.error { throw Failure(message: "\(file): \(error)") }
        if replay.differenceCount > 0 { throw Failure(message: "\(file): the server answered otherwise") }
    }

    private func tell(_ replay: Replay, _ conversationCount: Int) {
        let output = FileOutput.standardOutput
        for difference in replay.differences {
            let milliseconds = difference.time / 1_000_000
            output.write("\(milliseconds) ms: \(difference.text)\n")
        }
        let untold = replay.differenceCount - replay.differences.count
        if untold > 0 { output.write("and \(untold) more\n") }
        for allowance in Replay.Allowance.allCases {
            guard let count = replay.allowed[allowance] else { continue }
            output.write("allowed \(count) times: \(allowance.rawValue): \(allowance.reason)\n")
        }
        output.write(
            "\(conversationCount) conversations, \(replay.sentCount) messages sent, \(replay.matchedCount) answers compared, "
                + "\(replay.allowed.values.reduce(0, +)) differences allowed, \(replay.differenceCount) not\n")
    }
}
