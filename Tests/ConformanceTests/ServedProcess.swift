import Foundation
import Glibc
import LinuxHost

/// The tool serving a device in a process of its own, in a directory that several of them may share.
final class ServedProcess {
    private let process = Process()
    private let log: URL
    let socketPath: String

    /// - Parameter arguments: the device and its options.
    init(_ arguments: [String], in directory: WorkDirectory) throws {
        let name = UUID().uuidString.prefix(8)
        socketPath = directory.path + "/socket-\(name)"
        log = URL(fileURLWithPath: directory.path + "/log-\(name)")
        try Data().write(to: log)
        // The tool is built next to the tests.
        process.executableURL = URL(fileURLWithPath: CommandLine.arguments[0])
            .deletingLastPathComponent().appendingPathComponent("outboard")
        process.arguments = ["serve"] + arguments + ["--socket-path", socketPath]
        process.standardOutput = FileHandle.nullDevice
        process.standardError = try FileHandle(forWritingTo: log)
        try process.run()
    }

    deinit { kill() }

    /// Ends it without a chance to tidy up.
    func kill() {
        guard process.isRunning else { return }
        Glibc.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    var isRunning: Bool { process.isRunning }

    /// A client of it, once it listens.
    func connect() throws -> RawPeer {
        let peer = RawPeer(try connectSocket())
        try peer.negotiate()
        return peer
    }

    private func connectSocket() throws(Errno) -> UNIXSocket {
        while true {
            do throws(Errno) {
                return try UNIXSocket.connect(toPath: socketPath)
            } catch {
                guard error == .connectionRefused || error == .noSuchEntry, process.isRunning else { throw error }
                usleep(1000)
            }
        }
    }

    /// What it has logged so far.
    var logText: String { (try? String(contentsOf: log, encoding: .utf8)) ?? "" }
}

/// A directory that goes with everything in it.
final class WorkDirectory {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Makes a file and returns its path.
    func write(_ bytes: [UInt8], to name: String) throws -> String {
        try Data(bytes).write(to: URL(fileURLWithPath: path + "/" + name))
        return path + "/" + name
    }

    func read(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(fileURLWithPath: path + "/" + name)))
    }
}
