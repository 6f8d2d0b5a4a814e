import LinuxHost
import VFIOUserTransport
import VFIOUserWire

/// Requests out, their replies in, and the server's requests answered whenever there is something to wait for.
///
/// A server may ask for memory while it owes a reply, and may owe a reply until it has got the memory; so this never
/// waits for the one without serving the other. Once there is a second transport, the server asks over that one and
/// over no other.
struct Conversation: ~Copyable {
    private enum Token {
        static let main: UInt64 = 0
        static let twin: UInt64 = 1
        static let counter: UInt64 = 2
    }

    private let main: MessageStream
    /// As long as it lasts: a server that closes it has no more to ask.
    private var twin: MessageStream?
    private var hasHadTwin = false
    private let poller: Poller
    private var watched: (main: Poller.Interest, twin: Poller.Interest) = (.readable, .readable)
    private let maximumMessageSize: Int
    private var awaited: [MessageID: Command] = [:]
    private var replies: [MessageID: Reply] = [:]
    private var lastID: UInt16 = 0
    var memory = MessageMemory()
    /// The most bytes of data that a request of the server may speak of.
    var maximumTransferSize = 1 << 20
    var replyTimeout: Duration?

    init(_ transport: any Transport, maximumMessageSize: Int) throws(ClientError) {
        main = MessageStream(transport, maximumMessageSize: maximumMessageSize)
        self.maximumMessageSize = maximumMessageSize
        let poller = try systemCall { () throws(Errno) in try Poller() }
        let interest = watched.main
        try systemCall { () throws(Errno) in
            try poller.add(transport.pollDescriptor, token: Token.main, interest: interest)
        }
        self.poller = poller
    }

    /// Takes the server's requests from a second transport from now on.
    mutating func addTwin(_ transport: any Transport) throws(ClientError) {
        do throws(Errno) {
            try poller.add(transport.pollDescriptor, token: Token.twin, interest: watched.twin)
        } catch {
            throw .system(error)
        }
        twin = MessageStream(transport, maximumMessageSize: maximumMessageSize)
        hasHadTwin = true
    }

    func close() {
        main.transport.shutdown()
        twin?.transport.shutdown()
    }

    /// Sends a command, whose payload `body` appends, and returns when the socket has taken it all, which it has to within
    /// `replyTimeout`.
    mutating func send(
        _ command: Command, expectsNoReply: Bool = false, lending descriptors: [Int32] = [],
        _ body: (inout MessageWriter) -> Void
    ) throws(ClientError) -> MessageID {
        let id = nextID()
        var writer = MessageWriter(capacity: 64)
        writer.beginCommand(command, id: id, expectsNoReply: expectsNoReply)
        body(&writer)
        writer.finish()
        main.enqueue(writer.bytes, lending: descriptors)
        if !expectsNoReply { awaited[id] = command }
        try sendAll()
        return id
    }

    /// Waits for the reply to a command that was sent.
    ///
    /// - Precondition: it was, and its reply has not been taken.
    mutating func reply(to id: MessageID) throws(ClientError) -> Reply {
        let deadline = replyTimeout.map { MonotonicInstant.after($0) }
        var hasTime = true
        while true {
            if let reply = replies.removeValue(forKey: id) {
                if reply.header.isError {
                    throw .refused(reply.header.command, errorNumber: reply.header.errorNumber)
                }
                return reply
            }
            precondition(awaited[id] != nil, "waiting for a reply that nothing asked for")
            guard hasTime else { throw closeAfterTimeout() }
            hasTime = try exchange(until: deadline)
        }
    }

    /// Serves the server's requests until `counter` is signalled or the deadline passes.
    mutating func serveRequests(orUntil counter: EventCounter?, deadline: MonotonicInstant?) throws(ClientError)
        -> UInt64
    {
        var hasTime = true
        while true {
            if let signals = counter?.drain(), signals > 0 { return signals }
            guard hasTime else { return 0 }
            hasTime = try exchange(orFor: counter, until: deadline)
        }
    }

    private mutating func sendAll() throws(ClientError) {
        try sendSome()
        guard main.hasOutgoing else { return }
        let deadline = replyTimeout.map { MonotonicInstant.after($0) }
        var hasTime = true
        while main.hasOutgoing {
            guard hasTime else { throw closeAfterTimeout() }
            hasTime = try exchange(until: deadline)
        }
    }

    private func closeAfterTimeout() -> ClientError {
        close()
        return .timedOut
    }

    private mutating func sendSome() throws(ClientError) {
        do throws(Errno) {
            try main.flush()
        } catch {
            throw error.isDisconnection ? .closed : .system(error)
        }
        do throws(Errno) {
            try twin?.flush()
        } catch {
            dropTwin()
        }
    }

