import ArgumentParser
import Configuration
import Glibc
import LinuxHost
import Logging
import VFIOUserRecording
import VFIOUserServer
import VFIOUserTransport
import VFIOUserWire

/// `outboard serve DEVICE`
struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve a device to QEMU.",
        discussion: """
            Prints one line when the socket listens, then serves the clients that come until SIGTERM or SIGINT.
            """,
        subcommands: [ServeNVMe.self, ServeEdu.self, ServeVirtioRNG.self, ServeConfigured.self],
        defaultSubcommand: ServeConfigured.self)
}

/// `outboard serve --config FILE`: the file names the device.
struct ServeConfigured: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "configured", abstract: "The device that a configuration file names.", shouldDisplay: false)

    /// Whatever stands in the place of a device's name but is none.
    @Argument var device: String?

    @OptionGroup var common: ServeOptions

    func validate() throws {
        if let device { throw ValidationError("there is no device \(device); outboard devices lists them") }
        if common.config == nil {
            throw ValidationError("a device is needed, or --config FILE; outboard devices lists them")
        }
    }

    func run() throws {
        guard let file = try common.configuration() else { return }
        switch file.device {
        case .edu(let options): try common.serve(options, file)
        case .nvme(let options): try common.serve(options, file)
        case .virtioRNG: try common.serveVirtioRNG(file)
        }
    }
}

/// The options that every device has.
struct ServeOptions: ParsableArguments {
    @Option(help: .init("Listen on a UNIX socket at this path.", valueName: "path"))
    var socketPath: String?

    @Option(
        help: .init(
            "Use this inherited socket: one that listens, or one that is connected to the only client.", valueName: "n")
    )
    var fd: Int32?

    @Option(
        help: .init(
            "How many clients are served at once, each with a device of its own, 1 to 64. (default: 1)", valueName: "n"
        ))
    var maxClients: Int?

    @Option(help: .init("Read options from a JSON file; those on the command line come first.", valueName: "file"))
    var config: String?

    @Option(
        help: .init(
            "How much to log: trace, debug, info, notice, warning, error or critical.", valueName: "level"),
        transform: { name in
            guard let level = Logger.Level(rawValue: name) else { throw ValidationError("no such log level: \(name)") }
            return level
        })
    var logLevel = Logger.Level.notice

    @OptionGroup var recording: RecordingOptions

    @Option(
        help: .init(
            """
            After each message, go on asking the socket for so long before sleeping, at most a second. Answers the next \
            one sooner where server and client have a core each, and takes all of one meanwhile.
            """,
            valueName: "microseconds"))
    var busyPoll = 0

    @Option(
        help: .init(
            """
            Make faults on purpose, such as seed=7,short-reads=20%,delay=1ms. \(FaultPlan.names.joined(separator: ", ")).
            """,
            valueName: "faults"),
        transform: { text in
            do throws(FaultPlanError) {
                return try FaultPlan(parsing: text)
            } catch {
                throw ValidationError("--inject: \(error)")
            }
        })
    var inject: FaultPlan?

    /// Whether the socket may still come from the configuration file.
    var mayLackSocket: Bool { config != nil }

    func validate() throws {
        if socketPath != nil && fd != nil { throw ValidationError("--socket-path and --fd exclude each other") }
        if socketPath == nil && fd == nil && !mayLackSocket {
            throw ValidationError("one of --socket-path and --fd is needed")
        }
        if let maxClients, !DeviceConfiguration.clientCounts.contains(maxClients) {
            throw ValidationError("--max-clients takes 1 to 64")
        }
        if !(0...1_000_000).contains(busyPoll) { throw ValidationError("--busy-poll takes 0 to 1000000 microseconds") }
        if let fd, fd < 3 { throw ValidationError("--fd takes an inherited descriptor, 3 or above") }
    }
}

extension ServeOptions {
    /// What the configuration file says; `nil` without one.
    ///
    /// - Throws: `Failure` for a file that cannot be read or makes no sense.
    func configuration() throws -> DeviceConfiguration? {
        guard let config else { return nil }
        do {
            return try DeviceConfiguration(parsing: try StorageFile.contents(ofPath: config, atMost: 1 << 20))
        } catch let error as Errno {
            throw Failure(message: "\(config): \(error)")
        } catch let error as ConfigurationError {
            throw Failure(message: "\(config): \(error)")
        }
    }

    /// How many clients are served at once, by these options and then by the configuration file.
    func clientCount(_ configuration: DeviceConfiguration?) -> Int {
        maxClients ?? configuration?.maxClients ?? 1
    }

    /// The service for a device, by these options and then by the configuration file.
    func service(_ deviceName: String, _ configuration: DeviceConfiguration?) throws -> Service {
        if let configuration, configuration.device.name != deviceName {
            throw Failure(message: "\(config ?? ""): describes \(configuration.device.name), not \(deviceName)")
        }
        let endpoint: Endpoint
        switch (socketPath, fd, configuration?.listener) {
        case (let path?, _, _), (nil, nil, .socketPath(let path)): endpoint = .path(path)
        case (nil, let descriptor?, _), (nil, nil, .descriptor(let descriptor)): endpoint = .descriptor(descriptor)
        case (nil, nil, nil): throw Failure(message: "\(config ?? ""): names no socket, and neither did an option")
        }
        return Service(
            deviceName: deviceName, endpoint: endpoint, logLevel: logLevel, busyPoll: .microseconds(busyPoll),
            faults: inject, recording: recording)
    }
}

