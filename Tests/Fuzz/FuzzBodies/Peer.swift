import Glibc
import LinuxHost
import VFIOUserCheck

/// The client's end of a session: it sends what it is told to, and holds the server to the rules for what comes back.
final class Peer {
    /// How the client answers what the server asks of it.
    enum Honesty: Int, CaseIterable {
        case honest, honestAgain, legacy, error, short, long, wrongAddress, wrongID, wrongCommand, truncated, late,
            never
    }

    private struct Answer {
        let bytes: [UInt8]
        let isOverTwin: Bool
    }

    /// A part of the I/O address space that the client has said may be reached by messages.
    struct RemoteRange {
        let address, byteCount: UInt64
        let isWritable: Bool
    }

    let socket: UNIXSocket
    let files: GuestFiles
    var model = StreamModel()
    var statistics: Statistics
    var honesty = Honesty.honest
    /// Mappings that the server may have: all that were sent and not refused.
    private(set) var remote: [RemoteRange] = []
    private(set) var touched: [GuestFiles.Touched] = []
    private(set) var isClosed = false
    private(set) var lastRead: [UInt8] = []
    /// The server's doorbells that the client has been given.
    private var bells: [EventCounter] = []
    private var batch: [UInt8] = []
    private var inbox: [UInt8] = []
    /// The second socket, once the server has given one and until either side closes it.
    private var twin: UNIXSocket?
    private var hasHadTwin = false
    private var hasSpoiltTwin = false
    private var twinInbox: [UInt8] = []
    private var twinOutgoing: [UInt8] = []
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)
    private var lateAnswers: [Answer] = []
    private var readyAnswers: [[UInt8]] = []
    /// Whether the client has sent what an old QEMU answers to a write.
    var mayBeTakenForLegacy = false
    /// Whether the server has been told to stop, whatever it is doing.
    var mayBeCutOff = false
    /// The bytes of data in one message that the client has asked for.
    var maximumTransferSize = 1 << 20

    /// How long the server may take. Only one that hangs comes near it.
    private static let patienceSeconds = 60

    init(_ socket: UNIXSocket, _ files: GuestFiles, _ statistics: Statistics) {
        self.socket = socket
        self.files = files
        self.statistics = statistics
        var time = timeval(tv_sec: Self.patienceSeconds, tv_usec: 0)
        unsafe setsockopt(
            socket.descriptor.rawValue, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    var hasBells: Bool { !bells.isEmpty }
    var canSend: Bool { !isClosed && !model.mustClose }
    var isAtBoundary: Bool { batch.isEmpty && model.isAtBoundary }

    /// Whether a server that has closed was right to.
    func mayEnd() -> Bool { mayBeCutOff || model.mayEnd(socketRoom: socket.sendRoom) }
}

/// Sending.
extension Peer {
    /// Appends a message to what goes out with the next flush.
    func queue(_ bytes: [UInt8]) throws(Finding) {
        batch += bytes
        if batch.count > 4096 { try flush() }
    }

    func flush() throws(Finding) {
        guard !batch.isEmpty else { return }
        let bytes = batch
        batch = []
        try send(bytes, [])
    }

    /// Sends everything queued and then these bytes, descriptors attached to the first of them.
    func sendNow(_ bytes: [UInt8], _ descriptors: [Int32], joined: Bool) throws(Finding) {
        if joined {
            let all = batch + bytes
            batch = []
            try send(all, descriptors)
        } else {
            try flush()
            try send(bytes, descriptors)
        }
    }

    private func send(_ bytes: [UInt8], _ descriptors: [Int32]) throws(Finding) {
        var sent = 0
        var attached = descriptors
        while sent < bytes.count, canSend {
            do throws(Errno) {
                let count = try sendOnce(bytes[sent...], attached)
                model.send(bytes[sent..<sent + count])
                for payload in model.takeMappings() { willMap(payload) }
                statistics.descriptorsSent += attached.count
                sent += count
                attached = []
            } catch .wouldBlock {
                try waitForRoom()
            } catch .brokenPipe {
                try receiveAll()
                return
            } catch .connectionReset {
                try receiveAll()
                return
            } catch .tooManyReferences {
                // The kernel has a limit of descriptors that are under way.
                try waitForRoom()
            } catch {
                throw Finding("sending failed: \(error)")
            }
        }
    }

    private func sendOnce(_ bytes: ArraySlice<UInt8>, _ descriptors: [Int32]) throws(Errno) -> Int {
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

    /// Waits until the server has read something, and takes what it answers: it reads nothing while that waits.
    private func waitForRoom() throws(Finding) {
        var request = pollfd(fd: socket.descriptor.rawValue, events: Int16(POLLIN | POLLOUT), revents: 0)
        guard unsafe poll(&request, 1, Int32(Self.patienceSeconds * 1000)) == 1 else {
            throw Finding("the server neither reads nor answers")
        }
        try receiveAll()
    }

    /// Sends answers that had to wait for the end of a message.
    func sendAnswers() throws(Finding) {
        while isAtBoundary, !readyAnswers.isEmpty, canSend {
            let answers = readyAnswers
            readyAnswers = []
            for answer in answers { try send(answer, []) }
        }
    }

    /// Rings one of the doorbells, or does nothing when there is none.
    func ring(_ number: Int) {
        guard !bells.isEmpty else { return }
        bells[number % bells.count].signal()
        statistics.rings += 1
    }

    /// Gives the answers that were held back.
    func answerLate() {
        for answer in lateAnswers { give(answer) }
        lateAnswers = []
    }

    private func give(_ answer: Answer) {
        if answer.isOverTwin { twinOutgoing += answer.bytes } else { readyAnswers.append(answer.bytes) }
    }
}

/// Receiving.
extension Peer {
    /// Waits until the server has answered all it owes, or has closed.
    func settle() throws(Finding) {
        try flush()
        try sendAnswers()
        while !isClosed, model.owesAnswers || model.mustClose {
            try receive(waiting: true)
            try sendAnswers()
        }
        try receiveTwin()
    }

    /// Reads to the end of the stream.
    func receiveToEnd() throws(Finding) {
        while !isClosed { try receive(waiting: true) }
    }

    /// Takes what is there.
    func receiveAll() throws(Finding) {
        while try receive(waiting: false) {}
    }

    @discardableResult
    private func receive(waiting: Bool) throws(Finding) -> Bool {
        try receiveTwin()
        guard !isClosed else { return false }
        var result: Result<Int, Errno> = .success(0)
        var descriptorCount = 0
        unsafe buffer.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                var received = unsafe try socket.receive(into: buffer, waiting: waiting)
                descriptorCount = received.descriptors.count
                while let descriptor = received.descriptors.takeFirst() { keep(descriptor.take()) }
                result = .success(received.count)
            } catch {
                result = .failure(error)
            }
        }
        let count: Int
        do throws(Errno) {
            count = try result.get()
        } catch .wouldBlock {
            if waiting { throw Finding("the server does not answer \(model.unanswered)") }
            return false
        } catch .connectionReset {
            // The server has closed with bytes of ours unread.
            count = 0
        } catch {
            throw Finding("receiving failed: \(error)")
        }
        statistics.descriptorsReceived += descriptorCount
        if count == 0 {
            isClosed = true
            try require(inbox.isEmpty || mayBeCutOff, "the server left in the middle of a message: \(inbox)")
            return false
        }
        inbox += buffer[..<count]
        try handleMessages(descriptorCount)
        return true
    }

    /// Keeps what the server has given: its doorbells and its end of a second socket.
    private func keep(_ number: Int32) {
        if let socket = OwnedDescriptor(adoptingSocket: number) {
            twin = UNIXSocket(adopting: socket)
            hasHadTwin = true
        } else if let bell = try? EventCounter(adopting: OwnedDescriptor(adopting: number)) {
            bells.append(bell)
        }
    }

    private func handleMessages(_ descriptorCount: Int) throws(Finding) {
        var start = 0
        var descriptorCount = descriptorCount
        while inbox.count - start >= headerSize {
            let size = Int(inbox.u32(at: start + 4))
            try require((headerSize...maximumMessageSize).contains(size), "a message of \(size) bytes")
            guard inbox.count - start >= size else { break }
            let message = Array(inbox[start..<start + size])
            start += size
            // A read never goes past bytes with descriptors, so they came with the last message.
            let isLast = start == inbox.count
            try handle(message, descriptorCount: isLast ? descriptorCount : 0)
            if isLast { descriptorCount = 0 }
        }
        inbox.removeFirst(start)
        try require(descriptorCount <= 16, "\(descriptorCount) descriptors with a part of a message")
    }

    private func handle(_ message: [UInt8], descriptorCount: Int) throws(Finding) {
        model.received(byteCount: message.count)
        switch message.u32(at: 8) & HeaderFlags.typeMask {
        case 0:
            try require(!hasHadTwin, "a request over the first of two sockets: \(message.prefix(16))")
            try handleRequest(message, descriptorCount, isOverTwin: false)
        case 1: try handleReply(message, descriptorCount)
        default: throw Finding("a message that is neither command nor reply: \(message.prefix(16))")
        }
    }

    private func handleReply(_ reply: [UInt8], _ descriptorCount: Int) throws(Finding) {
        guard let request = model.nextAnswered() else { throw Finding("a reply to nothing: \(reply.prefix(64))") }
        try require(
            reply.u16(at: 0) == request.id && reply.u16(at: 2) == request.command,
            "\(reply.prefix(16)) answers \(request)")
        let flags = reply.u32(at: 8)
        let isError = flags & HeaderFlags.error != 0
        let error = reply.u32(at: 12)
        if isError {
            try require(reply.count == headerSize, "an error reply of \(reply.count) bytes")
            try require(
                flags == 0x21 && (1..<4096).contains(error), "an error reply with flags \(flags), error \(error)")
            try require(descriptorCount == 0, "an error reply with a descriptor")
        } else {
            try require(flags == 1 && error == 0, "a reply with flags \(flags), error \(error)")
            try require(!request.breaksStream, "a message that cannot be read is accepted")
            try ReplyRules.check(reply, to: request, descriptorCount)
            lastRead = reply
        }
        model.answered(request, isError: isError)
        statistics.count(answerTo: request.command, error: isError ? error : nil)
        if request.command == Number.mapDMA, isError { forget(request.payload) }
    }
}

