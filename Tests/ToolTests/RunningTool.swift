import Foundation
import LinuxHost
import Glibc

/// The tool as a process of its own, serving `edu` at a path in a directory that goes with it.
final class RunningTool {
    let socketPath: String
    private let directory: String
    private let process = Process()

    init(
        serving arguments: [String] = ["edu"], standardOutput: FileHandle = .nullDevice,
        standardError: FileHandle = .nullDevice
    ) throws {
        directory = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        socketPath = directory + "/socket"
        process.executableURL = Self.executable
        process.arguments = ["serve"] + arguments + ["--socket-path", socketPath]
        process.standardOutput = standardOutput
        process.standardError = standardError
        try process.run()
    }

    deinit {
        if process.isRunning {
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
        }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// The tool is built next to the tests.
    static var executable: URL {
        URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("outboard")
    }

    /// Runs the tool to its end, and answers with its status and what it had to say about it.
    static func run(_ arguments: [String]) throws -> (status: Int32, complaint: String) {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = executable
        process.arguments = arguments
        process.standardOutput = FileHandle.nullDevice
        process.standardError = pipe
        try process.run()
        let complaint = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: complaint, as: UTF8.self))
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