    /// Waits for the sockets once, and takes in what comes.
    ///
    /// - Returns: `false` when the deadline has passed, whatever came: a server may go on asking for ever.
    private mutating func exchange(
        orFor counter: EventCounter? = nil, until deadline: MonotonicInstant?
    ) throws(ClientError) -> Bool {
        do throws(Errno) {
            let events = try wait(orFor: counter, until: deadline)
            if events.isEmpty { return false }
            for event in events {
                switch event.token {
                case Token.main where !main.isFull: guard try main.receive() else { throw .brokenPipe }
                case Token.twin where twin?.isFull == false: receiveFromTwin()
                default: break
                }
            }
        } catch {
            throw error.isDisconnection ? .closed : .system(error)
        }
        repeat {
            try takeMessages()
            try sendSome()
        } while main.canGoOn || twin?.canGoOn == true
        guard let deadline else { return true }
        return MonotonicInstant.now < deadline
    }

    /// Waits until the peer has sent something, or takes something when there is something to send, or `counter` is
    /// signalled.
    private mutating func wait(
        orFor counter: EventCounter?, until deadline: MonotonicInstant?
    ) throws(Errno) -> Poller.Events {
        if main.interest != watched.main {
            watched.main = main.interest
            try poller.change(main.transport.pollDescriptor, token: Token.main, interest: watched.main)
        }
        if let twin, twin.interest != watched.twin {
            watched.twin = twin.interest
            try poller.change(twin.transport.pollDescriptor, token: Token.twin, interest: watched.twin)
        }
        guard let counter else { return try poller.wait(timeout: deadline?.remaining) }
        try poller.add(counter.rawDescriptor, token: Token.counter, interest: .readable)
        defer { poller.remove(counter.rawDescriptor) }
        return try poller.wait(timeout: deadline?.remaining)
    }

    private mutating func receiveFromTwin() {
        do throws(Errno) {
            if try twin?.receive() == false { dropTwin() }
        } catch {
            dropTwin()
        }
    }

    private mutating func dropTwin() {
        guard let twin else { return }
        poller.remove(twin.transport.pollDescriptor)
        twin.transport.shutdown()
        self.twin = nil
    }

    private mutating func takeMessages() throws(ClientError) {
        do throws(WireError) {
            while let message = try main.next() {
                switch message.header.kind {
                case .reply: try take(message)
                // It was to come over the second transport.
                case .command where hasHadTwin: throw .wrongDirection(message.header.command)
                case .command: answer(message, over: main)
                }
            }
            while let twin, let message = try twin.next() {
                guard message.header.kind == .command else { throw .wrongDirection(message.header.command) }
                answer(message, over: twin)
            }
        } catch {
            close()
            throw .malformed(error)
        }
    }

    private mutating func take(_ message: MessageStream.Incoming) throws(WireError) {
        // A reply to nothing leaves no way of telling whose the next one is.
        guard awaited.removeValue(forKey: message.header.id) == message.header.command else {
            throw .wrongDirection(message.header.command)
        }
        replies[message.header.id] = Reply(
            header: message.header, payload: message.payload, descriptors: message.descriptors)
    }

    private mutating func answer(_ message: MessageStream.Incoming, over stream: MessageStream) {
        let header = message.header
        var writer = MessageWriter(capacity: 64)
        do throws(MessageMemory.Refusal) {
            writer.beginReply(to: header)
            try carryOut(message, reply: &writer)
            writer.finish()
        } catch {
            writer.removeAll()
            writer.appendErrorReply(to: header, errorNumber: error.rawValue)
        }
        if !header.expectsNoReply { stream.enqueue(writer.bytes) }
    }

    private func carryOut(
        _ message: MessageStream.Incoming, reply writer: inout MessageWriter
    ) throws(MessageMemory.Refusal) {
        switch try request(of: message) {
        case .readClientMemory(let access):
            guard access.count <= maximumTransferSize else { throw .tooManyBytes }
            let data = try memory.read(at: access.address, count: access.count)
            access.write(to: &writer)
            writer.append(contentsOf: data)
        case .writeClientMemory(let access):
            guard access.count <= maximumTransferSize else { throw .tooManyBytes }
            try memory.write(message.payload[ClientMemoryAccess.dataOffset...], at: access.address)
            access.write(to: &writer)
        }
    }

    private func request(of message: MessageStream.Incoming) throws(MessageMemory.Refusal) -> ServerRequest {
        guard message.descriptors.count == 0 else { throw .malformed }
        do throws(WireError) {
            return try ServerRequest(parsing: message.payload.span, command: message.header.command)
        } catch .unknownCommand {
            throw .unknownRequest
        } catch .wrongDirection {
            throw .unknownRequest
        } catch {
            throw .malformed
        }
    }

    private mutating func nextID() -> MessageID {
        repeat {
            lastID &+= 1
        } while awaited[MessageID(rawValue: lastID)] != nil
            || replies[MessageID(rawValue: lastID)] != nil
        return MessageID(rawValue: lastID)
    }
}

extension Errno {
    /// Whether the peer has gone, as opposed to a failure on this side.
    fileprivate var isDisconnection: Bool { self == .brokenPipe || self == .connectionReset }
}
