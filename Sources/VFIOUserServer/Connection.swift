import DMA
import DeviceModel
import LinuxHost
import VFIOUserNegotiation
import VFIOUserSession
import VFIOUserTransport
import VFIOUserWire

/// One client's connection: the loop that reads messages, drives the session and sends what it answers.
///
/// Everything happens on the thread that calls `run`. It waits for the socket, for the second socket if there is one, for
/// requests of the device's threads to the client, for the client's INTx controls and doorbells and for the order to stop,
/// and for nothing else.
struct Connection: ~Copyable {
    /// So many reads in a row go to the socket without a look at anything else.
    private static let maximumReadsInARow = 64
    /// While it polls busily, the connection looks at everything else after so many reads that found nothing: every few
    /// microseconds.
    private static let readsPerLook = 16

    /// How often the rest of a last reply is offered to the socket.
    private static let lastTries = 64

    private let main: Channel
    /// For requests to the client, once the two have agreed on it and as long as it lasts.
    private var twin: Channel?
    /// Whether the second socket is gone and nobody has been told.
    private var hasLostTwin = false
    private let device: any Device
    private let clientMemory: ClientMemory
    private let options: ConnectionOptions
    private var session: Session
    private var reply = SessionReply()
    private let poller: Poller
    private var watchedControls = InterruptControls()
    private var rings = PendingRings()
    private var readsInARow = 0
    private var busyUntil: MonotonicInstant

    private enum Token: UInt64 {
        case socket, twinSocket, clientMemory, stop, mask, unmask
    }

    private init(
        main: Channel, device: any Device, clientMemory: ClientMemory, session: consuming Session,
        poller: consuming Poller, options: ConnectionOptions
    ) {
        self.main = main
        self.device = device
        self.clientMemory = clientMemory
        self.session = session
        self.poller = poller
        self.options = options
        busyUntil = .now
    }

