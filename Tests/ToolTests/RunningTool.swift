import Foundation
import Glibc
import LinuxHost

/// The tool as a process of its own, serving `edu` at a path in a directory that goes with it.
final class RunningTool {
    let socketPath: String
    private let directory: String
    private let process = Process()

    /// - Parameters:
    ///   - arguments: the device and what else stands on its command line.
    ///   - hasSocketPath: whether it is told to listen at `socketPath`.
    ///   - tracer: a program and its arguments that runs the tool.
    init(
        serving arguments: [String] = ["edu"], hasSocketPath: Bool = true, under tracer: [String] = [],
        standardOutput: FileHandle = .nullDevice,
        standardError: FileHandle = .nullDevice
    ) throws {
        directory = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        socketPath = directory + "/socket"
        let place = hasSocketPath ? ["--socket-path", socketPath] : []
        let command = tracer + [Self.executable.path, "serve"] + arguments + place
        process.executableURL = URL(fileURLWithPath: command[0])
        process.arguments = Array(command.dropFirst())
        process.standardOutput = standardOutput
        process.standardError = standardError
        try process.run()
    }

    deinit {
        if process.isRunning { kill() }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// The tool is built next to the tests.
    static var executable: URL {
        URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("outboard")
    }

    /// Ends it at once, with whatever it is doing.
    func kill() {
        Glibc.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// Runs the tool to its end, and answers with its status and all that it printed.
    static func output(of arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
        let process = Process()
        let (output, errors) = (Pipe(), Pipe())
        process.executableURL = executable
        process.arguments = arguments
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        // What goes to standard error is one line at most, for which a pipe has room.
        let printed = output.fileHandleForReading.readDataToEndOfFile()
        let complained = errors.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (
            process.terminationStatus, String(decoding: printed, as: UTF8.self),
            String(decoding: complained, as: UTF8.self)
        )
    }

    var socketExists: Bool { FileManager.default.fileExists(atPath: socketPath) }

    func waitForSocket() {
        while !socketExists && process.isRunning { usleep(1000) }
    }

    /// A client of it. The socket is there a moment before anybody listens.
    func connect() throws(Errno) -> UNIXSocket {
        while true {
            do throws(Errno) {
                return try UNIXSocket.connect(toPath: socketPath)
            } catch {
                guard error.rawValue == ECONNREFUSED, process.isRunning else { throw error }
                usleep(1000)
            }
        }
    }

    /// Asks it to end, and answers with its status; `nil` when it had to be killed.
    func terminate() -> Int32? {
        process.terminate()
        return waitForEnd()
    }

    /// As `terminate`, for one that runs under a tracer: it is the tracer's only child.
    func terminateTraced() throws -> Int32? {
        let number = process.processIdentifier
        let children = try String(contentsOfFile: "/proc/\(number)/task/\(number)/children", encoding: .utf8)
        if let child = Int32(children.trimmingCharacters(in: .whitespaces)) { Glibc.kill(child, SIGTERM) }
        return waitForEnd()
    }

    /// The status that it ends with of its own accord; `nil` when it does not.
    func waitForEnd() -> Int32? {
        var patience = 3000
        while process.isRunning && patience > 0 {
            usleep(10_000)
            patience -= 1
        }
        return process.isRunning ? nil : process.terminationStatus
    }
}

/// A pipe that nobody reads and that has no room left.
func fullPipe() -> Pipe {
    let pipe = Pipe()
    let descriptor = pipe.fileHandleForWriting.fileDescriptor
    let flags = fcntl(descriptor, F_GETFL)
    _ = fcntl(descriptor, F_SETFL, flags | O_NONBLOCK)
    let page = [UInt8](repeating: 0, count: 4096)
    while unsafe write(descriptor, page, page.count) > 0 {}
    _ = fcntl(descriptor, F_SETFL, flags)
    return pipe
}
