import ArgumentParser
import FuzzBodies
import Glibc

#if LIBFUZZER
    import CLibFuzzer
#endif

/// Rings by seed; in a build for fuzzing, whatever libFuzzer thinks of when no option begins with two dashes.
@main enum VirtqueueFuzzer {
    static func main() {
        #if LIBFUZZER
            if !CommandLine.arguments.contains(where: { $0.hasPrefix("--") }) { fuzz() }
        #endif
        VirtqueueRun.main()
    }
}

/// A run that is the same every time.
struct VirtqueueRun: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "VirtqueueFuzzer", abstract: "Plays rings against virtio devices and holds them to a model.")

    @Option(help: "How many scripts to play.")
    var scripts: UInt64 = 10_000

    @Option(help: "What the scripts are drawn from.")
    var seed: UInt64 = 1

    @Option(help: "The number of the first script.")
    var first: UInt64 = 0

    @Option(help: ArgumentHelp("Play the scripts in these files instead.", valueName: "file"))
    var replay: [String] = []

    @Option(
        help: ArgumentHelp("Write the scripts as files into this folder instead of playing them.", valueName: "folder"))
    var write: String?

    func run() throws {
        if let write {
            for number in first..<first + scripts {
                try Files.write(
                    VirtqueueInputs.input(seed: seed, number: number), to: "\(write)/seed-\(seed)-\(number)")
            }
            return
        }
        if !replay.isEmpty {
            let player = try VirtqueuePlayer()
            for file in replay { try play(try Files.read(file), "--replay \(file)", player) }
            print("\(replay.count) passed, 0 failed, 0 skipped")
            return
        }
        let status = try CrashNote.run(options: "VirtqueueFuzzer --seed \(seed) --scripts 1 --first ") { leave in
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
        let player = try VirtqueuePlayer()
        for number in first..<first + scripts {
            leave(number)
            let input = VirtqueueInputs.input(seed: seed, number: number)
            try play(input, "--seed \(seed) --scripts 1 --first \(number)", player)
        }
        let statistics = player.statistics
        print(
            "\(statistics.scripts) scripts, \(statistics.storms) of them storms, \(statistics.steps) steps, "
                + "\(statistics.buffers) buffers")
        var unreached = 0
        for name in VirtqueueStatistics.errorNames {
            let count = statistics.errors[name] ?? 0
            print("  \(name): \(count)")
            // Few scripts reach what they reach.
            if count == 0, scripts >= 10_000 {
                print("FAILED: \(name) was never reached")
                unreached += 1
            }
        }
        guard scripts >= 10_000 else { return 0 }
        print("\(VirtqueueStatistics.errorNames.count - unreached) passed, \(unreached) failed, 0 skipped")
        return unreached == 0 ? 0 : 1
    }

    private func play(_ input: [UInt8], _ options: String, _ player: VirtqueuePlayer) throws {
        do throws(Finding) {
            try player.play(input)
        } catch {
            print("FOUND: \(error)")
            print("play it alone with: VirtqueueFuzzer \(options)")
            print("0 passed, 1 failed, 0 skipped")
            // The thread of a device that hangs would keep the process from ending in any other way.
            fflush(nil)
            _exit(1)
        }
    }
}

#if LIBFUZZER
    extension VirtqueueFuzzer {
        private static let player = SharedVirtqueuePlayer()

        private static func fuzz() -> Never {
            var count = CommandLine.argc
            var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
            let status = unsafe LLVMFuzzerRunDriver(&count, &arguments) { bytes, count in
                unsafe VirtqueueFuzzer.player.play([UInt8](UnsafeBufferPointer(start: bytes, count: count)))
                return 0
            }
            exit(status)
        }
    }
#endif
