import BlockStorage
import CBaselines
import CProcessCounters
import DeviceModel
import Glibc
import LinuxHost
import NVMe
import VFIOUserServer

/// What serves a client in a process of its own: Outboard with a device, or a baseline.
///
/// To measure another way to run a server, add a case.
enum ServerRole: Hashable {
    case outboard, outboardPolling, buffered, headerFirst, polling
    /// Outboard with an NVMe controller that shows the file at a path.
    case nvme(path: String)

    /// Those with the measured device, which all answer alike.
    static let measured: [ServerRole] = [.outboard, .outboardPolling, .buffered, .headerFirst, .polling]
    /// Those of them that sleep when they have nothing to do. Whether a server polls shows only in how long a message waits.
    static let sleeping: [ServerRole] = [.outboard, .buffered, .headerFirst]

    var name: String {
        switch self {
        case .outboard: "Outboard"
        case .outboardPolling: "Outboard, polling"
        case .buffered: "C, buffered"
        case .headerFirst: "C, header first"
        case .polling: "C, polling"
        case .nvme: "Outboard"
        }
    }

    /// The value of `--serve`.
    var argument: String {
        switch self {
        case .outboard: "outboard"
        case .outboardPolling: "outboard-polling"
        case .buffered: "buffered"
        case .headerFirst: "header-first"
        case .polling: "polling"
        case .nvme(let path): "nvme:" + path
        }
    }

    init?(argument: String) {
        if let role = ServerRole.measured.first(where: { $0.argument == argument }) {
            self = role
        } else if argument.hasPrefix("nvme:") {
            self = .nvme(path: String(argument.dropFirst(5)))
        } else {
            return nil
        }
    }

    /// Whether the one thread that serves has a processor to itself.
    private var hasOwnProcessor: Bool {
        if case .nvme = self { false } else { Settings.processorCount > 1 }
    }

    /// Serves the client at the inherited socket until it leaves: what a server's process does.
    func serve() throws {
        let socket = UNIXSocket(adopting: OwnedDescriptor(adopting: Int32(INHERITED_DESCRIPTOR)))
        // Whoever started this may have been confined; the device's threads are not, its connection's is.
        run_on_processor(-1)
        switch self {
        case .outboard: try serve(try MeasuredDevice(), socket)
        case .outboardPolling: try serve(try MeasuredDevice(), socket, busyPoll: .microseconds(200))
        case .nvme(let path):
            let store = try FileStore(path: path, byteCount: nil, blockSize: .bytes4096, isReadOnly: true)
            let options = NVMeController.Options(serial: NVMeController.SerialNumber(derivedFrom: "benchmark"))
            try serve(try NVMeController.makeFunction(store: store, options: options), socket)
        case .buffered: serveBaseline(BASELINE_BUFFERED, socket)
        case .headerFirst: serveBaseline(BASELINE_HEADER_FIRST, socket)
        case .polling: serveBaseline(BASELINE_POLLING, socket)
        }
    }

    private func serveBaseline(_ reading: baseline_reading, _ socket: UNIXSocket) {
        if hasOwnProcessor { run_on_processor(1) }
        baseline_server_run(socket.descriptor.rawValue, reading, count_of_allocations)
    }

    private func serve(_ device: any Device, _ socket: UNIXSocket, busyPoll: Duration = .zero) throws {
        if hasOwnProcessor { run_on_processor(1) }
        Server(device: device, busyPoll: busyPoll).serve(socket, until: try EventCounter())
    }
}

/// A server in a process of its own, and a client connected to it.
final class ServerProcess {
    let role: ServerRole
    let client: LoadClient
    let processID: pid_t

    init(_ role: ServerRole) throws(Errno) {
        let (near, far) = try UNIXSocket.pair()
        self.role = role
        processID = unsafe start_program_again("--serve", role.argument, far.descriptor.rawValue)
        client = LoadClient(near)
        guard processID > 0 else { throw Errno(rawValue: -processID) }
    }

    deinit {
        client.close()
        guard processID > 0 else { return }
        let status = wait_for_program(processID)
        if status != 0 { fatalError("the server '\(role.name)' ended with status \(status)") }
    }

    /// A server of each kind, each with a client that has agreed with it on a version.
    static func each(_ roles: [ServerRole]) throws(Errno) -> [ServerProcess] {
        var servers: [ServerProcess] = []
        for role in roles {
            let server = try ServerProcess(role)
            server.client.negotiate()
            servers.append(server)
        }
        return servers
    }
}

/// Runs the client on a processor of its own, where there are two.
func onOwnProcessor<Result>(_ body: () throws -> Result) rethrows -> Result {
    guard Settings.processorCount > 1 else { return try body() }
    run_on_processor(0)
    defer { run_on_processor(-1) }
    return try body()
}
