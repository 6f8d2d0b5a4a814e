public import DMA
public import DeviceModel
public import LinuxHost
public import VFIOUserSession
public import VFIOUserTransport
public import VFIOUserWire

/// Serves devices over UNIX sockets. The server half of vfio-user.
///
/// Each client has a thread of its own: it reads whole messages, drives the client's session and sends each reply with one
/// system call. Clients share nothing but the listener, what their devices share, and what a process has one of: memory,
/// descriptors, room for mappings. So one that stalls, or keeps its thread busy, holds up no other; one that hoards files
/// and mappings can leave others without, and who cannot trust clients that far gives each a server of its own. The thread
/// that calls `run` lets them in, up to the number that `DeviceSupply` allows, tells the others that there is no room, and
/// waits for the end of all. Devices do what takes long on threads of their own. A client's disconnection, however it comes
/// about, leaves its device without guest memory and interrupts, and otherwise as it was.
public struct Server: Sendable {
    /// The longest time of busy polling: a second of a core for every message is as much as anyone may want.
    public static let maximumBusyPoll = Duration.seconds(1)

    let devices: DeviceSupply
    let limits: ServerLimits
    private let options: ConnectionOptions
    var report: @Sendable (ServerEvent) -> Void { options.report }

    /// - Parameters:
    ///   - busyPoll: for how long after each message the serving thread goes on asking the socket before it sleeps. That
    ///     answers the next message sooner, by the time that waking takes, and costs all of a core meanwhile; it pays
    ///     only where server and client have a core each, and makes answers later where they have not. Everything else
    ///     is looked at every few microseconds. At most `maximumBusyPoll`; zero for never.
    ///   - report: told what happens, on the thread of the client that it happens to, so by several threads at once; must
    ///     not take long.
    ///   - decorate: puts something between a client's sockets and its session, such as what writes down or disturbs
    ///     their conversation. Called on the client's thread, for its second socket after its first.
    /// - Precondition: the number of clients is one of `ServerLimits.clientCounts`.
    public init(
        devices: DeviceSupply, limits: ServerLimits = ServerLimits(), busyPoll: Duration = .zero,
        report: @escaping @Sendable (ServerEvent) -> Void = { _ in },
        decorate: @escaping @Sendable (UNIXSocket, TransportRole) -> any Transport = { socket, _ in socket }
    ) {
        precondition(ServerLimits.clientCounts.contains(devices.maximumClients), "a server has 1 to 64 clients")
        self.devices = devices
        self.limits = limits
        options = ConnectionOptions(
            limits: limits.session, busyPoll: min(busyPoll, Self.maximumBusyPoll), report: report, decorate: decorate)
    }

    /// A server of one device, for one client at a time.
    public init(
        device: any Device, limits: ServerLimits = ServerLimits(), busyPoll: Duration = .zero,
        report: @escaping @Sendable (ServerEvent) -> Void = { _ in },
        decorate: @escaping @Sendable (UNIXSocket, TransportRole) -> any Transport = { socket, _ in socket }
    ) {
        self.init(
            devices: .exclusive(device), limits: limits, busyPoll: busyPoll, report: report, decorate: decorate)
    }

    /// Serves the clients that come to `listener` until `stop` is signalled, which ends every connection. When it returns,
    /// no thread, descriptor or memory of any client is left.
    ///
    /// A client too many is refused: it gets the error `EBUSY` for its version message and is closed. One that comes while
    /// another's connection is ending already waits for that.
    ///
    /// - Throws: when waiting itself fails; a client's failures are reported and end with the client.
    public func run(_ listener: UNIXSocketListener, until stop: EventCounter) throws(ServerError) {
        do throws(Errno) {
            var reception = try Reception(server: self, listener: listener, stop: stop)
            defer { reception.close() }
            try reception.run()
        } catch {
            throw .system(error)
        }
    }

    /// Serves one connected client on the calling thread until it leaves or `stop` is signalled.
    public func serve(_ socket: UNIXSocket, until stop: EventCounter) {
        serve(socket, until: stop) {}
    }

    /// - Parameter onEnd: called when nothing more is taken from the client, before it can notice that.
    func serve(_ socket: UNIXSocket, until stop: EventCounter, onEnd: () -> Void) {
        report(.clientConnected)
        do throws(ServerError) {
            report(.clientGone(try converse(over: socket, until: stop, onEnd: onEnd)))
        } catch {
            onEnd()
            socket.shutdown()
            report(.clientNotServed(error))
        }
    }

    /// Returns when nothing of the client's is left here: no memory, no descriptor.
    private func converse(
        over socket: UNIXSocket, until stop: EventCounter, onEnd: () -> Void
    ) throws(ServerError) -> ServerEvent.Ending {
        let device: any Device
        do throws(Errno) {
            device = try devices.device()
        } catch {
            throw .system(error)
        }
        var connection = try Connection.open(socket, to: device, options)
        return connection.run(until: stop, onEnd: onEnd)
    }
}

/// Why a client could not be served, or a server could not go on.
public enum ServerError: Error, Sendable {
    case system(Errno)
    /// The device did not take the client's address space.
    case device(DMAError)
}

/// What happens to a server, for whoever keeps a log.
public enum ServerEvent: Sendable {
    /// How a connection ended.
    public enum Ending: Sendable {
        case clientLeft
        /// Closed by us, after an error reply where one was possible.
        case protocolError(RequestRefusal)
        /// The socket failed.
        case failed(Errno)
        case stopped
    }

    case clientConnected
    /// There is no room for a client beside those that are served.
    case clientRefused
    /// A request got an error reply, or would have if it had asked for one.
    case refused(MessageHeader, RequestRefusal)
    /// A client has closed its second socket and stays: transfers by messages fail from now on.
    case twinSocketClosed
    case clientGone(Ending)
    case clientNotServed(ServerError)
}
