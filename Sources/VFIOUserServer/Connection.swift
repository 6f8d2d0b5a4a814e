import DMA
import DeviceModel
import LinuxHost
import VFIOUserSession
import VFIOUserTransport
import VFIOUserWire

/// One client's connection: the loop that reads messages, drives the session and sends what it answers.
///
/// Everything happens on the thread that calls `run`. It waits for the socket, for requests of the device's threads to
/// the client, for the client's INTx controls and doorbells and for the order to stop, and for nothing else.
struct Connection: ~Copyable {
    private let transport: any Transport
    private let device: any Device
    private let clientMemory: ClientMemory
    private let report: @Sendable (ServerEvent) -> Void
    private var session: Session
    private var incoming: MessageReader
    private var outgoing = MessageSender()
    private var reply = SessionReply()
    private let poller: Poller
    private var watchedControls = InterruptControls()
    private var rings = PendingRings()
    private var watchedInterest: Poller.Interest = .readable

    private enum Token: UInt64 {
        case socket, clientMemory, stop, mask, unmask
    }

    private init(
        transport: any Transport, device: any Device, clientMemory: ClientMemory, session: consuming Session,
        poller: consuming Poller, limits: SessionLimits, report: @escaping @Sendable (ServerEvent) -> Void
    ) {
        incoming = MessageReader(
            maximumMessageSize: limits.messageSize, maximumPendingDescriptors: limits.pendingDescriptors)
        self.transport = transport
        self.device = device
        self.clientMemory = clientMemory
        self.session = session
        self.poller = poller
        self.report = report
    }

    /// A connection over `transport` with the device attached to its memory.
    static func open(
        _ transport: any Transport, to device: any Device, limits: SessionLimits,
        report: @escaping @Sendable (ServerEvent) -> Void
    ) throws(ServerError) -> Connection {
        let clientMemory: ClientMemory
        let poller: Poller
        do throws(Errno) {
            clientMemory = try ClientMemory(limits: limits)
            poller = try Poller()
        } catch {
            throw .system(error)
        }
        do throws(DMAError) {
            let session = try Session(device: device, clientMemory: clientMemory, limits: limits)
            return Connection(
                transport: transport, device: device, clientMemory: clientMemory, session: session, poller: poller,
                limits: limits, report: report)
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
            try poller.add(transport.pollDescriptor, token: Token.socket.rawValue, interest: .readable)
            try poller.add(
                clientMemory.wake.rawDescriptor, token: Token.clientMemory.rawValue, interest: .readable)
            try poller.add(stop.rawDescriptor, token: Token.stop.rawValue, interest: .readable)
            ending = try serve()
        } catch {
            ending = .failed(error)
        }
        onEnd()
        session.end()
        // The client hears of it now, whoever else keeps the socket.
        transport.shutdown()
        return ending
    }

    private mutating func serve() throws(Errno) -> ServerEvent.Ending {
        while true {
            let looksForMessages = watchedInterest == .readable
            let events = try poller.wait(timeout: looksForMessages && !rings.isEmpty ? .zero : nil)
            // Whether messages may have been sent before the rings of which this wait tells that have not been read.
            var mayHaveMore = !looksForMessages || events.count == Poller.batch
            for event in events {
                if rings.note(event, of: session.givenDoorbells) { continue }
                switch Token(rawValue: event.token) {
                case .socket:
                    if event.ready.contains(.writable), !outgoing.isEmpty { try outgoing.flush(to: transport) }
                    if outgoing.isEmpty, event.ready.contains(.readable) {
                        guard try incoming.receive(from: transport) else { return .clientLeft }
                        mayHaveMore = true
                    }
                case .clientMemory: clientMemory.wake.drain()
                case .stop: return .stopped
                case .mask: if watchedControls.mask?.drain() ?? 0 > 0 { device.interrupts.mask(.intx, 0) }
                case .unmask: if watchedControls.unmask?.drain() ?? 0 > 0 { device.interrupts.unmask(.intx, 0) }
                case nil: break
                }
            }
            if mayHaveMore, rings.areExpected { try noteRings() }
            if let ending = try handleMessages() { return ending }
            if !mayHaveMore, outgoing.isEmpty { ringDoorbells() }
            try sendRequests()
            try watchSocket(for: outgoing.isEmpty ? .readable : .writable)
        }
    }

    /// Handles what has arrived, as long as the client takes the answers.
    private mutating func handleMessages() throws(Errno) -> ServerEvent.Ending? {
        while outgoing.isEmpty {
            reply.removeAll()
            switch incoming.next() {
            case .incomplete: return nil
            case .broken(let id, let command, let error):
                session.handleBroken(id: id, command: command, error: error, reply: &reply)
                try? outgoing.send(reply.writer.bytes, reply.descriptors, to: transport)
                return .protocolError(.malformed(error))
            case .message(let message):
                let header = message.header
                if !header.expectsNoReply { ringDoorbells() }
                let outcome = Self.handle(message, in: incoming.bytes, &session, &reply)
                if let refusal = session.lastRefusal { report(.refused(header, refusal)) }
                try outgoing.send(reply.writer.bytes, reply.descriptors, to: transport)
                if case .close = outcome { return .protocolError(session.lastRefusal ?? .outOfOrder(header.command)) }
                if header.command == .setInterrupts { try watchControls() }
                if header.command == .getRegionIODescriptors { try rings.watch(session.givenDoorbells, with: poller) }
            }
        }
        return nil
    }

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

    /// Sends what the device's threads ask of the client.
    private mutating func sendRequests() throws(Errno) {
        while outgoing.isEmpty {
            reply.removeAll()
            guard clientMemory.appendNextRequest(to: &reply.writer) else { return }
            try outgoing.send(reply.writer.bytes, reply.descriptors, to: transport)
        }
    }

    /// While the client does not take what it is owed, nothing more is read from it.
    private mutating func watchSocket(for interest: Poller.Interest) throws(Errno) {
        guard interest != watchedInterest else { return }
        try poller.change(transport.pollDescriptor, token: Token.socket.rawValue, interest: interest)
        watchedInterest = interest
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
