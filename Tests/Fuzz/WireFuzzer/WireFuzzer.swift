import ArgumentParser
import FuzzBodies
import Glibc

#if LIBFUZZER
    import CLibFuzzer
#endif

/// The decoder under bytes by seed; in a build for fuzzing, whatever libFuzzer thinks of when no option begins with two
/// dashes.
@main enum WireFuzzer {
    static func main() {
        #if LIBFUZZER
            if !CommandLine.arguments.contains(where: { $0.hasPrefix("--") }) { fuzz() }
        #endif
        WireRun.main()
    }
}

struct WireRun: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "WireFuzzer", abstract: "Reads messages that are nearly right, and holds the decoder to its rules."
    )

    @Option(help: "How many inputs to draw.")
    var inputs: UInt64 = 100_000

    @Option(help: "What the inputs are drawn from.")
    var seed: UInt64 = 1

    @Option(help: "The number of the first input.")
    var first: UInt64 = 0

    @Option(help: ArgumentHelp("Read these files instead.", valueName: "file"))
    var replay: [String] = []

    @Option(help: ArgumentHelp("Write the kinds of message there are as files into this folder.", valueName: "folder"))
    var writeSeeds: String?

    func run() throws {
        if let folder = writeSeeds {
            for (name, bytes) in WireInputs.seeds { try Files.write(bytes, to: "\(folder)/\(name)") }
            return
        }
        if !replay.isEmpty {
            for file in replay { try check(try Files.read(file), "--replay \(file)") }
            print("\(replay.count) passed, 0 failed, 0 skipped")
            return
        }
        var messages = 0
        for number in first..<first + inputs {
            messages += try check(
                WireInputs.input(seed: seed, number: number), "--seed \(seed) --first \(number) --inputs 1")
        }
        print("\(inputs) inputs, \(messages) messages")
        print("1 passed, 0 failed, 0 skipped")
    }

    @discardableResult
    private func check(_ input: [UInt8], _ options: String) throws -> Int {
        do throws(Finding) {
            return try WireProperties.check(input)
        } catch {
            print("FOUND: \(error)")
            print("read it alone with: WireFuzzer \(options)")
            print("0 passed, 1 failed, 0 skipped")
            throw ExitCode.failure
        }
    }
}

#if LIBFUZZER
    extension WireFuzzer {
        private static func fuzz() -> Never {
            var count = CommandLine.argc
            var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
            let status = unsafe LLVMFuzzerRunDriver(&count, &arguments) { bytes, count in
                do throws(Finding) {
                    try WireProperties.check(unsafe [UInt8](UnsafeBufferPointer(start: bytes, count: count)))
                } catch {
                    Crash.end(error)
                }
                return 0
            }
            exit(status)
        }
    }
#endif
