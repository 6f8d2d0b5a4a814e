import LinuxHost
import VFIOUserWire

/// One conversation being played.
struct ReplayRun: ~Copyable {
    /// A command whose reply is due.
    private struct Outstanding {
        let bytes: [UInt8]
        let id: MessageID
        let command: Command
        /// Among the script's; `nil` where the recording has none.
        let reply: Int?
        /// When a register that differs is no longer read again.
        var settledBy: MonotonicInstant?
    }

    fileprivate enum End: Error {
        case closed
        case failed(Errno)
    }

    private enum Token {
        static let main: UInt64 = 0
        static let twin: UInt64 = 1
    }

    /// How long to leave the device alone before its register is read again.
    private static let pause = Duration.milliseconds(2)
    private static let maximumMissedRequests = 3
    private static let maximumUnsettled = 8
    /// The longest pause that is kept: a time in a damaged file may be centuries away.
    private static let maximumPause = Duration.seconds(600)

    private let script: ReplayScript
    private let options: Replay.Options
    private let poller: Poller
    private var main: ReplaySocket
    private var twin: TwinBox?
    private var memory = ReplayMemory()
    private var unstored: [RecordedMemory] = []
    private var outstanding: [Outstanding] = []
    /// Reads to be repeated, and when.
    private var again: [(at: MonotonicInstant, Outstanding)] = []
    private var hasReply: [Bool]
    private var hasRequest: [Bool]
    private var firstOpenRequest = 0
    private var unasked: [ReplayScript.Reply]
    private var missedRequests = 0
    /// Registers that never had the recorded value.
    private var unsettled = 0
    private var interest: Poller.Interest = .readable
    /// How far the recording has been played.
    private var time: UInt64 = 0

    private final class TwinBox {
        var socket: ReplaySocket
        var interest: Poller.Interest? = .readable

        init(_ socket: UNIXSocket) { self.socket = ReplaySocket(socket) }
    }

    init(_ script: ReplayScript, _ socket: UNIXSocket, _ options: Replay.Options) throws(Errno) {
        let poller = try Poller()
        try poller.add(socket.descriptor.rawValue, token: Token.main, interest: .readable)
        self.poller = poller
        self.script = script
        self.options = options
        main = ReplaySocket(socket)
        unasked = script.unasked
        hasReply = Array(repeating: false, count: script.replies.count)
        hasRequest = Array(repeating: false, count: script.requests.count)
    }

    mutating func play(_ replay: inout Replay) {
        do throws(End) {
            let start = MonotonicInstant.now.nanoseconds
            var first: UInt64?
            for step in script.steps {
                switch step {
                case .store(let memory): unstored.append(memory)
                case .send(let command):
                    time = command.time
                    try keepPace(start, &first, time, &replay)
                    try store()
                    try send(command, &replay)
                case .sendFragment(let fragment, let at):
                    time = at
                    try keepPace(start, &first, time, &replay)
                    try store()
                    try sendWhole(fragment, &replay)
                case .awaitReply(let number):
                    time = script.replies[number].time
                    try awaitReply(number, &replay)
                case .awaitRequest(let number):
                    time = script.requests[number].time
                    try awaitRequest(number, &replay)
                }
            }
            if try !wait(until: .after(options.patience), &replay, { $0.unasked.isEmpty }) {
                for reply in unasked { replay.differ(at: reply.time, "never came: \(Self.name(reply.message))") }
            }
        } catch {
            switch error {
            case .closed: replay.differ(at: time, "the server closed the connection; the recording goes on")
            case .failed(let error): replay.differ(at: time, "the replay cannot go on: \(error)")
            }
        }
        main.socket.shutdown()
    }

    private mutating func awaitReply(_ number: Int, _ replay: inout Replay) throws(End) {
        let isThere = { (run: borrowing ReplayRun) in run.hasReply[number] }
        if try wait(until: .after(options.patience), &replay, isThere) { return }
        // A register that is asked again has its own time, in which there is a reply to each question.
        if isSettling(number), try wait(until: .after(options.settling + options.patience), &replay, isThere) { return }
        let recorded = script.replies[number]
        replay.differ(at: recorded.time, "no reply within \(options.patience): \(Self.name(recorded.message))")
        // Whatever comes now belongs to something else.
        throw .failed(.timedOut)
    }

