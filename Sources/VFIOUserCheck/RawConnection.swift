import LinuxHost

/// A client's connection that knows bytes and descriptors, and waits for nothing without end.
///
/// It reads as QEMU does: the header, and with it the descriptors, in one call, then the payload. What it was sent it
/// takes as it is: whose reply it is, whether an error reply has a payload and the like is for the one item to judge
/// that is about it, so that one fault of a server fails one item. Used by one thread.
final class RawConnection {
    private let socket: UNIXSocket
    private let poller: Poller
    let patience: Duration
    private var lastID: UInt16 = 0x0fff
    /// Commands that wanted no reply, by their IDs; one that comes all the same is not taken for another's.
    private var posted: [UInt16: UInt16] = [:]
    /// Requests of the server that came while a reply was waited for.
    var requests: [RawMessage] = []
    /// The last thing that was sent, for a report.
    private(set) var lastSent = "nothing"
    /// Whether the server is known to have closed.
    private(set) var hasEnded = false

    /// No message that a check asks for is longer.
    private static let maximumMessageSize = 8 << 20
    /// No transfers that a connection's checks start take as many, or as many bytes; a server that never stops asking is
    /// not listened to for ever.
    private static let maximumRequests = 10_000
    private static let maximumRequestByteCount = 64 << 20
    /// Of the payloads of all requests that were kept.
    private var requestByteCount = 0

    init(_ socket: UNIXSocket, patience: Duration) throws(Errno) {
        self.socket = socket
        self.patience = patience
        poller = try Poller()
        try poller.add(socket.descriptor.rawValue, token: 0, interest: .readable)
    }

    deinit { leave() }

    /// Leaves at once, whatever is unread.
    func close() {
        socket.shutdown()
        hasEnded = true
    }

    /// Leaves, and waits for the server to have seen it: one that serves a single client may refuse the next until then.
    private func leave() {
        guard !hasEnded else { return }
        endSending(socket)
        let deadline = MonotonicInstant.after(min(patience, .milliseconds(500)))
        while let part = try? receivePart(atMost: 65536, until: deadline), !part.bytes.isEmpty,
            MonotonicInstant.now < deadline
        {}
        socket.shutdown()
    }

    func newID() -> UInt16 {
        lastID &+= 1
        return lastID
    }

    /// Says what is sent next, for a report.
    func note(_ what: String) { lastSent = what }

    func fails(_ expected: String, _ received: String) -> Outcome {
        .fails(Finding(sent: lastSent, expected: expected, received: received))
    }

    /// Sends all bytes, the descriptors with the first of them. The caller keeps its descriptors.
    func send(_ bytes: [UInt8], _ descriptors: [Int32] = []) throws(Outcome) {
        guard try sendSome(bytes, descriptors) == bytes.count else {
            throw fails("the server to read", "a full socket for \(patience.text)")
        }
    }

    /// Sends as much as the server takes without its answers being read.
    ///
    /// - Returns: how many bytes; fewer than all when the server has stopped reading for as long as `patience`, or for
    ///   the given time.
    func sendSome(_ bytes: [UInt8], _ descriptors: [Int32] = [], patience: Duration? = nil) throws(Outcome) -> Int {
        var sent = 0
        let deadline = MonotonicInstant.after(patience ?? self.patience)
        while sent < bytes.count {
            do throws(Errno) {
                sent += try transmit(bytes[sent...], sent == 0 ? descriptors : [])
            } catch .wouldBlock {
                guard try waitForRoom(until: deadline) else { return sent }
            } catch {
                hasEnded = true
                throw fails("an open connection", "\(error) while sending")
            }
        }
        return sent
    }

