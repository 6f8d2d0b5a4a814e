import Glibc
import LinuxHost
import Logging
import VFIOUserRecording
import VFIOUserServer

/// Where clients come from.
enum Endpoint {
    case path(String)
    case descriptor(Int32)
}

/// A server for a device on a thread of its own, while the main thread waits for signals.
struct Service {
    let endpoint: Endpoint
    let identity: ServiceIdentity
    let recording: RecordingOptions

    /// Serves until a signal, or until the only client has left.
    ///
    /// - Throws: `Failure`
    func run(_ makeDevices: () throws -> DeviceSupply) throws {
        do {
            // Before any thread starts, so that all of them leave these signals to the queue.
            let signals = try SignalQueue.ofEnd()
            switch endpoint {
            case .path(let path):
                try serve(try ServiceIdentity.listener(at: path), "listening on \(path)", signals, makeDevices)
            case .descriptor(let descriptor): try serve(inherited: descriptor, signals, makeDevices)
            }
        } catch let error as Errno {
            throw Failure(message: "\(identity.name): \(error)")
        }
    }

    /// A socket that was inherited may be one that listens or one that is connected to the only client there will be.
    private func serve(
        inherited descriptor: Int32, _ signals: borrowing SignalQueue, _ makeDevices: () throws -> DeviceSupply
    ) throws {
        guard let socket = OwnedDescriptor(adoptingSocket: descriptor) else {
            throw Failure(message: "--fd \(descriptor): not a socket")
        }
        if let copy = try? socket.duplicate(), let listener = try? UNIXSocketListener(adopting: copy) {
            try serve(listener, "listening on descriptor \(descriptor)", signals, makeDevices)
            return
        }
        let connection = UNIXSocket(adopting: socket)
        try serve("serving descriptor \(descriptor)", signals, makeDevices) { server, stop in
            server.serve(connection, until: stop)
        }
    }

    private func serve(
        _ listener: UNIXSocketListener, _ announcement: String, _ signals: borrowing SignalQueue,
        _ makeDevices: () throws -> DeviceSupply
    ) throws {
        try serve(announcement, signals, makeDevices) { [identity] server, stop in
            identity.serve(server, at: listener, until: stop)
        }
    }

    /// Makes the device, or what will make it, announces it and runs `work` on a thread of its own until it ends or a
    /// signal ends it.
    private func serve(
        _ announcement: String, _ signals: borrowing SignalQueue, _ makeDevices: () throws -> DeviceSupply,
        _ work: @escaping @Sendable (Server, EventCounter) -> Void
    ) throws {
        let recorder = try recording.recorder(of: identity.name, identity.logger)
        defer { recorder?.finish() }
        let server = identity.server(of: try makeDevices(), recorder)
        let (stop, ended) = (try EventCounter(), try EventCounter())
        let thread = try OSThread(name: "connection") {
            work(server, stop)
            ended.signal()
        }
        FileOutput.standardOutput.offer(line: "\(identity.name): \(announcement)")
        defer { thread.join() }
        defer { stop.signal() }
        try waitForEnd(signals, ended)
    }

    private func waitForEnd(_ signals: borrowing SignalQueue, _ ended: EventCounter) throws(Errno) {
        let poller = try Poller()
        try poller.add(signals.descriptor.rawValue, token: 0, interest: .readable)
        try poller.add(ended.rawDescriptor, token: 1, interest: .readable)
        while try poller.wait().isEmpty {}
        signals.tellOfEnd(identity.logger)
    }
}

extension SignalQueue {
    /// The signals that end the tool in an orderly way.
    static func ofEnd() throws(Errno) -> SignalQueue { try SignalQueue([SIGTERM, SIGINT]) }

    /// Logs the signal that has come, if one has.
    func tellOfEnd(_ logger: Logger) {
        guard let signal = next() else { return }
        logger.info("stopping", metadata: ["signal": "\(signal == SIGTERM ? "SIGTERM" : "SIGINT")"])
    }
}
