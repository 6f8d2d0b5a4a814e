public import DMA
public import LinuxHost
public import VFIOUserWire

/// Client memory that is reached by messages, for the mappings that came without a descriptor.
///
/// A device's threads read and write through `mapping()` objects and wait; the connection's thread takes the requests
/// from here, sends them, and brings the replies back. It never waits here itself: the client may be waiting for it.
/// Message IDs are this direction's own. `VFIO_USER_DMA_READ`, `VFIO_USER_DMA_WRITE`
public final class ClientMemory: Sendable {
    /// Signalled when there is a request to send.
    public let wake: EventCounter
    private let limits: SessionLimits
    private let state: Monitor<State>

    public init(limits: SessionLimits = SessionLimits()) throws(Errno) {
        wake = try EventCounter()
        self.limits = limits
        state = Monitor(State(limits: limits))
    }

    /// Memory for one mapping.
    public func mapping() -> any RemoteMemory {
        RemoteMapping(memory: self)
    }

    /// Sets the limit of bytes in one message that the client has asked for; our own holds if it is less.
    public func limitTransfers(toBytes byteCount: Int) {
        state.withLock { $0.maximumTransferSize = max(1, min(byteCount, limits.transferSize)) }
    }

    /// Fails every transfer under way, and those that begin while `body` runs. A late reply is ignored.
    ///
    /// A device may be between two messages of one transfer, where there is nothing with the client to fail; such a
    /// transfer fails at its next message, however late that comes.
    public func withoutTransfers(_ body: () -> Void) {
        state.update { state in
            state.isSuspended = true
            state.epoch += 1
            for ticket in state.transfers.keys { state.finish(ticket, .failure(.cancelled)) }
        }
        body()
        state.withLock { $0.isSuspended = false }
    }

    /// Fails every transfer under way and all that are still to come: the client is gone.
    public func close() { close(.cancelled) }

    /// As `close`, for a client that is still there but has closed the socket on which it was asked. Devices see it as
    /// an error of the transfer.
    public func disconnect() { close(.inputOutput) }

    private func close(_ reason: DMAError) {
        state.update { state in
            state.closed = reason
            for ticket in state.transfers.keys { state.finish(ticket, .failure(reason)) }
        }
    }
}

/// The connection's half.
extension ClientMemory {
    /// Appends the next request that may be sent; `false` when there is none.
    public func appendNextRequest(to writer: inout MessageWriter) -> Bool {
        state.withLock { state in
            guard let (id, request) = state.nextToSend() else { return false }
            writer.beginCommand(request.command, id: id)
            if state.layout == .legacy {
                LegacyClientMemoryAccess(address: request.access.address, count: request.access.count).write(
                    to: &writer)
                writer.append(contentsOf: request.data)
                LegacyClientMemoryAccess.writePadding(to: &writer)
            } else {
                request.access.write(to: &writer)
                writer.append(contentsOf: request.data)
            }
            writer.finish()
            return true
        }
    }

    /// Takes a reply from the client.
    ///
    /// - Returns: `false` for a reply to nothing that was asked, or to something cancelled since; it is ignored.
    public func receive(_ header: MessageHeader, payload: Span<UInt8>) -> Bool {
        state.update { state in
            guard let sent = state.outstanding[header.id], sent.command == header.command else { return false }
            state.outstanding[header.id] = nil
            state.bytesAsked -= sent.bytesAsked
            guard let request = state.transfers[sent.ticket]?.request else { return false }
            state.finish(sent.ticket, state.result(of: request, header, payload))
            return true
        }
    }
}