    private func transmit(_ bytes: ArraySlice<UInt8>, _ descriptors: [Int32]) throws(Errno) -> Int {
        // Lent for the call: the bundle has to give them up before it goes.
        var bundle = DescriptorBundle(adopting: descriptors)
        defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
        var result: Result<Int, Errno> = .success(0)
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                result = .success(unsafe try socket.send(buffer, descriptors: bundle, waiting: false))
            } catch {
                result = .failure(error)
            }
        }
        return try result.get()
    }

    private func waitForRoom(until deadline: MonotonicInstant) throws(Outcome) -> Bool {
        do throws(Errno) {
            try poller.change(socket.descriptor.rawValue, token: 0, interest: .writable)
            let isReady = try !poller.wait(timeout: deadline.remaining).isEmpty
            try poller.change(socket.descriptor.rawValue, token: 0, interest: .readable)
            return isReady
        } catch {
            throw .notJudged("this machine: \(error)")
        }
    }

    /// What one call reads; `nil` when nothing came in time, empty when the server has closed.
    func receivePart(
        atMost count: Int, until deadline: MonotonicInstant
    ) throws(Outcome) -> (bytes: [UInt8], descriptors: [HeldDescriptor])? {
        while true {
            do throws(Errno) {
                guard try !poller.wait(timeout: deadline.remaining).isEmpty else { return nil }
                return try receiveNow(atMost: count)
            } catch .wouldBlock {
                continue
            } catch .connectionReset {
                // The server closed with bytes of ours unread.
                return ([], [])
            } catch {
                throw .notJudged("this machine: \(error)")
            }
        }
    }

    private func receiveNow(atMost count: Int) throws(Errno) -> (bytes: [UInt8], descriptors: [HeldDescriptor]) {
        var bytes = [UInt8](repeating: 0, count: count)
        var result: Result<Int, Errno> = .success(0)
        var held: [HeldDescriptor] = []
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                var part = unsafe try socket.receive(into: buffer, waiting: false)
                result = .success(part.count)
                while let descriptor = part.descriptors.takeFirst() { held.append(HeldDescriptor(descriptor)) }
            } catch {
                result = .failure(error)
            }
        }
        return (Array(bytes.prefix(try result.get())), held)
    }

    /// The next message, whatever it is; `nil` when the server has closed.
    func receive(expecting what: String = "an answer") throws(Outcome) -> RawMessage? {
        try receive(expecting: what, until: .after(patience))
    }

    private func receive(expecting what: String, until deadline: MonotonicInstant) throws(Outcome) -> RawMessage? {
        guard let first = try receivePart(atMost: 16, until: deadline) else {
            throw fails(what, "nothing within \(patience.text)")
        }
        guard !first.bytes.isEmpty else {
            hasEnded = true
            return nil
        }
        var strays = 0
        let header = try fill(first.bytes, to: 16, &strays, deadline)
        let size = Int(header.u32(at: 4))
        guard (16...Self.maximumMessageSize).contains(size) else {
            throw fails("a message", "a header that says \(size) bytes: \(header.hexadecimal())")
        }
        let payload = try fill([], to: size - 16, &strays, deadline)
        return RawMessage(
            header: header, payload: payload, descriptors: first.descriptors, strayDescriptors: strays,
            firstPiece: first.bytes.count)
    }

    private func fill(
        _ start: [UInt8], to count: Int, _ strays: inout Int, _ deadline: MonotonicInstant
    ) throws(Outcome) -> [UInt8] {
        var bytes = start
        while bytes.count < count {
            guard let part = try receivePart(atMost: count - bytes.count, until: deadline) else {
                throw fails("the rest of a message", "\(bytes.count) of \(count) bytes of it")
            }
            guard !part.bytes.isEmpty else { throw fails("the rest of a message", "the end of the connection") }
            bytes += part.bytes
            strays += part.descriptors.count
        }
        return bytes
    }

    /// Whether nothing at all comes for a while.
    func isSilent(for time: Duration) throws(Outcome) -> Bool {
        guard requests.isEmpty else { return false }
        return try receivePart(atMost: 1, until: .after(time)) == nil
    }

    /// Sends a command that wants no reply.
    func post(_ command: UInt16, _ payload: [UInt8] = []) throws(Outcome) {
        let id = newID()
        posted[id] = command
        lastSent = "\(Number.name(command)) with No_reply, payload \(payload.hexadecimal())"
        try send(message(command, id: id, flags: HeaderFlags.noReply, payload))
    }

    /// Waits for a reply, and keeps requests of the server for later; `nil` when the server has closed.
    func receiveReply() throws(Outcome) -> RawMessage? {
        let deadline = MonotonicInstant.after(patience)
        while true {
            guard let next = try receive(expecting: "an answer", until: deadline) else { return nil }
            if next.isReply, posted[next.id] != next.command { return next }
            if !next.isReply {
                requestByteCount += next.payload.count
                guard requests.count < Self.maximumRequests, requestByteCount <= Self.maximumRequestByteCount else {
                    throw fails("a reply", "\(requests.count) requests for memory before it")
                }
                requests.append(next)
            }
            guard MonotonicInstant.now < deadline else {
                throw fails("an answer", "other messages for \(patience.text)")
            }
        }
    }
}

extension Duration {
    /// In seconds, as a report says it.
    var text: String {
        let milliseconds = components.seconds * 1000 + components.attoseconds / 1_000_000_000_000_000
        return milliseconds % 1000 == 0 ? "\(milliseconds / 1000) s" : "\(milliseconds) ms"
    }
}
