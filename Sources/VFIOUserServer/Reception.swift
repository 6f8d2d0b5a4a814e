import LinuxHost

/// The door of a listening server: lets clients in, each on a thread of its own, and turns away those too many.
///
///                     room                        its thread ends
///     ┌─────────┐ ──────────────► ┌────────┐ ────────────────────► joined
///     │ arrives │                 │ served │
///     └─┬─────┬─┘   ┌─────────┐   └────▲───┘
///       │     └────►│ waiting ├────────┘
///       │   another └─────────┘ room
///       │   is leaving
///       │           ┌─────────┐ told, too late, or gone
///       └──────────►│ refused ├──────────────────────► closed
///         no room   └─────────┘
///
/// Used by one thread, which never waits for a client.
struct Reception: ~Copyable {
    private let server: Server
    private let listener: UNIXSocketListener
    private let stop: EventCounter
    private let poller: Poller
    /// Signalled by a client's thread as the last thing it does.
    private let departure: EventCounter
    /// What ends every connection.
    private let closing: EventCounter
    private var served: [ServedClient] = []
    /// Those whose place somebody else is just leaving, in the order they came.
    private var waiting: [UNIXSocket] = []
    private var refused: [UInt64: RefusedClient] = [:]
    private var lastToken = Token.firstRefused
    /// When to try again after a client could not be taken from the listener.
    private var pauseEnd: MonotonicInstant?

    /// How long the listener is left alone then: what was missing, most likely a descriptor, is not there at once.
    private static let pause = Duration.milliseconds(100)

    private enum Token {
        static let listener: UInt64 = 0
        static let stop: UInt64 = 1
        static let departure: UInt64 = 2
        static let firstRefused: UInt64 = 16
    }

    init(server: Server, listener: UNIXSocketListener, stop: EventCounter) throws(Errno) {
        let poller = try Poller()
        let (departure, closing) = (try EventCounter(), try EventCounter())
        self.server = server
        self.listener = listener
        self.stop = stop
        self.poller = poller
        self.departure = departure
        self.closing = closing
    }

    /// Lets clients in until `stop` is signalled.
    mutating func run() throws(Errno) {
        try poller.add(listener.descriptor.rawValue, token: Token.listener, interest: .readable)
        try poller.add(stop.rawDescriptor, token: Token.stop, interest: .readable)
        try poller.add(departure.rawDescriptor, token: Token.departure, interest: .readable)
        while true {
            for event in try poller.wait(timeout: nextDeadline?.remaining) {
                switch event.token {
                case Token.listener: try receiveClient()
                case Token.stop: return
                case Token.departure: departure.drain()
                default: answerRefused(event.token)
                }
            }
            fillPlaces()
            for (token, client) in refused where client.deadline.remaining == .zero { forget(token) }
            if let end = pauseEnd, end.remaining == .zero { try listen(after: nil) }
        }
    }

    private var nextDeadline: MonotonicInstant? {
        (refused.values.map(\.deadline) + [pauseEnd].compactMap(\.self)).min()
    }

    /// Ends every connection and waits for it.
    mutating func close() {
        closing.signal()
        for client in served { client.join() }
        served = []
        waiting = []
        refused = [:]
    }

    private mutating func receiveClient() throws(Errno) {
        do throws(Errno) {
            place(try listener.accept())
        } catch .wouldBlock {
            // The client has left again.
        } catch {
            server.report(.clientNotServed(.system(error)))
            try listen(after: Self.pause)
        }
    }

    /// Looks for clients, at once or after a pause.
    private mutating func listen(after pause: Duration?) throws(Errno) {
        pauseEnd = pause.map { .after($0) }
        try poller.change(
            listener.descriptor.rawValue, token: Token.listener, interest: pause == nil ? .readable : [])
    }

    private mutating func place(_ socket: UNIXSocket) {
        waiting.removeAll { $0.isHungUp }
        fillPlaces()
        let leaving = served.count { $0.isLeaving }
        if served.count + waiting.count < server.devices.maximumClients {
            admit(socket)
        } else if waiting.count < leaving {
            waiting.append(socket)
        } else {
            refuse(socket)
        }
    }

    private mutating func admit(_ socket: UNIXSocket) {
        do throws(Errno) {
            let client = ServedClient(socket)
            try client.start(server, until: closing, departure)
            served.append(client)
        } catch {
            server.report(.clientNotServed(.system(error)))
            socket.shutdown()
        }
    }

    /// Joins the threads that have ended, and lets in who waits for their places.
    private mutating func fillPlaces() {
        served.removeAll { client in
            guard client.hasEnded else { return false }
            client.join()
            return true
        }
        while served.count < server.devices.maximumClients, !waiting.isEmpty { admit(waiting.removeFirst()) }
    }

    private mutating func refuse(_ socket: UNIXSocket) {
        server.report(.clientRefused)
        guard refused.count < server.limits.refusals else { return }
        lastToken += 1
        do throws(Errno) {
            try poller.add(socket.descriptor.rawValue, token: lastToken, interest: .readable)
            refused[lastToken] = RefusedClient(socket, deadline: .after(server.limits.refusalWait))
        } catch {
            // It is closed without a word, which says as much.
        }
    }

    private mutating func answerRefused(_ token: UInt64) {
        if let client = refused[token], client.hear() { forget(token) }
    }

    private mutating func forget(_ token: UInt64) {
        guard let client = refused.removeValue(forKey: token) else { return }
        poller.remove(client.socket.descriptor.rawValue)
    }
}

/// A client that is served on a thread of its own.
private final class ServedClient: Sendable {
    private enum Phase {
        case served, leaving, ended
    }

    private let socket: UNIXSocket
    private let phase = Monitor(Phase.served)
    private let thread = Monitor<OSThread?>(nil)

    init(_ socket: UNIXSocket) { self.socket = socket }

    /// - Throws: `EAGAIN` when there is no room for another thread.
    func start(_ server: Server, until stop: EventCounter, _ departure: EventCounter) throws(Errno) {
        let (socket, phase) = (socket, phase)
        let thread = try OSThread(name: "client") {
            server.serve(socket, until: stop) { phase.withLock { $0 = .leaving } }
            phase.withLock { $0 = .ended }
            departure.signal()
        }
        self.thread.withLock { $0 = thread }
    }

    /// Whether its place will be free without its doing anything more.
    var isLeaving: Bool { phase.withLock { $0 != .served } || socket.isHungUp }

    var hasEnded: Bool { phase.withLock { $0 == .ended } }

    func join() {
        let thread = thread.withLock { $0.take() }
        thread?.join()
    }
}
