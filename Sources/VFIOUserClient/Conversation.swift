import LinuxHost
import VFIOUserWire

/// Requests out, their replies in, and the server's requests answered whenever there is something to wait for.
///
/// A server may ask for memory while it owes a reply, and may owe a reply until it has got the memory; so this never
/// waits for the one without serving the other.
struct Conversation: ~Copyable {
    private var stream: MessageStream
    private var awaited: [MessageID: Command] = [:]
    private var replies: [MessageID: Reply] = [:]
    private var lastID: UInt16 = 0
    var memory = MessageMemory()
    /// The most bytes of data that a request of the server may speak of.
    var maximumTransferSize = 1 << 20
    var replyTimeout: Duration?

    init(_ socket: UNIXSocket, maximumMessageSize: Int) throws(ClientError) {
        do throws(Errno) {
            stream = try MessageStream(socket, maximumMessageSize: maximumMessageSize)
        } catch {
            throw .system(error)
        }
    }

    func close() { stream.close() }

    /// Sends a command, whose payload `body` appends, and returns when the socket has taken it all.
    mutating func send(
        _ command: Command, expectsNoReply: Bool = false, lending descriptors: [Int32] = [],
        _ body: (inout MessageWriter) -> Void
    ) throws(ClientError) -> MessageID {
        let id = nextID()
        var writer = MessageWriter(capacity: 64)
        writer.beginCommand(command, id: id, expectsNoReply: expectsNoReply)
        body(&writer)
        writer.finish()
        stream.enqueue(writer.bytes, lending: descriptors)
        if !expectsNoReply { awaited[id] = command }
        try sendAll()
        return id
    }

    /// Waits for the reply to a command that was sent.
    ///
    /// - Precondition: it was, and its reply has not been taken.
    mutating func reply(to id: MessageID) throws(ClientError) -> Reply {
        let deadline = replyTimeout.map { MonotonicInstant.after($0) }
        while true {
            if let reply = replies.removeValue(forKey: id) {
                if reply.header.isError {
                    throw .refused(reply.header.command, errorNumber: reply.header.errorNumber)
                }
                return reply
            }
            precondition(awaited[id] != nil, "waiting for a reply that nothing asked for")
            guard try exchange(until: deadline) else {
                close()
                throw .timedOut
            }
        }
    }

    /// Serves the server's requests until `counter` is signalled or the deadline passes.
    mutating func serveRequests(orUntil counter: EventCounter?, deadline: MonotonicInstant?) throws(ClientError)
        -> UInt64
    {
        while true {
            if let signals = counter?.drain(), signals > 0 { return signals }
            guard try exchange(orFor: counter, until: deadline) else { return 0 }
        }
    }

    private mutating func sendAll() throws(ClientError) {
        try sendSome()
        while stream.hasOutgoing { _ = try exchange(until: nil) }
    }

    private mutating func sendSome() throws(ClientError) {
        do throws(Errno) {
            try stream.send()
        } catch {
            throw error.isDisconnection ? .closed : .system(error)
        }
    }

    /// Waits for the socket once, and takes in what comes.
    ///
    /// - Returns: `false` when the deadline passed first.
    private mutating func exchange(
        orFor counter: EventCounter? = nil, until deadline: MonotonicInstant?
    ) throws(ClientError) -> Bool {
        do throws(Errno) {
            guard try stream.wait(orFor: counter, until: deadline) else { return false }
            guard try stream.receive() else { throw .brokenPipe }
        } catch {
            throw error.isDisconnection ? .closed : .system(error)
        }
        try takeMessages()
        try sendSome()
        return true
    }

    private mutating func takeMessages() throws(ClientError) {
        do throws(WireError) {
            while let message = try stream.next() {
                switch message.header.kind {
                case .reply: try take(message)
                case .command: answer(message)
                }
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

    private mutating func answer(_ message: MessageStream.Incoming) {
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
