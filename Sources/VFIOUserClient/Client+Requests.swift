public import LinuxHost
import VFIOUserNegotiation
public import VFIOUserWire

/// What a server answered to a request.
public struct Reply {
    public let header: MessageHeader
    public let payload: [UInt8]
    let descriptors: DescriptorBox

    /// Takes the first descriptor that came along and was not taken; those that nobody takes are closed.
    public func takeDescriptor() -> OwnedDescriptor? { descriptors.takeFirst() }
}

/// Requests one by one, for whoever wants several under way at once or one that has no method of its own.
extension Client {
    /// Sends a request and does not wait for its reply, which `reply(to:)` collects later.
    ///
    /// - Parameters:
    ///   - data: what follows the fixed part of the request.
    ///   - descriptors: go along, and stay the caller's.
    public func send(
        _ request: Request, data: [UInt8] = [], descriptors: [Int32] = []
    ) throws(ClientError) -> MessageID {
        guard descriptors.count <= agreement.sending.maximumMessageDescriptors else { throw .notAgreed }
        return try conversation.send(request.command, lending: descriptors) { writer in
            request.write(to: &writer)
            writer.append(contentsOf: data)
        }
    }

    /// Sends a request that wants no reply, not even if it fails.
    public func post(_ request: Request, data: [UInt8] = []) throws(ClientError) {
        _ = try conversation.send(request.command, expectsNoReply: true) { writer in
            request.write(to: &writer)
            writer.append(contentsOf: data)
        }
    }

    /// Waits for the reply to a request that was sent; replies may be collected in any order.
    ///
    /// - Precondition: the request was sent, and its reply not collected.
    public func reply(to id: MessageID) throws(ClientError) -> Reply {
        try conversation.reply(to: id)
    }

    /// Sends a request and waits for its reply.
    public func perform(
        _ request: Request, data: [UInt8] = [], descriptors: [Int32] = []
    ) throws(ClientError) -> Reply {
        try reply(to: try send(request, data: data, descriptors: descriptors))
    }

    /// Serves the server's requests until `counter` is signalled.
    ///
    /// - Returns: how often it was signalled since it was looked at last; zero when the time has passed first.
    public func wait(for counter: EventCounter, atMost time: Duration) throws(ClientError) -> UInt64 {
        try conversation.serveRequests(orUntil: counter, deadline: .after(time))
    }

    /// Serves the server's requests for a time, however many come.
    public func serveRequests(for time: Duration) throws(ClientError) {
        _ = try conversation.serveRequests(orUntil: nil, deadline: .after(time))
    }

    /// Parses a reply; one that cannot be parsed closes the connection.
    func parse<Value>(
        _ reply: Reply, _ body: (Span<UInt8>) throws(WireError) -> Value
    ) throws(ClientError) -> Value {
        do throws(WireError) {
            return try body(reply.payload.span)
        } catch {
            conversation.close()
            throw .malformed(error)
        }
    }

    func closeAfterUnexpected(_ reply: Reply) -> ClientError {
        conversation.close()
        return .unexpectedReply(reply.header.command)
    }
}

/// Runs a system call whose failure is a failure of the client's.
func systemCall<Result: ~Copyable>(_ body: () throws(Errno) -> Result) throws(ClientError) -> Result {
    do throws(Errno) {
        return try body()
    } catch {
        throw .system(error)
    }
}
