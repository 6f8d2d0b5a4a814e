import ArgumentParser
import Glibc

/// The tool. Follows the conventions of QEMU's backend programs: one device per process, a socket path or an inherited
/// descriptor, one line on standard output when it listens, logs on standard error, SIGTERM to stop.
@main
struct Outboard: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "outboard",
        abstract: "PCI devices for QEMU that live outside QEMU's process.",
        subcommands: [Serve.self, Devices.self])

    /// Usage errors end with status 64 and anything else that goes wrong with 1; both say what it is in one line.
    static func main() {
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch let failure as Failure {
            complain(failure.message)
            exit(withStatus: 1)
        } catch {
            if exitCode(for: error) == .success { exit(withError: error) }
            complain(message(for: error))
            exit(withStatus: EX_USAGE)
        }
    }

    private static func complain(_ message: String) {
        let line = message.split(separator: "\n").first.map(String.init) ?? message
        FileOutput.standardError.write("outboard: \(line)\n")
    }

    private static func exit(withStatus status: Int32) -> Never {
        Glibc.exit(status)
    }
}

/// Something that keeps the tool from doing what it was rightly asked to do.
struct Failure: Error {
    let message: String
}

/// Standard output and standard error, written to at once.
enum FileOutput: Int32 {
    case standardOutput = 1
    case standardError = 2

    func write(_ text: String) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(rawValue, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            bytes = bytes.dropFirst(count)
        }
    }
}
