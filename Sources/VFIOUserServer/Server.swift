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
    private let device: any Device
    private let decorate: @Sendable (UNIXSocket) -> any Transport
    private let report: @Sendable (ServerEvent) -> Void

    /// - Parameters:
    ///   - report: told what happens, on the serving thread; must not take long.
    ///   - decorate: puts something between a client's socket and its session, such as what writes down or disturbs
    ///     their conversation.
    public init(
        device: any Device, report: @escaping @Sendable (ServerEvent) -> Void = { _ in },
        decorate: @escaping @Sendable (UNIXSocket) -> any Transport = { $0 }
    ) {
        self.device = device
        self.decorate = decorate
        self.report = report
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
        var connection = try Connection.open(decorate(socket), to: device, report: report)
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
