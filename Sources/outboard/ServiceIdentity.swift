import LinuxHost
import Logging
import PCI
import VFIOUserRecording
import VFIOUserServer
import VFIOUserTransport
import VFIOUserWire

/// What is served under one name: how its log is called and what stands between its clients and it.
struct ServiceIdentity {
    let name: String
    let logger: Logger
    private let busyPoll: Duration
    private let faults: FaultPlan?

    init(name: String, _ options: ServeOptions) {
        self.name = name
        busyPoll = .microseconds(options.busyPoll)
        faults = options.inject
        var logger = Logger(label: name) { StandardErrorLog(label: $0) }
        logger.logLevel = options.logLevel
        self.logger = logger
    }

    /// The way of a device's accesses that no IOMMU of this process stands in. Tells, once for each client, of one from which
    /// the device gets no memory at all.
    func makeDirectRoute() -> DirectRoute {
        DirectRoute { [logger] in
            logger.warning(
                """
                the device reaches no memory: its client has mapped none. Behind an IOMMU of QEMU's, either the guest has \
                mapped nothing yet or QEMU passes no mapping on (intel-iommu needs caching-mode=on and no first stage)
                """)
        }
    }

    func server(of devices: DeviceSupply, _ recorder: Recorder?) -> Server {
        Server(devices: devices, busyPoll: busyPoll, report: report, decorate: decorator(recorder))
    }

    /// A socket that listens at a path.
    ///
    /// - Throws: `Failure`
    static func listener(at path: String) throws -> UNIXSocketListener {
        do throws(Errno) {
            return try UNIXSocketListener(path: path)
        } catch {
            throw Failure(message: "socket \(path): \(describe(error))")
        }
    }

    private static func describe(_ error: Errno) -> String {
        switch error {
        case .addressInUse: "somebody listens there, or it is not a socket"
        case .nameTooLong: "longer than the 107 bytes that a socket path can have"
        default: "\(error)"
        }
    }

    /// Serves those who come to a listener until `stop`, or until that cannot go on, which it logs.
    func serve(_ server: Server, at listener: UNIXSocketListener, until stop: EventCounter) {
        do throws(ServerError) {
            try server.run(listener, until: stop)
        } catch {
            logger.error("cannot serve any longer", metadata: ["cause": "\(error)"])
        }
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