    private func isSettling(_ number: Int) -> Bool {
        again.contains { $0.1.reply == number } || outstanding.contains { $0.reply == number && $0.settledBy != nil }
    }

    private mutating func awaitRequest(_ number: Int, _ replay: inout Replay) throws(End) {
        // A device that does other work than it did is not waited for again and again.
        let patience = missedRequests < Self.maximumMissedRequests ? options.patience : .zero
        if try wait(until: .after(patience), &replay, { $0.hasRequest[number] }) { return }
        missedRequests += 1
        let recorded = script.requests[number]
        hasRequest[number] = true
        replay.differ(
            at: recorded.time, "the server did not ask within \(options.patience): \(Self.name(recorded.message))")
    }

    /// Brings memory to where it was when the next message went out, and no sooner: the device may still be reading it.
    private mutating func store() throws(End) {
        let memories = unstored
        unstored = []
        try act { (run) throws(Errno) in
            for memory in memories { try run.memory.store(memory) }
        }
    }

    /// With the recording's pace, waits for the time of a message, serving the server meanwhile.
    private mutating func keepPace(
        _ start: Int64, _ first: inout UInt64?, _ time: UInt64, _ replay: inout Replay
    ) throws(End) {
        guard options.keepsPace else { return }
        let begin = first ?? time
        first = begin
        let elapsed = MonotonicInstant.now.nanoseconds - start
        let rest = Int64(clamping: time > begin ? time - begin : 0).subtractingReportingOverflow(elapsed)
        guard !rest.overflow, rest.partialValue > 0 else { return }
        _ = try wait(until: .after(min(.nanoseconds(rest.partialValue), Self.maximumPause)), &replay) { _ in false }
    }

    private mutating func send(_ command: ReplayScript.Command, _ replay: inout Replay) throws(End) {
        if !command.expectsNoReply, let header = try? MessageHeader(parsing: command.message.bytes.span) {
            outstanding.append(
                Outstanding(
                    bytes: command.message.bytes, id: header.id, command: header.command, reply: command.reply))
        }
        try sendWhole(command.message, &replay)
        replay.countSent()
    }

    /// Sends a message with its descriptors and returns when the socket has it.
    private mutating func sendWhole(_ message: RecordedMessage, _ replay: inout Replay) throws(End) {
        let deadline = MonotonicInstant.after(options.patience)
        while true {
            guard try wait(until: deadline, &replay, { !$0.main.hasOutgoing }) else { throw .failed(.timedOut) }
            var isSent = false
            try act { (run) throws(Errno) in
                let descriptors = try run.memory.descriptors(message.descriptors)
                isSent = try run.main.send(message.bytes, descriptors)
            }
            if isSent { break }
            _ = try wait(until: .after(Self.pause), &replay) { _ in false }
            if MonotonicInstant.now >= deadline { throw .failed(.timedOut) }
        }
        guard try wait(until: deadline, &replay, { !$0.main.hasOutgoing }) else { throw .failed(.timedOut) }
    }

    private mutating func act(_ body: (inout ReplayRun) throws(Errno) -> Void) throws(End) {
        do throws(Errno) {
            try body(&self)
        } catch {
            throw error == .brokenPipe || error == .connectionReset ? .closed : .failed(error)
        }
    }
}

/// Waiting, and what comes meanwhile.
extension ReplayRun {
    /// Serves the server until `isDone`, or until the deadline has passed.
    fileprivate mutating func wait(
        until deadline: MonotonicInstant, _ replay: inout Replay, _ isDone: (borrowing ReplayRun) -> Bool
    ) throws(End) -> Bool {
        while true {
            try takeMessages(&replay)
            if isDone(self) { return true }
            let now = MonotonicInstant.now
            if now >= deadline { return false }
            while let first = again.first, first.at <= now {
                again.removeFirst()
                outstanding.append(first.1)
                try act { (run) throws(Errno) in _ = try run.main.send(first.1.bytes) }
            }
            let next = again.first.map { min($0.at, deadline) } ?? deadline
            try waitForSockets(next)
        }
    }

