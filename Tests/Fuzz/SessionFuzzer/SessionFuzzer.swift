import ArgumentParser
import FuzzBodies
import Glibc

#if LIBFUZZER
    import CLibFuzzer
#endif

/// Sessions by seed; in a build for fuzzing, whatever libFuzzer thinks of when no option begins with two dashes.
@main enum SessionFuzzer {
    static func main() {
        #if LIBFUZZER
            if !CommandLine.arguments.contains(where: { $0.hasPrefix("--") }) { fuzz() }
        #endif
        SessionRun.main()
    }
}

/// A run that is the same every time, as far as threads allow.
struct SessionRun: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "SessionFuzzer",
        abstract: "Plays sessions against servers of real devices and looks what they leave behind.")

    @Option(help: "How many sessions to play.")
    var sessions: UInt64 = 10_000

    @Option(help: "What the sessions are drawn from.")
    var seed: UInt64 = 1

    @Option(help: "The number of the first session.")
    var first: UInt64 = 0

    @Option(help: ArgumentHelp("Play the sessions in these files instead.", valueName: "file"))
    var replay: [String] = []

    @Option(
        help: ArgumentHelp("Write the sessions as files into this folder instead of playing them.", valueName: "folder")
    )
    var write: String?

    @Option(help: ArgumentHelp("Write QEMU's conversations as files into this folder.", valueName: "folder"))
    var writeConversations: String?

    func run() throws {
        if let folder = writeConversations {
            for (name, bytes) in Conversations.all { try Files.write(bytes, to: "\(folder)/\(name)") }
            return
        }
        if let write {
            for number in first..<first + sessions {
                try Files.write(SessionInputs.input(seed: seed, number: number), to: "\(write)/seed-\(seed)-\(number)")
            }
            return
        }
        if !replay.isEmpty {
            let player = try SessionPlayer()
            for file in replay { try play(try Files.read(file), "--replay \(file)", player) }
            print("\(replay.count) passed, 0 failed, 0 skipped")
            return
        }
        let status = try CrashNote.run(options: "SessionFuzzer --seed \(seed) --sessions 1 --first ") { leave in
            do {
                return try playAll(leave)
            } catch {
                if !(error is ExitCode) { print("FAILED: \(error)") }
                return 1
            }
        }
        if status != 0 { throw ExitCode.failure }
    }

    private func playAll(_ leave: (UInt64) -> Void) throws -> Int32 {
        let player = try SessionPlayer()
        for number in first..<first + sessions {
            leave(number)
            let input = SessionInputs.input(seed: seed, number: number)
            try play(input, "--seed \(seed) --sessions 1 --first \(number)", player)
        }
        let unreached = report(player.statistics)
        // Few sessions reach what they reach.
        guard sessions >= 10_000 else { return 0 }
        print("\(Statistics.clientCommands.count * 2 + 3 - unreached) passed, \(unreached) failed, 0 skipped")
        return unreached == 0 ? 0 : 1
    }

    private func play(_ input: [UInt8], _ options: String, _ player: SessionPlayer) throws {
        do throws(Finding) {
            try player.play(input)
        } catch {
            print("FOUND: \(error)")
            print("play it alone with: SessionFuzzer \(options)")
            print("0 passed, 1 failed, 0 skipped")
            // Threads of a server that hangs would keep the process from ending in any other way.
            fflush(nil)
            _exit(1)
        }
    }

    /// Prints what was reached, and counts what should have been and was not.
    private func report(_ statistics: Statistics) -> Int {
        print("\(statistics.sessions) sessions, \(statistics.messages) messages, \(statistics.replies) replies")
        print(
            "descriptors: \(statistics.descriptorsSent) sent, \(statistics.descriptorsReceived) received; "
                + "memory asked for: \(statistics.memoryReads) reads, \(statistics.memoryWrites) writes, "
                + "\(statistics.twinRequests) over a second socket, \(statistics.memoryAnswers) answered in full; "
                + "\(statistics.rings) doorbells rung; \(statistics.restoredStates) states given back")
        var unreached = 0
        for (number, name) in Statistics.clientCommands {
            let answers = statistics.answers[number] ?? Statistics.Answers()
            print("  \(name): \(answers.accepted) accepted, \(answers.refused) refused")
            for (isReached, what) in [(answers.accepted > 0, "accepted"), (answers.refused > 0, "refused")]
            where !isReached {
                print("FAILED: \(name) was never \(what)")
                unreached += 1
            }
        }
        if statistics.memoryReads == 0 || statistics.memoryWrites == 0 {
            print("FAILED: the server never asked for memory")
            unreached += 1
        }
        if statistics.twinRequests == 0 {
            print("FAILED: the server never asked over a second socket")
            unreached += 1
        }
        if statistics.restoredStates == 0 {
            print("FAILED: no device was given its state back")
            unreached += 1
        }
        list("error replies", statistics.errors.map { ("\($0)", $1) })
        list("refused for", statistics.refusals.map { ($0, $1) })
        list("connections ended", statistics.endings.map { ($0, $1) })
        return unreached
    }

    private func list(_ title: String, _ counts: [(String, Int)]) {
        let sorted = counts.sorted { ($1.1, $0.0) < ($0.1, $1.0) }
        print("\(title): " + sorted.map { "\($0.0) \($0.1)" }.joined(separator: ", "))
    }
}

#if LIBFUZZER
    extension SessionFuzzer {
        private static let player = SharedPlayer()

        private static func fuzz() -> Never {
            var count = CommandLine.argc
            var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
            let status = unsafe LLVMFuzzerRunDriver(&count, &arguments) { bytes, count in
                unsafe SessionFuzzer.player.play([UInt8](UnsafeBufferPointer(start: bytes, count: count)))
                return 0
            }
            exit(status)
        }
    }
#endif
