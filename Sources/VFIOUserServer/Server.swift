public import DMA
public import DeviceModel
public import LinuxHost
public import VFIOUserSession
public import VFIOUserTransport
public import VFIOUserWire

/// Serves a device over a UNIX socket to one client after another. The server half of vfio-user.
///
/// One thread, the caller's, owns the socket and each connection: it waits for clients, reads whole messages, drives the
/// session and sends each reply with one system call. A client that comes while another is served waits in the
/// listener's queue. Devices do what takes long on threads of their own. A client's disconnection, however it comes
/// about, leaves the device without guest memory and interrupts, and otherwise as it was.
public struct Server: Sendable {
    /// The longest time of busy polling: a second of a core for every message is as much as anyone may want.
    public static let maximumBusyPoll = Duration.seconds(1)

    private let device: any Device
    private let options: ConnectionOptions
    private var report: @Sendable (ServerEvent) -> Void { options.report }

    /// - Parameters:
    ///   - busyPoll: for how long after each message the serving thread goes on asking the socket before it sleeps. That
    ///     answers the next message sooner, by the time that waking takes, and costs all of a core meanwhile; it pays
    ///     only where server and client have a core each, and makes answers later where they have not. Everything else
    ///     is looked at every few microseconds. At most `maximumBusyPoll`; zero for never.
    ///   - report: told what happens, on the serving thread; must not take long.
    ///   - decorate: puts something between a client's sockets and its session, such as what writes down or disturbs
    ///     their conversation. Called on the serving thread, for a client's second socket after its first.
    public init(
        device: any Device, busyPoll: Duration = .zero, report: @escaping @Sendable (ServerEvent) -> Void = { _ in },
        decorate: @escaping @Sendable (UNIXSocket, TransportRole) -> any Transport = { socket, _ in socket }
    ) {
        self.device = device
        options = ConnectionOptions(busyPoll: min(busyPoll, Self.maximumBusyPoll), report: report, decorate: decorate)
    }

    /// Serves the clients that come to `listener` until `stop` is signalled.
    ///
    /// - Throws: when waiting itself fails; a client's failures are reported and end with the client.
    public func run(_ listener: UNIXSocketListener, until stop: EventCounter) throws(ServerError) {
        do throws(Errno) {
            let poller = try Poller()
            try poller.add(listener.descriptor.rawValue, token: 0, interest: .readable)
            try poller.add(stop.rawDescriptor, token: 1, interest: .readable)
            while true {
                for event in try poller.wait() {
                    if event.token == 1 { return }
                    do throws(Errno) {
                        serve(try listener.accept(), until: stop)
                    } catch .wouldBlock {
                        // The client has left again.
                    } catch {
                        report(.clientNotServed(.system(error)))
                        // Perhaps there was no descriptor left for it: trying again at once would only be busy.
                        if try waits(for: stop, atMost: .milliseconds(100)) { return }
                    }
                }
            }
        } catch {
            throw .system(error)
        }
    }

    /// Serves one connected client until it leaves or `stop` is signalled.
    public func serve(_ socket: UNIXSocket, until stop: EventCounter) {
        report(.clientConnected)
        do throws(ServerError) {
            report(.clientGone(try converse(over: socket, until: stop)))
        } catch {
            report(.clientNotServed(error))
        }
    }

    /// Returns when nothing of the client's is left here: no memory, no descriptor.
    private func converse(over socket: UNIXSocket, until stop: EventCounter) throws(ServerError) -> ServerEvent.Ending {
        var connection = try Connection.open(socket, to: device, options)
        return connection.run(until: stop)
    }

    /// Whether `stop` was signalled before the time had passed.
    private func waits(for stop: EventCounter, atMost time: Duration) throws(Errno) -> Bool {
        let poller = try Poller()
        try poller.add(stop.rawDescriptor, token: 0, interest: .readable)
        return try !poller.wait(timeout: time).isEmpty
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
    /// A request got an error reply, or would have if it had asked for one.
    case refused(MessageHeader, RequestRefusal)
    case clientGone(Ending)
    case clientNotServed(ServerError)
}