/// The second socket, over which the server asks and nothing else is said.
extension Peer {
    /// Takes the requests that are there, and gives the answers as far as there is room for them.
    private func receiveTwin() throws(Finding) {
        while let twin, let bytes = read(from: twin) {
            guard !bytes.isEmpty else { return closeTwin() }
            twinInbox += bytes
            while twinInbox.count >= headerSize {
                let size = Int(twinInbox.u32(at: 4))
                try require((headerSize...maximumMessageSize).contains(size), "a request of \(size) bytes")
                guard twinInbox.count >= size else { break }
                let message = Array(twinInbox[..<size])
                twinInbox.removeFirst(size)
                if message.u32(at: 8) & HeaderFlags.typeMask == 0 {
                    try handleRequest(message, 0, isOverTwin: true)
                } else {
                    try require(hasSpoiltTwin, "a reply over the second socket: \(message)")
                }
            }
        }
        flushTwin()
    }

    /// What there is; nothing at the end of the stream, `nil` when there is nothing yet.
    private func read(from twin: UNIXSocket) -> [UInt8]? {
        unsafe buffer.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                let count = unsafe try twin.receive(into: buffer, waiting: false).count
                return unsafe Array(buffer[..<count])
            } catch {
                return error == .wouldBlock ? nil : []
            }
        }
    }

    private func flushTwin() {
        guard let twin, !twinOutgoing.isEmpty else { return }
        unsafe twinOutgoing.withUnsafeBytes { bytes in
            do throws(Errno) {
                let sent = unsafe try twin.send(bytes, descriptors: DescriptorBundle(), waiting: false)
                twinOutgoing.removeFirst(sent)
            } catch {
                if error != .wouldBlock { closeTwin() }
            }
        }
    }

    /// The server has to do without, and goes on.
    func closeTwin() {
        twin = nil
        twinInbox = []
        twinOutgoing = []
    }

    /// Says over the second socket what may not be said there, upon which the server may leave at once.
    func spoilTwin(_ bytes: [UInt8]) {
        guard twin != nil else { return }
        hasSpoiltTwin = true
        mayBeCutOff = true
        twinOutgoing += bytes
        flushTwin()
    }
}