    /// A connection over `socket` with the device attached to its memory.
    static func open(
        _ socket: UNIXSocket, to device: any Device, _ options: ConnectionOptions
    ) throws(ServerError) -> Connection {
        let clientMemory = try systemCall { () throws(Errno) in try ClientMemory(limits: options.limits) }
        let poller = try systemCall { () throws(Errno) in try Poller() }
        let main = try systemCall { () throws(Errno) in
            try Channel(
                options.decorate(socket, .main), options.limits, watchedBy: poller, as: Token.socket.rawValue)
        }
        do throws(DMAError) {
            var offer = ServerOffer()
            offer.twinSocket = true
            let session = try Session(
                device: device, clientMemory: clientMemory, offer: offer, limits: options.limits)
            return Connection(
                main: main, device: device, clientMemory: clientMemory, session: session, poller: poller,
                options: options)
        } catch {
            throw .device(error)
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or `stop` is signalled. The device has let go of the
    /// client's memory when this returns.
    ///
    /// - Parameter onEnd: called when nothing more is taken from the client, before it can notice that.
    mutating func run(until stop: EventCounter, onEnd: () -> Void = {}) -> ServerEvent.Ending {
        let ending: ServerEvent.Ending
        do throws(Errno) {
            try poller.add(
                clientMemory.wake.rawDescriptor, token: Token.clientMemory.rawValue, interest: .readable)
            try poller.add(stop.rawDescriptor, token: Token.stop.rawValue, interest: .readable)
            ending = try serve()
            finishSending()
        } catch {
            ending = .failed(error)
        }
        onEnd()
        session.end()
        // The client hears of it now, whoever else keeps the sockets.
        main.transport.shutdown()
        twin?.transport.shutdown()
        return ending
    }

    /// Gives the last reply, which may say why the connection ends, a few more chances when it was interrupted. A client
    /// whose socket is full does not get it.
    private func finishSending() {
        for channel in [main, twin ?? main] {
            for _ in 0..<Self.lastTries where !channel.isFlushed { try? channel.flush() }
        }
    }

    private mutating func serve() throws(Errno) -> ServerEvent.Ending {
        while true {
            // Whether messages may be on their way that were sent before whatever has been rung.
            var mayHaveMore = !main.isFlushed
            if try readOn() {
                mayHaveMore = true
            } else if let ending = try handleEvents(&mayHaveMore) {
                return ending
            }
            if main.hasEnded { return .clientLeft }
            if mayHaveMore, rings.areExpected { try noteRings() }
            if let ending = try handleMessages() { return ending }
            if !mayHaveMore, main.isFlushed { ringDoorbells() }
            try sendRequests()
            // Not before the first socket was seen to last: a client that leaves closes both.
            if hasLostTwin { options.report(.twinSocketClosed) }
            hasLostTwin = false
            // While the client does not take what it is owed, nothing more is read from it.
            try main.watch(for: main.isFlushed ? .readable : .writable, by: poller)
            try twin?.watch(for: twin?.isFlushed == false ? [.readable, .writable] : .readable, by: poller)
        }
    }
}

/// Waiting and reading.
extension Connection {
    /// Reads from the socket without asking the poller first where that may save a call: after a read that may have left
    /// something, and while the connection polls busily.
    ///
    /// - Returns: whether anything was read.
    private mutating func readOn() throws(Errno) -> Bool {
        guard main.isFlushed, readsInARow < Self.maximumReadsInARow else { return false }
        var tries = main.mayHaveMore ? 1 : pollsBusily ? Self.readsPerLook : 0
        while tries > 0 {
            if try main.receive() {
                readsInARow += 1
                noteActivity()
                return true
            }
            tries -= 1
        }
        return false
    }

    private var pollsBusily: Bool { options.busyPoll > .zero && MonotonicInstant.now < busyUntil }

    private mutating func noteActivity() {
        if options.busyPoll > .zero { busyUntil = .after(options.busyPoll) }
    }

    /// Waits for whatever happens next, or only looks while the connection polls busily or has a ring to carry out.
    ///
    /// - Parameter mayHaveMore: set when messages were read, or could not be looked for.
    private mutating func handleEvents(_ mayHaveMore: inout Bool) throws(Errno) -> ServerEvent.Ending? {
        readsInARow = 0
        let mayRing = main.isFlushed && !rings.isEmpty
        let events = try poller.wait(timeout: pollsBusily || mayRing ? .zero : nil)
        if events.count == Poller.batch { mayHaveMore = true }
        for event in events {
            noteActivity()
            if rings.note(event, of: session.givenDoorbells) { continue }
            switch Token(rawValue: event.token) {
            case .socket:
                if event.ready.contains(.writable), !main.isFlushed { try main.flush() }
                if main.isFlushed, event.ready.contains(.readable) {
                    mayHaveMore = true
                    _ = try main.receive()
                }
            case .twinSocket: if let ending = try handleTwin(event.ready) { return ending }
            case .clientMemory: clientMemory.wake.drain()
            case .stop: return .stopped
            case .mask: if watchedControls.mask?.drain() ?? 0 > 0 { device.interrupts.mask(.intx, 0) }
            case .unmask: if watchedControls.unmask?.drain() ?? 0 > 0 { device.interrupts.unmask(.intx, 0) }
            case nil: break
            }
        }
        return nil
    }

    /// Watches the event counters by which the client masks and unmasks INTx, which it may just have changed.
    private mutating func watchControls() throws(Errno) {
        let controls = device.interrupts.controls
        try watch(controls.mask, insteadOf: watchedControls.mask, .mask)
        try watch(controls.unmask, insteadOf: watchedControls.unmask, .unmask)
        watchedControls = controls
    }

    private func watch(_ new: EventCounter?, insteadOf old: EventCounter?, _ token: Token) throws(Errno) {
        guard new !== old else { return }
        if let old { poller.remove(old.rawDescriptor) }
        if let new { try poller.add(new.rawDescriptor, token: token.rawValue, interest: .readable) }
    }
}

/// What the client asks.
extension Connection {
    /// Handles what has arrived, as long as the client takes the answers.
    private mutating func handleMessages() throws(Errno) -> ServerEvent.Ending? {
        while main.isFlushed {
            reply.removeAll()
            switch main.incoming.next() {
            case .incomplete: return nil
            case .broken(let id, let command, let error):
                session.handleBroken(id: id, command: command, error: error, reply: &reply)
                try? main.send(reply)
                return .protocolError(.malformed(error))
            case .message(let message):
                let header = message.header
                if !header.expectsNoReply { ringDoorbells() }
                let outcome = Self.handle(message, in: main.incoming.bytes, &session, &reply)
                if let refusal = session.lastRefusal { options.report(.refused(header, refusal)) }
                if case .openTwinSocket = outcome { try openTwin() }
                try main.send(reply)
                if case .close = outcome { return .protocolError(session.lastRefusal ?? .outOfOrder(header.command)) }
                if header.command == .setInterrupts { try watchControls() }
                if header.command == .getRegionIODescriptors { try rings.watch(session.givenDoorbells, with: poller) }
            }
        }
        return nil
    }

    private static func handle(
        _ message: consuming MessageReader.Message, in bytes: [UInt8], _ session: inout Session,
        _ reply: inout SessionReply
    ) -> Session.Outcome {
        let (header, payload, lost) = (message.header, message.payload, message.lostDescriptors)
        return session.handle(
            header, payload: bytes.span.extracting(payload), descriptors: message.takeDescriptors(),
            lostDescriptors: lost,
            reply: &reply)
    }
}

/// What the client has rung instead of sending messages.
extension Connection {
    /// Notes what was rung before the messages were sent that have just been read.
    private mutating func noteRings() throws(Errno) {
        var isComplete = false
        while !isComplete {
            let count = rings.count
            let events = try poller.wait(timeout: .zero)
            for event in events { _ = rings.note(event, of: session.givenDoorbells) }
            isComplete = events.count < Poller.batch || rings.count == count
        }
    }

    private mutating func ringDoorbells() {
        guard !rings.isEmpty else { return }
        for number in rings.take() { session.ring(session.givenDoorbells[number]) }
    }
}

/// What is asked of the client.
extension Connection {
    /// Sends what the device's threads ask of the client, over the second socket if there is one.
    ///
    /// A client that closes the second socket has ended that for good: it is not asked over the first.
    private mutating func sendRequests() throws(Errno) {
        let channel = twin ?? main
        do throws(Errno) {
            while channel.isFlushed {
                reply.removeAll()
                guard clientMemory.appendNextRequest(to: &reply.writer) else { return }
                try channel.send(reply)
            }
        } catch {
            if channel === main { throw error }
            closeTwin()
        }
    }

    /// Makes the second socket and puts the client's end to the reply.
    private mutating func openTwin() throws(Errno) {
        let (ours, theirs) = try UNIXSocket.pair()
        reply.descriptors.append(try theirs.descriptor.duplicate())
        twin = try Channel(
            options.decorate(ours, .twin(of: main.transport)), options.limits, watchedBy: poller,
            as: Token.twinSocket.rawValue)
    }

    /// The client can do without: transfers by messages fail from now on, and everything else goes on.
    private mutating func closeTwin() {
        guard let twin else { return }
        poller.remove(twin.transport.pollDescriptor)
        twin.transport.shutdown()
        self.twin = nil
        hasLostTwin = true
        clientMemory.disconnect()
    }

    private mutating func handleTwin(_ ready: Poller.Interest) throws(Errno) -> ServerEvent.Ending? {
        guard let twin else { return nil }
        do throws(Errno) {
            if ready.contains(.writable), !twin.isFlushed { try twin.flush() }
            if ready.contains(.readable) { _ = try twin.receive() }
        } catch {
            closeTwin()
            return nil
        }
        while true {
            reply.removeAll()
            switch twin.incoming.next() {
            case .incomplete:
                if twin.hasEnded { closeTwin() }
                return nil
            case .broken(_, _, let error): return .protocolError(.malformed(error))
            case .message(let message):
                let header = message.header
                // Nothing that comes this way has descriptors; those that come all the same are closed.
                let bytes = twin.incoming.bytes
                let payload = bytes.span.extracting(message.payload)
                let outcome = session.handleTwin(header, payload: payload, reply: &reply)
                guard case .close = outcome else { continue }
                let refusal = session.lastRefusal ?? .commandOnTwinSocket(header.command)
                options.report(.refused(header, refusal))
                if twin.isFlushed { try? twin.send(reply) }
                return .protocolError(refusal)
            }
        }
    }
}

/// Runs system calls without which there is no connection.
private func systemCall<Result: ~Copyable>(_ body: () throws(Errno) -> Result) throws(ServerError) -> Result {
    do throws(Errno) {
        return try body()
    } catch {
        throw .system(error)
    }
}

/// What a server gives to each of its connections.
struct ConnectionOptions: Sendable {
    let limits: SessionLimits
    /// How long to go on asking the sockets after something has happened before the thread sleeps.
    let busyPoll: Duration
    let report: @Sendable (ServerEvent) -> Void
    let decorate: @Sendable (UNIXSocket, TransportRole) -> any Transport
}
