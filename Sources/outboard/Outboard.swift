import ArgumentParser
import Glibc

/// The tool. Follows the conventions of QEMU's backend programs: one device per process, a socket path or an inherited
/// descriptor, one line on standard output when it listens, logs on standard error, SIGTERM to stop.
@main
struct Outboard: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "outboard",
        abstract: "PCI devices for QEMU that live outside QEMU's process.",
        subcommands: [
            Serve.self, Viot.self, Devices.self, Probe.self, Check.self, Decode.self, ReplayCommand.self,
        ])

    /// Usage errors end with status 64 and anything else that goes wrong with 1; both say what it is in one line.
    static func main() {
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch let status as ExitStatus {
            exit(withStatus: status.rawValue)
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
        FileOutput.standardError.offer(line: "outboard: \(line)")
    }

    private static func exit(withStatus status: Int32) -> Never {
        Glibc.exit(status)
    }
}

/// Something that keeps the tool from doing what it was rightly asked to do.
struct Failure: Error {
    let message: String
}

/// An end with a status of its own, when what there is to say has been said.
struct ExitStatus: Error {
    let rawValue: Int32
}

/// Standard output and standard error, written to at once.
enum FileOutput: Int32 {
    case standardOutput = 1
    case standardError = 2

    /// What a pipe with any room takes in one piece. `PIPE_BUF`
    private static let maximumLine = 4096

    /// Writes all of `text`, however long the reader takes.
    func write(_ text: String) { write(Array(text.utf8)) }

    /// Writes all of `bytes`, however long the reader takes.
    func write(_ bytes: [UInt8]) {
        var bytes = bytes[...]
        while !bytes.isEmpty {
            guard let count = writeOnce(bytes) else { return }
            bytes = bytes.dropFirst(count)
        }
    }

    /// Writes a line if there is room for it, and drops it otherwise: a device must not stop because nobody reads what it
    /// says, and a signal must be able to end it.
    func offer(line: String) {
        var request = pollfd(fd: rawValue, events: Int16(POLLOUT), revents: 0)
        guard unsafe poll(&request, 1, 0) == 1, request.revents & Int16(POLLOUT) != 0 else { return }
        _ = writeOnce(Array(line.utf8.prefix(FileOutput.maximumLine - 1)) + [UInt8(ascii: "\n")])
    }

    /// How many bytes were taken; `nil` when that failed.
    private func writeOnce(_ bytes: some Collection<UInt8>) -> Int? {
        let bytes = Array(bytes)
        let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(rawValue, $0.baseAddress, $0.count) }
        return count > 0 ? count : nil
    }
}
