import LinuxHost

/// One command and what must come of it.
extension RawConnection {
    /// Sends a command and returns its reply, or `nil` when the server closes instead.
    func exchange(
        _ command: UInt16, _ payload: [UInt8] = [], _ descriptors: [Int32] = [], id: UInt16? = nil
    ) throws(Outcome) -> RawMessage? {
        var text = Number.name(command)
        text += payload.isEmpty ? " without payload" : ", payload \(payload.hexadecimal())"
        if !descriptors.isEmpty { text += ", \(descriptors.count) descriptors" }
        note(text)
        try send(message(command, id: id ?? newID(), payload), descriptors)
        return try receiveReply()
    }

    /// As `exchange`, of a server that must answer.
    @discardableResult
    func call(
        _ command: UInt16, _ payload: [UInt8] = [], _ descriptors: [Int32] = [], id: UInt16? = nil
    ) throws(Outcome) -> RawMessage {
        guard let reply = try exchange(command, payload, descriptors, id: id) else {
            throw fails("a reply", "the end of the connection")
        }
        return reply
    }

    /// A command that must succeed, with a reply of `count` bytes of payload where that is given.
    @discardableResult
    func succeed(
        _ command: UInt16, _ payload: [UInt8] = [], _ descriptors: [Int32] = [], replying count: Int? = nil,
        because reason: String = ""
    ) throws(Outcome) -> RawMessage {
        let reply = try call(command, payload, descriptors)
        let expected = "success" + (reason.isEmpty ? "" : ", for \(reason)")
        guard reply.error == nil else { throw fails(expected, "\(reply)") }
        if let count, reply.payload.count != count {
            throw fails("\(expected), \(16 + count) bytes in all", "\(reply)")
        }
        return reply
    }

    /// A command that must be refused, after which the connection goes on.
    func refuse(
        _ command: UInt16, _ payload: [UInt8] = [], _ descriptors: [Int32] = [], because reason: String,
        with number: UInt32? = nil
    ) throws(Outcome) {
        let reply = try call(command, payload, descriptors)
        guard let error = reply.error else { throw fails("an error reply, for \(reason)", "\(reply)") }
        if let number, error != number { throw fails("error \(number), for \(reason)", "error \(error)") }
    }

    /// A command after which the server must close, with an error reply before or without.
    func expectEnd(after what: String, _ bytes: [UInt8], _ descriptors: [Int32] = []) throws(Outcome) {
        note(what)
        try send(bytes, descriptors)
        try expectEnd()
    }

    private func expectEnd() throws(Outcome) {
        let reply = try receive()
        guard let reply else { return }
        if !reply.isReply || reply.error == nil {
            throw fails("an error reply and the end of the connection", "\(reply)")
        }
        if let more = try receive(expecting: "the end of the connection") {
            throw fails("the end of the connection", "\(more)")
        }
    }

    /// That the connection is as useful as before.
    func goOn(after reason: String) throws(Outcome) {
        try succeed(Number.getDeviceInfo, Payload.deviceInfo(), because: "the connection goes on after \(reason)")
    }

    func read(_ region: UInt32, at offset: UInt64, count: UInt32) throws(Outcome) -> [UInt8] {
        let reply = try succeed(
            Number.readRegion, Payload.read(region, at: offset, count: count), replying: 16 + Int(count))
        return Array(reply.payload.dropFirst(16))
    }

    func write(_ region: UInt32, at offset: UInt64, _ data: [UInt8]) throws(Outcome) {
        try succeed(Number.writeRegion, Payload.write(region, at: offset, data))
    }

    func readNumber(_ region: UInt32, at offset: UInt64, byteCount: Int) throws(Outcome) -> UInt64 {
        try read(region, at: offset, count: UInt32(byteCount)).number(at: 0, byteCount: byteCount)
    }

    func setInterrupts(
        _ flags: UInt32, index: UInt32, start: UInt32 = 0, count: UInt32, _ counters: [EventCounter] = [],
        data: [UInt8] = []
    ) throws(Outcome) {
        try succeed(
            Number.setInterrupts, Payload.setInterrupts(flags, index: index, start: start, count: count, data),
            counters.map(\.rawDescriptor))
    }

    /// Connects vectors to counters.
    func connect(_ index: UInt32, start: UInt32 = 0, to counters: [EventCounter]) throws(Outcome) {
        try setInterrupts(
            SetFlags.descriptors | SetFlags.trigger, index: index, start: start, count: UInt32(counters.count), counters
        )
    }
}
