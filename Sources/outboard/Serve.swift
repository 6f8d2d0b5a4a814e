import ArgumentParser
import Configuration
import DeviceModel
import LinuxHost
import Logging
import VFIOUserServer
import VFIOUserTransport

/// `outboard serve DEVICE`
struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve a device to QEMU, or an IOMMU and the devices behind it.",
        discussion: """
            Prints one line when the socket listens, then serves the clients that come until SIGTERM or SIGINT.

            outboard serve --config FILE serves what the file describes: a device, or a topology, which is a virtio-iommu \
            and devices in one process, each with a socket and a PCI address of its own (schemas/topology.schema.json). \
            That prints a line for each socket when all of them listen, and then one for all. QEMU gets each as a device \
            at its address, no IOMMU of its own, and the table that outboard viot writes.
            """,
        subcommands: [
            ServeNVMe.self, ServeEdu.self, ServeCopyEngine.self, ServeVirtioRNG.self, ServeConfigured.self,
        ],
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
        switch try common.configurationFile() {
        case nil: break
        case .device(let file):
            switch file.device {
            case .edu(let options): try common.serve(options, file)
            case .copyEngine(let options): try common.serve(options, file)
            case .nvme(let options): try common.serve(options, file)
            case .virtioRNG: try common.serveVirtioRNG(file)
            }
        case .topology(let topology): try common.serve(topology)
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
    func configurationFile() throws -> ConfigurationFile? {
        try config.map { try ConfigurationFile(path: $0) }
    }

    /// What the configuration file says of a device that the command line names; `nil` without one.
    ///
    /// - Throws: `Failure`, also for a file that describes something else.
    func configuration(of deviceName: String) throws -> DeviceConfiguration? {
        let described: String
        switch try configurationFile() {
        case nil: return nil
        case .device(let file):
            if file.device.name == deviceName { return file }
            described = file.device.name
        case .topology: described = "a topology"
        }
        throw Failure(message: "\(config ?? ""): describes \(described), not \(deviceName)")
    }

    /// How many clients are served at once, by these options and then by the configuration file.
    func clientCount(_ configuration: DeviceConfiguration?) -> Int {
        maxClients ?? configuration?.maxClients ?? 1
    }

    /// Serves a device of which each client gets one for itself.
    ///
    /// - Throws: `Failure`
    func serve(
        _ deviceName: String, _ configuration: DeviceConfiguration?,
        _ makeDevice: @escaping @Sendable (ServiceIdentity) throws(Errno) -> any Device
    ) throws {
        let clientCount = clientCount(configuration)
        let service = try service(deviceName, configuration)
        let identity = service.identity
        try service.run {
            guard clientCount > 1 else { return .exclusive(try makeDevice(identity)) }
            return .forEachClient(maximum: clientCount) { () throws(Errno) in try makeDevice(identity) }
        }
    }

    /// The service for a device, by these options and then by the configuration file.
    func service(_ deviceName: String, _ configuration: DeviceConfiguration?) throws -> Service {
        let endpoint: Endpoint
        switch (socketPath, fd, configuration?.listener) {
        case (let path?, _, _), (nil, nil, .socketPath(let path)): endpoint = .path(path)
        case (nil, let descriptor?, _), (nil, nil, .descriptor(let descriptor)): endpoint = .descriptor(descriptor)
        case (nil, nil, nil): throw Failure(message: "\(config ?? ""): names no socket, and neither did an option")
        }
        return Service(
            endpoint: endpoint, identity: ServiceIdentity(name: deviceName, self), recording: recording)
    }
}

extension ConfigurationFile {
    /// - Throws: `Failure` for a file that cannot be read or makes no sense.
    init(path: String) throws {
        do {
            try self.init(parsing: try StorageFile.contents(ofPath: path, atMost: 1 << 20))
        } catch let error as Errno {
            throw Failure(message: "\(path): \(error)")
        } catch let error as ConfigurationError {
            throw Failure(message: "\(path): \(error)")
        }
    }
}