extension UNIXSocket {
    /// How much the kernel lets wait on it, and on the one at the other end, which was made with it. `SO_SNDBUF`
    fileprivate var sendRoom: Int {
        var room: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        unsafe getsockopt(descriptor.rawValue, SOL_SOCKET, SO_SNDBUF, &room, &size)
        return Int(room)
    }
}

/// Memory.
extension Peer {
    /// Takes note of a mapping that has been asked for.
    private func willMap(_ payload: [UInt8]) {
        guard payload.count >= 32 else { return }
        let (offset, address, size) = (payload.u64(at: 8), payload.u64(at: 16), payload.u64(at: 24))
        let isWritable = payload.u32(at: 4) & 2 != 0
        remote.append(RemoteRange(address: address, byteCount: size, isWritable: isWritable))
        if isWritable { touched.append(GuestFiles.Touched(offset: offset, byteCount: size)) }
    }

    private func forget(_ payload: [UInt8]) {
        guard payload.count >= 32 else { return }
        let (offset, address, size) = (payload.u64(at: 8), payload.u64(at: 16), payload.u64(at: 24))
        let isWritable = payload.u32(at: 4) & 2 != 0
        let range = remote.firstIndex {
            $0.address == address && $0.byteCount == size && $0.isWritable == isWritable
        }
        if let range { remote.remove(at: range) }
        guard isWritable else { return }
        if let part = touched.firstIndex(where: { $0.offset == offset && $0.byteCount == size }) {
            touched.remove(at: part)
        }
    }