/// The device threads' half.
extension ClientMemory {
    fileprivate func read(
        _ address: UInt64, into buffer: UnsafeMutableRawBufferPointer, for mapping: ObjectIdentifier
    ) throws(DMAError) {
        let epoch = try begin()
        try learnLayout(at: address, for: mapping, epoch)
        var done = 0
        while done < buffer.count {
            let place = address + UInt64(done)
            let count = min(buffer.count - done, maximumTransferSize, limits.bytesAsked)
            let access = ClientMemoryAccess(address: place, count: count)
            let data = try perform(Request(command: .readClientMemory, access: access), for: mapping, epoch)
            // A short answer is legal, an empty one would never end.
            guard !data.isEmpty else { throw .inputOutput }
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + data.count]).copyBytes(from: data)
            done += data.count
        }
    }

    fileprivate func write(
        _ bytes: UnsafeRawBufferPointer, to address: UInt64, for mapping: ObjectIdentifier
    ) throws(DMAError) {
        let epoch = try begin()
        try learnLayout(at: address, for: mapping, epoch)
        var done = 0
        while done < bytes.count {
            let count = min(bytes.count - done, maximumTransferSize)
            let data = unsafe [UInt8](bytes[done..<done + count])
            let access = ClientMemoryAccess(address: address + UInt64(done), count: count)
            let request = Request(command: .writeClientMemory, access: access, data: data)
            let written = try perform(request, for: mapping, epoch)
            guard written.count > 0 else { throw .inputOutput }
            done += written.count
        }
    }

    fileprivate func cancelTransfers(for mapping: ObjectIdentifier) {
        state.update { state in
            for (ticket, transfer) in state.transfers where transfer.mapping == mapping {
                state.finish(ticket, .failure(.cancelled))
            }
        }
    }

    private var maximumTransferSize: Int { state.withLock { $0.maximumTransferSize } }

    /// Finds out, before the first transfer, which of two layouts the client uses: QEMU before 11.1 departs from the
    /// standard by four bytes, which shows in nothing but the length of its reply to a write. So one of no bytes is
    /// sent, which changes nothing.
    private func learnLayout(
        at address: UInt64, for mapping: ObjectIdentifier, _ epoch: UInt64
    ) throws(DMAError) {
        guard state.withLock({ $0.layout == .unknown }) else { return }
        let probe = Request(command: .writeClientMemory, access: ClientMemoryAccess(address: address, count: 0))
        do throws(DMAError) {
            _ = try perform(probe, for: mapping, epoch)
        } catch .invalid {
            // A client that refuses to write nothing checks more than the old QEMUs do.
            state.withLock { if $0.layout == .unknown { $0.layout = .standard } }
        }
    }

    /// Begins a transfer, of one message or many, and returns what ties them together.
    private func begin() throws(DMAError) -> UInt64 {
        try state.withLock { (state) throws(DMAError) in
            if let reason = state.closed { throw reason }
            guard !state.isSuspended else { throw .cancelled }
            return state.epoch
        }
    }

    /// Queues a request and waits for its end.
    ///
    /// - Returns: what was read, or as many zeroes as bytes were written.
    private func perform(
        _ request: Request, for mapping: ObjectIdentifier, _ epoch: UInt64
    ) throws(DMAError) -> [UInt8] {
        let ticket = try state.withLock { (state) throws(DMAError) -> UInt64 in
            if let reason = state.closed { throw reason }
            guard state.epoch == epoch, !state.revoked.contains(mapping) else { throw .cancelled }
            return state.submit(Transfer(mapping: mapping, request: request))
        }
        wake.signal()
        let result = state.wait(until: .after(limits.answerWait)) { state in state.takeResult(ticket) }
        guard let result else {
            state.withLock { $0.abandon(ticket) }
            throw .inputOutput
        }
        return try result.get()
    }

    fileprivate func setRevoked(_ mapping: ObjectIdentifier, _ isRevoked: Bool) {
        state.withLock { state in
            if isRevoked { state.revoked.insert(mapping) } else { state.revoked.remove(mapping) }
        }
    }
}

extension ClientMemory {
    fileprivate struct Request {
        let command: Command
        let access: ClientMemoryAccess
        var data: [UInt8] = []

        var bytesAsked: Int { command == .readClientMemory ? access.count : 0 }
    }

    /// A request that is with the client.
    fileprivate struct SentRequest {
        let ticket: UInt64
        let command: Command
        let bytesAsked: Int
    }

    fileprivate struct Transfer {
        let mapping: ObjectIdentifier
        let request: Request
        var result: Result<[UInt8], DMAError>?
    }

    fileprivate enum Layout {
        case unknown, standard, legacy
    }