/// Where clients come from.
enum Endpoint {
    case path(String)
    case descriptor(Int32)
}

/// A server for a device on a thread of its own, while the main thread waits for signals.
struct Service {
    let deviceName: String
    let endpoint: Endpoint
    let logger: Logger
    private let busyPoll: Duration
    private let faults: FaultPlan?
    private let recording: RecordingOptions

    init(
        deviceName: String, endpoint: Endpoint, logLevel: Logger.Level, busyPoll: Duration, faults: FaultPlan?,
        recording: RecordingOptions
    ) {
        self.deviceName = deviceName
        self.endpoint = endpoint
        self.busyPoll = busyPoll
        self.faults = faults
        self.recording = recording
        var logger = Logger(label: deviceName) { StandardErrorLog(label: $0) }
        logger.logLevel = logLevel
        self.logger = logger
    }

    /// Serves until a signal, or until the only client has left.
    ///
    /// - Throws: `Failure`
    func run(_ makeDevices: () throws -> DeviceSupply) throws {
        do {
            // Before any thread starts, so that all of them leave these signals to the queue.
            let signals = try SignalQueue([SIGTERM, SIGINT])
            switch endpoint {
            case .path(let path): try listen(at: path, signals, makeDevices)
            case .descriptor(let descriptor): try serve(inherited: descriptor, signals, makeDevices)
            }
        } catch let error as Errno {
            throw Failure(message: "\(deviceName): \(error)")
        }
    }

    private func listen(
        at path: String, _ signals: borrowing SignalQueue, _ makeDevices: () throws -> DeviceSupply
    ) throws {
        let listener: UNIXSocketListener
        do throws(Errno) {
            listener = try UNIXSocketListener(path: path)
        } catch {
            throw Failure(message: "socket \(path): \(describe(error))")
        }
        try serve(listener, "listening on \(path)", signals, makeDevices)
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
        let logger = logger
        try serve(announcement, signals, makeDevices) { server, stop in
            do throws(ServerError) {
                try server.run(listener, until: stop)
            } catch {
                logger.error("cannot serve any longer", metadata: ["cause": "\(error)"])
            }
        }
    }

    /// Makes the device, or what will make it, announces it and runs `work` on a thread of its own until it ends or a
    /// signal ends it.
    private func serve(
        _ announcement: String, _ signals: borrowing SignalQueue, _ makeDevices: () throws -> DeviceSupply,
        _ work: @escaping @Sendable (Server, EventCounter) -> Void
    ) throws {
        let recorder = try recording.recorder(of: deviceName, logger)
        defer { recorder?.finish() }
        let server = Server(
            devices: try makeDevices(), busyPoll: busyPoll, report: report, decorate: decorator(recorder))
        let (stop, ended) = (try EventCounter(), try EventCounter())
        let thread = try OSThread(name: "connection") {
            work(server, stop)
            ended.signal()
        }
        FileOutput.standardOutput.offer(line: "\(deviceName): \(announcement)")
        defer { thread.join() }
        defer { stop.signal() }
        try waitForEnd(signals, ended)
    }

    /// What stands between a client's sockets and its session: faults next to the socket, so that a recording has what
    /// the session saw of them.
    private func decorator(_ recorder: Recorder?) -> @Sendable (UNIXSocket, TransportRole) -> any Transport {
        { [faults] socket, role in
            let number: UInt64 = if case .twin = role { 1 } else { 0 }
            let transport: any Transport = faults.map { FaultyTransport(socket, $0, number: number) } ?? socket
            return recorder?.transport(over: transport, as: role) ?? transport
        }
    }

    private func waitForEnd(_ signals: borrowing SignalQueue, _ ended: EventCounter) throws(Errno) {
        let poller = try Poller()
        try poller.add(signals.descriptor.rawValue, token: 0, interest: .readable)
        try poller.add(ended.rawDescriptor, token: 1, interest: .readable)
        while try poller.wait().isEmpty {}
        if let signal = signals.next() {
            logger.info("stopping", metadata: ["signal": "\(signal == SIGTERM ? "SIGTERM" : "SIGINT")"])
        }
    }

    private func describe(_ error: Errno) -> String {
        switch error {
        case .addressInUse: "somebody listens there, or it is not a socket"
        case .nameTooLong: "longer than the 107 bytes that a socket path can have"
        default: "\(error)"
        }
    }

    /// Writes what happens to the log. A malformed request is the peer's affair and ends at its error reply, so it is
    /// worth no more than a note.
    private var report: @Sendable (ServerEvent) -> Void {
        { [logger] event in
            switch event {
            case .clientConnected: logger.info("client connected")
            case .clientRefused: logger.warning("client refused: there is no room for another")
            case .refused(let header, let refusal):
                logger.notice(
                    "request refused",
                    metadata: ["command": "\(header.command)", "id": "\(header.id.rawValue)", "cause": "\(refusal)"])
            case .twinSocketClosed:
                logger.notice("client closed its second socket: its memory is not reached by messages any more")
            case .clientGone(.clientLeft): logger.info("client left")
            case .clientGone(.stopped): logger.info("client dropped: stopping")
            case .clientGone(.protocolError(let refusal)):
                logger.warning("client dropped: it broke the protocol", metadata: ["cause": "\(refusal)"])
            case .clientGone(.failed(let error)):
                logger.warning("client dropped: its socket failed", metadata: ["cause": "\(error)"])
            case .clientNotServed(let error):
                logger.error("client not served", metadata: ["cause": "\(error)"])
            }
        }
    }
}