    /// Nothing is mapped any more.
    func forgetAllMappings() {
        remote = []
        touched = []
    }

    /// Puts bytes into guest memory, as a driver does; these the device need not have written.
    func put(_ bytes: [UInt8], at offset: UInt64) throws(Finding) {
        touched.append(GuestFiles.Touched(offset: offset, byteCount: UInt64(bytes.count)))
        try files.put(bytes, at: offset)
    }

    /// A request for memory, which must lie in what the client has offered.
    private func handleRequest(
        _ request: [UInt8], _ descriptorCount: Int, isOverTwin: Bool
    ) throws(Finding) {
        let command = request.u16(at: 2)
        let isWrite = command == Number.writeClientMemory
        try require(isWrite || command == Number.readClientMemory, "the server asks for \(command)")
        try require(request.u32(at: 8) == 0 && descriptorCount == 0, "a request with flags or descriptors")
        try require(request.count >= headerSize + 16, "a request of \(request.count) bytes")
        let address = request.u64(at: headerSize)
        let data = request.count - headerSize - 16
        var count = request.u64(at: headerSize + 8)
        // Once it has seen one of the old QEMU's answers, the server speaks its dialect: 32 bits of count.
        if mayBeTakenForLegacy, isWrite, count != UInt64(data) { count &= 0xffff_ffff }
        try require(isWrite ? UInt64(data) == count : data == 0, "a request for \(count) bytes with \(data)")
        try require(count <= UInt64(maximumTransferSize), "a request for \(count) bytes")
        let isOffered = remote.contains { range in
            address >= range.address && address - range.address < range.byteCount
                && count <= range.byteCount - (address - range.address)
                && (!isWrite || count == 0 || range.isWritable)
        }
        try require(isOffered, "the server reaches for \(count) bytes at \(address), which are not mapped")
        if isWrite { statistics.memoryWrites += 1 } else { statistics.memoryReads += 1 }
        if isOverTwin { statistics.twinRequests += 1 }
        try answer(request, isWrite, address, Int(count), isOverTwin: isOverTwin)
    }

    private func answer(
        _ request: [UInt8], _ isWrite: Bool, _ address: UInt64, _ count: Int, isOverTwin: Bool
    ) throws(Finding) {
        let id = request.u16(at: 0)
        let command = request.u16(at: 2)
        if isWrite, honesty == .honest || honesty == .honestAgain || honesty == .late {
            try put(Array(request[(headerSize + 16)...]), at: address)
        }
        let data = isWrite ? [] : try files.get(at: address, count: count)
        let honest = bytes(.u64(address), .u64(UInt64(count)), .raw(data))
        func reply(_ payload: [UInt8], id: UInt16 = id, command: UInt16 = command, flags: UInt32 = 1) {
            give(Answer(bytes: message(command, id: id, flags: flags, payload), isOverTwin: isOverTwin))
        }
        switch honesty {
        case .honest, .honestAgain:
            statistics.memoryAnswers += 1
            reply(honest)
        case .legacy:
            mayBeTakenForLegacy = true
            reply(isWrite ? [] : bytes(.u64(address), .u32(UInt32(count)), .raw(data), .zeros(4)))
        case .error:
            let refusal = message(command, id: id, flags: 0x21, error: UInt32(count % 3) * 14, [])
            give(Answer(bytes: refusal, isOverTwin: isOverTwin))
        case .short:
            let half = count / 2
            reply(bytes(.u64(address), .u64(UInt64(half)), .raw(Array(data.prefix(half)))))
        case .long: reply(bytes(.u64(address), .u64(UInt64(count + 1)), .raw(data + [0])))
        case .wrongAddress: reply(bytes(.u64(address ^ 0x1000), .u64(UInt64(count)), .raw(data)))
        case .wrongID: reply(honest, id: id &+ 1)
        case .wrongCommand: reply(honest, command: command ^ 7)
        case .truncated: reply(Array(honest.dropLast(3)))
        case .late:
            lateAnswers.append(Answer(bytes: message(command, id: id, flags: 1, honest), isOverTwin: isOverTwin))
        case .never: break
        }
    }
}
