import LinuxHost

/// The server that is being checked: where it is, what it said of itself at first, and how to talk to it.
final class CheckedServer: Sendable {
    let path: String
    /// How long an answer may take.
    let patience: Duration
    let survey: Survey

    init(path: String, patience: Duration, survey: Survey) {
        self.path = path
        self.patience = patience
        self.survey = survey
    }

    /// A connection on which nothing has been said.
    func open() throws(Outcome) -> RawConnection {
        do throws(Errno) {
            let socket = try UNIXSocket.connect(toPath: path, atMost: patience)
            return try RawConnection(socket, patience: patience)
        } catch {
            throw .notJudged("the server takes no connection: \(error)")
        }
    }

    /// A connection with the version agreed on.
    func session(_ capabilities: String? = Payload.qemuCapabilities) throws(Outcome) -> RawConnection {
        try sessionAndReply(capabilities).connection
    }

    func sessionAndReply(
        _ capabilities: String? = Payload.qemuCapabilities
    ) throws(Outcome) -> (connection: RawConnection, reply: RawMessage) {
        let connection: RawConnection
        let reply: RawMessage?
        do throws(Outcome) {
            (connection, reply) = try greet(Payload.version(capabilities))
        } catch {
            throw .notJudged("no session begins: \(error.text)")
        }
        guard let reply, reply.error == nil else {
            let answer = reply?.description ?? "the end of the connection"
            throw .notJudged("no session begins: the version message is answered with \(answer)")
        }
        return (connection, reply)
    }

    /// Sends a version message on a new connection and returns the answer; none when the server closes instead.
    ///
    /// A server that refuses a second client may not have seen yet that the one before has left, so what it closes
    /// without a word is tried again for a while.
    func greet(_ version: [UInt8]) throws(Outcome) -> (connection: RawConnection, reply: RawMessage?) {
        let deadline = MonotonicInstant.after(min(patience, .seconds(1)))
        while true {
            let connection = try open()
            do throws(Outcome) {
                if let reply = try connection.exchange(Number.version, version) { return (connection, reply) }
            } catch {
                if !connection.hasEnded { throw error }
            }
            guard MonotonicInstant.now < deadline else { return (connection, nil) }
            pause(.milliseconds(10))
        }
    }

    /// As `greet`, where the server must accept.
    func beAccepted(_ version: [UInt8], because reason: String) throws(Outcome) -> (RawConnection, RawMessage) {
        let (connection, reply) = try greet(version)
        guard let reply, reply.error == nil else {
            throw connection.fails("success, for \(reason)", reply?.description ?? "the end of the connection")
        }
        return (connection, reply)
    }

    /// Why the server can no longer be talked to; `nil` when it can.
    func trouble() -> String? {
        do throws(Outcome) {
            _ = try session()
            return nil
        } catch {
            return error.text
        }
    }

    /// How long to watch for what must not come, or for what needs no answer to happen.
    var moment: Duration { .milliseconds(100) }
}

extension Outcome {
    /// The outcome as a part of another's sentence.
    var text: String {
        switch self {
        case .holds: "holds"
        case .fails(let finding): finding.description
        case .notApplicable(let reason), .notJudged(let reason): reason
        }
    }
}

/// What more than one item needs to know.
extension CheckedServer {
    /// The index of an interrupt with vectors, those with many first; checks that only need any vector take it.
    func anyInterrupt() throws(Outcome) -> (index: UInt32, count: Int) {
        for index in [Interrupt.msix, Interrupt.msi, Interrupt.intx] {
            if let count = survey.vectorCounts[index], count > 0 { return (index, count) }
        }
        throw .notApplicable("the device has no interrupts")
    }

    /// A byte of configuration space that holds what is written to it: the interrupt line or the cache line size, of
    /// which a device makes no use.
    func scratchByte(_ connection: RawConnection) throws(Outcome) -> (offset: UInt64, value: UInt8) {
        for offset in [0x3c, 0x0c] as [UInt64] {
            let old = UInt8(try connection.readNumber(Region.configuration, at: offset, byteCount: 1))
            let new = old ^ 0x5a
            try connection.write(Region.configuration, at: offset, [new])
            let held = try connection.readNumber(Region.configuration, at: offset, byteCount: 1) == UInt64(new)
            try connection.write(Region.configuration, at: offset, [old])
            if held { return (offset, old) }
        }
        throw .notJudged("configuration space has no byte that may be written without consequences")
    }

    /// An index that no region has.
    var absentRegion: UInt32 { UInt32(clamping: max(9, survey.regionCount) + 1000) }
}
