import DeviceModel
import Glibc
import LinuxHost
import VFIOUserServer
import VFIOUserSession
import VFIOUserTransport

/// `Server`'s; one of the suites has the name of the protocol.
typealias Decorator = @Sendable (UNIXSocket, TransportRole) -> any VFIOUserTransport.Transport

/// A server at a path, serving a device to whoever connects, on a thread of its own.
final class TestServer {
    let path: String
    private let directory: String
    private let stop: EventCounter
    private let thread: OSThread
    private let log: EventLog

    init(_ devices: DeviceSupply, _ limits: ServerLimits, busyPoll: Duration, decorate: @escaping Decorator) throws {
        var template = Array("/tmp/outboard-conformance-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        path = directory + "/socket"
        let listener = HeldListener(try UNIXSocketListener(path: path))
        let stop = try EventCounter()
        let log = EventLog()
        self.stop = stop
        self.log = log
        thread = try OSThread(name: "server") {
            try? Server(
                devices: devices, limits: limits, busyPoll: busyPoll, report: { log.append($0) }, decorate: decorate
            ).run(listener.listener, until: stop)
        }
    }

    func connect(negotiated: Bool = true) throws -> RawPeer {
        let peer = RawPeer(try UNIXSocket.connect(toPath: path))
        if negotiated { try peer.negotiate() }
        return peer
    }

    /// Waits until `count` clients have gone, and tells how the last of them went.
    @discardableResult
    func waitForGoneClients(_ count: Int) -> ServerEvent.Ending {
        log.waitForEnding(count)
    }

    /// Waits until `count` clients have been refused.
    func waitForRefusedClients(_ count: Int) {
        log.waitForRefusals(count)
    }

    /// Waits until `count` clients could not be served.
    func waitForUnservedClients(_ count: Int) {
        log.waitForUnserved(count)
    }

    /// Waits until `count` clients have closed their second sockets and stayed.
    func waitForLostTwins(_ count: Int) {
        log.waitForLostTwins(count)
    }

    /// How many clients have done so.
    var lostTwinCount: Int { log.lostTwinCount }

    /// How many clients have been refused so far.
    var refusedClientCount: Int { log.refusalCount }

    fileprivate func end() {
        stop.signal()
        thread.join()
        unsafe rmdir(directory)
    }
}

private final class HeldListener: Sendable {
    let listener: UNIXSocketListener

    init(_ listener: consuming UNIXSocketListener) { self.listener = listener }
}

private final class EventLog: Sendable {
    /// Keeps no history, so that a long test does not look like a leak.
    private let last = Monitor<(count: Int, ending: ServerEvent.Ending?)>((0, nil))
    private let refusals = Monitor(0)
    private let unserved = Monitor(0)
    private let lostTwins = Monitor(0)

    func append(_ event: ServerEvent) {
        switch event {
        case .clientGone(let ending): last.update { $0 = ($0.count + 1, ending) }
        case .clientRefused: refusals.update { $0 += 1 }
        case .clientNotServed: unserved.update { $0 += 1 }
        case .twinSocketClosed: lostTwins.update { $0 += 1 }
        case .clientConnected, .refused: break
        }
    }

    var lostTwinCount: Int { lostTwins.withLock { $0 } }

    func waitForLostTwins(_ count: Int) {
        lostTwins.wait { $0 >= count ? () : nil }
    }

    var refusalCount: Int { refusals.withLock { $0 } }

    func waitForUnserved(_ count: Int) {
        unserved.wait { $0 >= count ? () : nil }
    }

    func waitForRefusals(_ count: Int) {
        refusals.wait { $0 >= count ? () : nil }
    }

    func waitForEnding(_ count: Int) -> ServerEvent.Ending {
        last.wait { $0.count >= count ? $0.ending : nil }
    }
}

/// Runs `body` with a server of one device that clients can connect to.
func withServer(
    of device: any Device, busyPoll: Duration = .zero, decorate: @escaping Decorator = { socket, _ in socket },
    _ body: (TestServer) throws -> Void
) throws {
    try withServer(of: .exclusive(device), busyPoll: busyPoll, decorate: decorate, body)
}

/// Runs `body` with a server that clients can connect to.
func withServer(
    of devices: DeviceSupply, limits: ServerLimits = ServerLimits(), busyPoll: Duration = .zero,
    decorate: @escaping Decorator = { socket, _ in socket }, _ body: (TestServer) throws -> Void
) throws {
    let server = try TestServer(devices, limits, busyPoll: busyPoll, decorate: decorate)
    defer { server.end() }
    try body(server)
}

/// Runs `body` with one client, connected to a server of its own over a socket pair.
///
/// With `records` the pair keeps message boundaries, so that the client sees what went out in one `sendmsg`.
func withPeer(
    of device: any Device, limits: SessionLimits = SessionLimits(), negotiated: Bool = true, records: Bool = false,
    busyPoll: Duration = .zero, decorate: @escaping Decorator = { socket, _ in socket },
    _ body: (RawPeer) throws -> Void
) throws {
    var serverLimits = ServerLimits()
    serverLimits.session = limits
    let (ours, theirs) = try socketPair(records ? SOCK_SEQPACKET : SOCK_STREAM)
    let stop = try EventCounter()
    let thread = try OSThread(name: "server") { [serverLimits] in
        Server(device: device, limits: serverLimits, busyPoll: busyPoll, decorate: decorate).serve(theirs, until: stop)
    }
    defer {
        stop.signal()
        thread.join()
    }
    let peer = RawPeer(ours)
    if negotiated { try peer.negotiate() }
    try body(peer)
}

private func socketPair(_ type: __socket_type) throws -> (UNIXSocket, UNIXSocket) {
    var ends: [Int32] = [-1, -1]
    let kind = Int32(type.rawValue | SOCK_CLOEXEC.rawValue)
    guard unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw Errno(rawValue: errno) }
    return (
        UNIXSocket(adopting: OwnedDescriptor(adopting: ends[0])),
        UNIXSocket(adopting: OwnedDescriptor(adopting: ends[1]))
    )
}