    private mutating func waitForSockets(_ deadline: MonotonicInstant) throws(End) {
        var isOpen = true
        try act { (run) throws(Errno) in
            let wanted: Poller.Interest = run.main.hasOutgoing ? [.readable, .writable] : .readable
            if wanted != run.interest {
                try run.poller.change(run.main.socket.descriptor.rawValue, token: Token.main, interest: wanted)
                run.interest = wanted
            }
            try run.watchTwin()
            for event in try run.poller.wait(timeout: deadline.remaining) {
                if event.token == Token.twin {
                    // The twin's end is the main socket's to tell.
                    guard let twin = run.twin else { continue }
                    if event.ready.contains(.readable), try !twin.socket.receive() {
                        run.poller.remove(twin.socket.socket.descriptor.rawValue)
                        twin.interest = nil
                    }
                    try twin.socket.flush()
                } else {
                    if event.ready.contains(.writable) { try run.main.flush() }
                    if event.ready.contains(.readable) { isOpen = try run.main.receive() && isOpen }
                }
            }
        }
        if !isOpen {
            // What came before the end counts.
            throw .closed
        }
    }

    /// Watches the second socket, as long as it is open, for room too when an answer waits for it.
    private func watchTwin() throws(Errno) {
        guard let twin, let interest = twin.interest else { return }
        let wanted: Poller.Interest = twin.socket.hasOutgoing ? [.readable, .writable] : .readable
        guard wanted != interest else { return }
        try poller.change(twin.socket.socket.descriptor.rawValue, token: Token.twin, interest: wanted)
        twin.interest = wanted
    }

    private mutating func takeMessages(_ replay: inout Replay) throws(End) {
        while let message = main.next() { try take(message, .main, &replay) }
        while let message = twin?.socket.next() { try take(message, .twin, &replay) }
    }

    private mutating func take(
        _ message: RecordedMessage, _ socket: RecordedSocket, _ replay: inout Replay
    ) throws(End) {
        guard let header = try? MessageHeader(parsing: message.bytes.span) else { return }
        switch header.kind {
        case .reply: try takeReply(message, header, &replay)
        case .command: try takeRequest(message, header, socket, &replay)
        }
    }

    private mutating func takeReply(
        _ message: RecordedMessage, _ header: MessageHeader, _ replay: inout Replay
    ) throws(End) {
        guard let place = outstanding.firstIndex(where: { $0.id == header.id && $0.command == header.command }) else {
            if let place = unasked.firstIndex(where: { $0.message.bytes == message.bytes }) {
                unasked.remove(at: place)
                return replay.countMatched()
            }
            return replay.differ(at: time, "a reply to nothing: \(Self.name(message))")
        }
        var waiting = outstanding.remove(at: place)
        if place != 0 { replay.differ(at: time, "a reply out of order: \(Self.name(message))") }
        guard let number = waiting.reply else { return replay.allow(.unrecorded) }
        let recorded = script.replies[number]
        if message.bytes == recorded.message.bytes {
            if waiting.settledBy != nil { replay.allow(.settled) }
        } else if let access = RegionAccess(readIn: message.bytes),
            access == RegionAccess(readIn: recorded.message.bytes)
        {
            let data = message.bytes.dropFirst(MessageHeader.byteCount + RegionAccess.dataOffset)
            if script.isLaterValue(data, of: access, after: number, untouched: true) {
                replay.allow(.ahead)
            } else {
                // Where nothing settles, waiting for it over and over tells nothing new.
                let limit = waiting.settledBy ?? .after(unsettled < Self.maximumUnsettled ? options.settling : .zero)
                if MonotonicInstant.now < limit {
                    waiting.settledBy = limit
                    again.append((.after(Self.pause), waiting))
                    return
                }
                // It was not behind, so it may be ahead although the driver did something before it looked again.
                if script.isLaterValue(data, of: access, after: number, untouched: false) {
                    replay.allow(.ahead)
                } else {
                    unsettled += 1
                    replay.differ(at: recorded.time, Self.contrast(message, recorded.message))
                }
            }
        } else {
            replay.differ(at: recorded.time, Self.contrast(message, recorded.message))
        }
        if message.descriptors.map(\.shape) != recorded.message.descriptors.map(\.shape) {
            replay.differ(at: recorded.time, "other descriptors came with \(Self.name(recorded.message))")
        }
        hasReply[number] = true
        replay.countMatched()
        if header.command == .version, let socket = main.takePassedSocket() { try add(twin: socket) }
    }

