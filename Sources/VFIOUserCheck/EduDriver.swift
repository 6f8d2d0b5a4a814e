import LinuxHost

/// Drives QEMU's educational device, as its `docs/specs/edu.rst` describes it.
struct EduDriver {
    let connection: RawConnection

    enum Register {
        static let identification: UInt64 = 0x00
        static let interruptStatus: UInt64 = 0x24
        static let interruptRaise: UInt64 = 0x60
        static let interruptAcknowledge: UInt64 = 0x64
        static let dmaSource: UInt64 = 0x80
        static let dmaDestination: UInt64 = 0x88
        static let dmaCount: UInt64 = 0x90
        static let dmaCommand: UInt64 = 0x98
    }

    /// The device's memory in its own address space, and how much there is of it.
    static let memory: UInt64 = 0x40000
    static let memoryByteCount = 4096
    private static let start: UInt64 = 1
    private static let fromDevice: UInt64 = 2

    /// - Throws: `notJudged` when the device is another one.
    init(_ server: CheckedServer, _ connection: RawConnection) throws(Outcome) {
        guard server.survey.isEdu else {
            throw .notJudged("it takes a device that anybody can have move bytes, such as QEMU's edu")
        }
        self.connection = connection
    }

    /// Memory access and bus mastering on, or as given.
    func setCommand(_ value: UInt16 = 0x0006) throws(Outcome) {
        try connection.write(Region.configuration, at: 4, bytes(.u16(value)))
    }

    private func write(_ register: UInt64, _ value: UInt64) throws(Outcome) {
        try connection.write(0, at: register, bytes(.u64(value)))
    }

    /// The registers hold still while a transfer runs, and one that was cut off a moment ago may not have ended yet.
    private func prepare(source: UInt64, destination: UInt64, count: Int) throws(Outcome) {
        try waitUntilIdle()
        try write(Register.dmaSource, source)
        try write(Register.dmaDestination, destination)
        try write(Register.dmaCount, UInt64(count))
    }

    /// Has the device fetch bytes at an address into its memory, and does not wait for it.
    func beginFetch(from address: UInt64, count: Int) throws(Outcome) {
        try prepare(source: address, destination: Self.memory, count: count)
        try write(Register.dmaCommand, Self.start)
    }

    /// Has the device store bytes of its memory at an address, and does not wait for it.
    func beginStore(to address: UInt64, count: Int) throws(Outcome) {
        try prepare(source: Self.memory, destination: address, count: count)
        try write(Register.dmaCommand, Self.start | Self.fromDevice)
    }

    func isBusy() throws(Outcome) -> Bool {
        try connection.readNumber(0, at: Register.dmaCommand, byteCount: 8) & Self.start != 0
    }

    func waitUntilIdle() throws(Outcome) {
        let deadline = MonotonicInstant.after(connection.patience)
        while try isBusy() {
            guard MonotonicInstant.now < deadline else {
                throw connection.fails("the transfer to end", "a device that is busy after \(connection.patience.text)")
            }
        }
    }

    func fetch(from address: UInt64, count: Int) throws(Outcome) {
        try beginFetch(from: address, count: count)
        try waitUntilIdle()
    }

    func store(to address: UInt64, count: Int) throws(Outcome) {
        try beginStore(to: address, count: count)
        try waitUntilIdle()
    }

    func raise(_ bits: UInt32) throws(Outcome) {
        try connection.write(0, at: Register.interruptRaise, bytes(.u32(bits)))
    }

    func acknowledge(_ bits: UInt32) throws(Outcome) {
        try connection.write(0, at: Register.interruptAcknowledge, bytes(.u32(bits)))
    }
}

/// Memory that the client shows by messages: answers the server's requests.
struct MessageResponder {
    let connection: RawConnection
    let base: UInt64
    var bytes: [UInt8]

    /// A request of the server's, taken apart.
    struct Request {
        let message: RawMessage
        let isWrite: Bool
        let address: UInt64
        let count: Int
    }

    init(_ connection: RawConnection, at base: UInt64, byteCount: Int, seed: UInt8 = 9) {
        self.connection = connection
        self.base = base
        bytes = pattern(byteCount, seed: seed)
    }

    /// The next request, judged as a message; it must come before any reply.
    func next() throws(Outcome) -> Request {
        if !connection.requests.isEmpty { return try parse(connection.requests.removeFirst()) }
        guard let message = try connection.receive(expecting: "a request for memory") else {
            throw connection.fails("a request for memory", "the end of the connection")
        }
        guard !message.isReply else { throw connection.fails("a request for memory", "\(message)") }
        return try parse(message)
    }

    /// The next request for any bytes. Servers may ask for none first, to find out about a client.
    func nextForBytes() throws(Outcome) -> Request {
        for _ in 0..<100 {
            let request = try next()
            if request.count > 0 { return request }
            try reply(
                to: request, VFIOUserCheck.bytes(.u64(request.address), .u64(0)))
        }
        throw connection.fails("a request for bytes", "a hundred requests for none")
    }

    private func parse(_ message: RawMessage) throws(Outcome) -> Request {
        let isWrite = message.command == Number.writeClientMemory
        let count = message.payload.u64(at: 8)
        let size = isWrite ? count &+ 16 : 16
        guard isWrite || message.command == Number.readClientMemory, message.payload.count >= 16,
            count <= 1 << 20, UInt64(message.payload.count) == size, message.flags == 0
        else {
            throw connection.fails(
                "DMA_READ or DMA_WRITE with a 64-bit count and data at 16", "\(message)")
        }
        return Request(
            message: message, isWrite: isWrite, address: message.payload.u64(at: 0), count: Int(count))
    }

    /// Carries a request out and answers it, all of it or only the first `limit` bytes.
    mutating func answer(_ request: Request, atMost limit: Int = .max) throws(Outcome) {
        guard request.address >= base, request.address - base <= UInt64(bytes.count),
            UInt64(request.count) <= UInt64(bytes.count) - (request.address - base)
        else { throw connection.fails("a request within what was mapped", "\(request.message)") }
        let count = min(limit, request.count)
        let first = Int(request.address - base)
        let fixed = VFIOUserCheck.bytes(.u64(request.address), .u64(UInt64(count)))
        if request.isWrite {
            bytes.replaceSubrange(first..<first + count, with: request.message.payload[16..<16 + count])
            try reply(to: request, fixed)
        } else {
            try reply(to: request, fixed + bytes[first..<first + count])
        }
    }

    func reply(to request: Request, _ payload: [UInt8], error: UInt32? = nil) throws(Outcome) {
        let flags = HeaderFlags.reply | (error == nil ? 0 : HeaderFlags.error)
        try connection.send(
            message(request.message.command, id: request.message.id, flags: flags, error: error ?? 0, payload))
    }

    /// Serves requests until the device has nothing more to ask.
    ///
    /// - Returns: the requests for bytes; those for none, by which servers find out about a client, do not count.
    mutating func serve(_ edu: EduDriver) throws(Outcome) -> [Request] {
        var counted: [Request] = []
        let deadline = MonotonicInstant.after(connection.patience)
        while true {
            let isBusy = try edu.isBusy()
            while !connection.requests.isEmpty {
                let request = try next()
                if request.count > 0 { counted.append(request) }
                try answer(request)
            }
            guard isBusy else { return counted }
            guard MonotonicInstant.now < deadline else {
                throw connection.fails("the transfer to end", "a device that is busy after \(connection.patience.text)")
            }
        }
    }
}