    fileprivate struct State {
        var transfers: [UInt64: Transfer] = [:]
        /// Tickets of transfers that have not been sent, oldest first.
        var queue: [UInt64] = []
        /// Requests that are with the client; also those that nobody waits for any more, so that their IDs stay taken
        /// until the late reply.
        var outstanding: [MessageID: SentRequest] = [:]
        /// How many bytes the answers to those will bring.
        var bytesAsked = 0
        var revoked: Set<ObjectIdentifier> = []
        var layout = Layout.unknown
        var maximumTransferSize: Int
        /// Counts the times that all transfers were ended.
        var epoch: UInt64 = 0
        var isSuspended = false
        /// Why there are no more transfers; `nil` as long as there are.
        var closed: DMAError?
        private let limits: SessionLimits
        private var lastTicket: UInt64 = 0
        private var lastID: UInt16 = 0

        init(limits: SessionLimits) {
            self.limits = limits
            maximumTransferSize = limits.transferSize
        }

        mutating func submit(_ transfer: Transfer) -> UInt64 {
            lastTicket += 1
            transfers[lastTicket] = transfer
            queue.append(lastTicket)
            return lastTicket
        }

        mutating func nextToSend() -> (MessageID, Request)? {
            guard outstanding.count < limits.requestsOutstanding else { return nil }
            while let ticket = queue.first {
                guard let transfer = transfers[ticket], transfer.result == nil else {
                    queue.removeFirst()
                    continue
                }
                let bytes = transfer.request.bytesAsked
                guard bytesAsked + bytes <= limits.bytesAsked else { return nil }
                queue.removeFirst()
                bytesAsked += bytes
                repeat { lastID &+= 1 } while outstanding[MessageID(rawValue: lastID)] != nil
                let id = MessageID(rawValue: lastID)
                outstanding[id] = SentRequest(ticket: ticket, command: transfer.request.command, bytesAsked: bytes)
                return (id, transfer.request)
            }
            return nil
        }

        mutating func finish(_ ticket: UInt64, _ result: Result<[UInt8], DMAError>) {
            if transfers[ticket]?.result == nil { transfers[ticket]?.result = result }
        }

        mutating func takeResult(_ ticket: UInt64) -> Result<[UInt8], DMAError>? {
            guard let result = transfers[ticket]?.result else { return nil }
            transfers[ticket] = nil
            return result
        }

        /// Nobody waits for the transfer any more.
        mutating func abandon(_ ticket: UInt64) {
            transfers[ticket] = nil
        }

        /// What a reply means for the request it answers.
        mutating func result(
            of request: Request, _ header: MessageHeader, _ payload: Span<UInt8>
        ) -> Result<[UInt8], DMAError> {
            if header.isError {
                return .failure(header.errorNumber > 0 ? DMAError(errno: header.errorNumber) : .inputOutput)
            }
            do throws(WireError) {
                switch request.command {
                case .writeClientMemory: return try writeResult(of: request, payload)
                default: return try readResult(of: request, payload)
                }
            } catch {
                return .failure(.inputOutput)
            }
        }

        private mutating func writeResult(
            of request: Request, _ payload: Span<UInt8>
        ) throws(WireError) -> Result<[UInt8], DMAError> {
            if ClientMemoryAccess.isLegacyWriteReply(payload) {
                layout = .legacy
                return .success([UInt8](repeating: 0, count: request.access.count))
            }
            if layout == .unknown { layout = .standard }
            let reply = try ClientMemoryAccess(parsingWithoutData: payload)
            guard request.access.isAnswered(by: reply) else { return .failure(.inputOutput) }
            return .success([UInt8](repeating: 0, count: reply.count))
        }

        private func readResult(
            of request: Request, _ payload: Span<UInt8>
        ) throws(WireError) -> Result<[UInt8], DMAError> {
            let address: UInt64
            let data: Range<Int>
            if layout == .legacy {
                let reply = try LegacyClientMemoryAccess(parsingWithData: payload)
                address = reply.address
                data = LegacyClientMemoryAccess.dataOffset..<LegacyClientMemoryAccess.dataOffset + reply.count
            } else {
                let reply = try ClientMemoryAccess(parsingWithData: payload)
                address = reply.address
                data = ClientMemoryAccess.dataOffset..<ClientMemoryAccess.dataOffset + reply.count
            }
            guard address == request.access.address, data.count <= request.access.count else {
                return .failure(.inputOutput)
            }
            return .success(data.map { payload[$0] })
        }
    }
}

/// One mapping's view of client memory, which ends when the mapping does.
private final class RemoteMapping: RemoteMemory {
    private let memory: ClientMemory

    init(memory: ClientMemory) {
        self.memory = memory
    }

    deinit {
        memory.setRevoked(ObjectIdentifier(self), false)
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        unsafe try memory.read(iova.rawValue, into: buffer, for: ObjectIdentifier(self))
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        unsafe try memory.write(bytes, to: iova.rawValue, for: ObjectIdentifier(self))
    }

    func revoke() {
        memory.setRevoked(ObjectIdentifier(self), true)
        memory.cancelTransfers(for: ObjectIdentifier(self))
    }
}