    private mutating func add(twin socket: UNIXSocket) throws(End) {
        try act { (run) throws(Errno) in
            try run.poller.add(socket.descriptor.rawValue, token: Token.twin, interest: .readable)
        }
        twin = TwinBox(socket)
    }

    private mutating func takeRequest(
        _ message: RecordedMessage, _ header: MessageHeader, _ socket: RecordedSocket, _ replay: inout Replay
    ) throws(End) {
        guard let number = recordedRequest(for: message, header) else {
            replay.differ(at: time, "the server asks what it did not ask then: \(Self.name(message))")
            var writer = MessageWriter(capacity: 32)
            writer.appendErrorReply(to: header, errorNumber: Errno.badAddress.rawValue)
            return try answer(writer.bytes, on: socket)
        }
        let recorded = script.requests[number]
        hasRequest[number] = true
        if number != firstOpenRequest { replay.allow(.requestOrder) }
        while firstOpenRequest < hasRequest.count, hasRequest[firstOpenRequest] { firstOpenRequest += 1 }
        if message.bytes.dropFirst(2) != recorded.message.bytes.dropFirst(2) {
            replay.differ(at: recorded.time, Self.contrast(message, recorded.message))
        } else if message.bytes != recorded.message.bytes {
            replay.allow(.requestNumber)
        }
        replay.countMatched()
        guard var bytes = recorded.answer?.bytes else { return }
        // The reply bears the number that the server chose this time.
        bytes.replaceSubrange(0..<2, with: message.bytes[0..<2])
        try answer(bytes, on: socket)
    }

    private mutating func answer(_ bytes: [UInt8], on socket: RecordedSocket) throws(End) {
        try act { (run) throws(Errno) in
            if socket == .twin, let twin = run.twin {
                _ = try twin.socket.send(bytes)
            } else {
                _ = try run.main.send(bytes)
            }
        }
    }

    /// The first request of the recording that has not come yet and is this one: the same in every byte but the number,
    /// or else the same but for the bytes that it writes.
    private func recordedRequest(for message: RecordedMessage, _ header: MessageHeader) -> Int? {
        var similar: Int?
        let fixed = 2..<MessageHeader.byteCount + ClientMemoryAccess.dataOffset
        for number in firstOpenRequest..<script.requests.count where !hasRequest[number] {
            let recorded = script.requests[number].message.bytes
            guard recorded.count == message.bytes.count, recorded.count >= fixed.upperBound,
                recorded[fixed] == message.bytes[fixed]
            else { continue }
            if recorded.dropFirst(2) == message.bytes.dropFirst(2) { return number }
            if similar == nil { similar = number }
        }
        return similar
    }

    private static func name(_ message: RecordedMessage) -> String {
        RecordingEntry(time: 0, conversation: 0, event: .message(message)).line
            .split(separator: " ", maxSplits: 2).last.map(String.init) ?? ""
    }

    private static func contrast(_ found: RecordedMessage, _ recorded: RecordedMessage) -> String {
        "recorded \(name(recorded))\n           found    \(name(found))"
    }
}

extension RecordedDescriptor {
    /// What has to be the same of a descriptor that a server sends.
    fileprivate var shape: RecordedDescriptor {
        RecordedDescriptor(kind: kind, isWritable: isWritable, number: 0, byteCount: byteCount)
    }
}
