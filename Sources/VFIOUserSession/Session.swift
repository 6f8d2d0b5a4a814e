public import DMA
public import DeviceModel
public import LinuxHost
public import VFIOUserNegotiation
public import VFIOUserWire

/// The server's side of one connection: messages in, replies and decisions out.
///
///       version               every other request
///     ┌──────────┐  accepted ┌─────────┐
///     │ awaiting ├──────────►│ serving ├──┐ answered in the order they came
///     │ version  │           └─┬───▲───┘  │
///     └──┬───────┘             │   └──────┘
///        │ refused, or         │ end()
///        │ anything else       ▼
///        └────────────────►  ended
///
/// It opens no socket and starts no thread: the connection brings each message with its descriptors, sends what the
/// session wrote, opens a second socket and closes when it is told to. All calls come on the connection's thread. Guest
/// memory belongs to the session: it begins with an empty address space, which the device is attached to until `end()`.
public struct Session: ~Copyable {
    /// What the connection does once it has sent the reply.
    public enum Outcome: Sendable {
        case goOn
        /// The reply promises the client a second socket: the connection makes a pair, sends one end along with the reply
        /// as its only descriptor, and from now on sends what the server asks of the client over the other.
        case openTwinSocket
        /// The peer broke the protocol beyond repair.
        case close
    }

    /// What the last message was refused for, for whoever keeps a log; `nil` when it was not.
    public private(set) var lastRefusal: RequestRefusal?

    let device: any Device
    let space: IOAddressSpace
    let objects = MemoryObjectCache()
    let clientMemory: ClientMemory
    /// `nil` for a device that cannot migrate.
    var migration: Migration?
    private var phase = Phase.awaitingVersion
    private let offer: ServerOffer
    let limits: SessionLimits
    /// The doorbells whose counters the client has, for the connection to watch; more may come with every message.
    public internal(set) var givenDoorbells: [GivenDoorbell] = []

    private enum Phase {
        case awaitingVersion
        case serving(Agreement)
        case ended
    }

    /// What the client and this side hold to; `nil` before and after they talk.
    var agreement: Agreement? {
        if case .serving(let agreement) = phase { agreement } else { nil }
    }

    /// Bytes of data that one message of the client may carry, or ask for.
    var maximumIncoming: Int { agreement?.receiving.maximumTransferSize ?? limits.transferSize }

    /// Attaches the device to a new, empty address space.
    ///
    /// - Parameter offer: what the client is told that the server can do, with its numbers taken from `limits`.
    /// - Precondition: the device's doorbells lie within its regions.
    /// - Throws: what the device's `attach(to:)` throws.
    public init(
        device: any Device, clientMemory: ClientMemory, offer: ServerOffer = ServerOffer(),
        limits: SessionLimits = SessionLimits()
    ) throws(DMAError) {
        var offer = offer
        offer.maximumMessageDescriptors = limits.messageDescriptors
        offer.maximumTransferSize = limits.transferSize
        offer.maximumDMAMappings = limits.mappings
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapWait = limits.unmapWait
        configuration.maximumMappings = limits.mappings
        space = IOAddressSpace(configuration)
        self.device = device
        self.clientMemory = clientMemory
        migration = Migration(device)
        if migration != nil {
            offer.migration = .init(
                pageSize: DMALoggingReport.minimumPageSize, maximumBitmapSize: UInt64(limits.transferSize))
        }
        self.offer = offer
        self.limits = limits
        Self.check(device.doorbells, of: device.regions)
        try device.attach(to: space)
    }

    /// Takes the memory away from the device and disconnects its interrupts. Returns when the device has let go.
    public mutating func end() {
        if case .ended = phase { return }
        phase = .ended
        clientMemory.close()
        stopLogging()
        // What a stopped device still had to do may be done by another process by now.
        if let machine = migration?.machine, !machine.isRunning { reset() }
        device.detach()
        device.interrupts.disconnectAll()
        givenDoorbells = []
        _ = try? space.unmap(.everything)
    }

    /// Handles one whole message.
    ///
    /// - Parameters:
    ///   - descriptors: those that came with it; what the session does not keep is closed.
    ///   - reply: where the reply is written, with the descriptors that go with it; nothing when none is due.
    public mutating func handle(
        _ header: MessageHeader, payload: Span<UInt8>, descriptors: consuming DescriptorBundle, lostDescriptors: Bool,
        reply: inout SessionReply
    ) -> Outcome {
        lastRefusal = nil
        if header.kind == .reply {
            if agreement?.twinSocketDescriptorIndex == nil { _ = clientMemory.receive(header, payload: payload) }
            return .goOn
        }
        do throws(RequestRefusal) {
            if lostDescriptors { throw .lostDescriptors }
            if descriptors.count > limits.messageDescriptors { throw .tooManyDescriptors }
            let request = try parse(header, payload, descriptorCount: descriptors.count)
            switch (phase, request) {
            case (.awaitingVersion, .version):
                let agreement = try negotiate(header, payload, &reply)
                phase = .serving(agreement)
                if agreement.twinSocketDescriptorIndex != nil { return .openTwinSocket }
            case (.serving, .version), (.awaitingVersion, _), (.ended, _):
                throw .outOfOrder(header.command)
            case (.serving, _):
                try serve(request, header, payload, &descriptors, &reply)
            }
            return .goOn
        } catch {
            lastRefusal = error
            reply.refuse(header, errorNumber: error.errorNumber)
            return agreement == nil ? .close : .goOn
        }
    }

    /// Handles one whole message of the second socket, over which a client only replies.
    public mutating func handleTwin(
        _ header: MessageHeader, payload: Span<UInt8>, reply: inout SessionReply
    ) -> Outcome {
        lastRefusal = nil
        if header.kind == .reply {
            _ = clientMemory.receive(header, payload: payload)
            return .goOn
        }
        let refusal = RequestRefusal.commandOnTwinSocket(header.command)
        lastRefusal = refusal
        reply.refuse(header, errorNumber: refusal.errorNumber)
        return .close
    }

    /// Answers a stream that cannot be read any further; the connection closes.
    public mutating func handleBroken(id: MessageID, command: Command, error: WireError, reply: inout SessionReply) {
        lastRefusal = .malformed(error)
        reply.writer.appendErrorReply(id: id, command: command, errorNumber: error.errno)
    }

    private func parse(
        _ header: MessageHeader, _ payload: Span<UInt8>, descriptorCount: Int
    ) throws(RequestRefusal) -> Request {
        do throws(WireError) {
            try header.validate()
            let request = try Request(parsing: payload, command: header.command)
            try request.validate(descriptorCount: descriptorCount)
            return request
        } catch {
            throw .malformed(error)
        }
    }

    private func negotiate(
        _ header: MessageHeader, _ payload: Span<UInt8>, _ reply: inout SessionReply
    ) throws(RequestRefusal) -> Agreement {
        do throws(NegotiationError) {
            var offer = offer
            // The client's end goes with the reply.
            if header.expectsNoReply { offer.twinSocket = false }
            let agreement = try offer.answer(payload)
            clientMemory.limitTransfers(toBytes: agreement.sending.maximumTransferSize)
            reply.answer(header) { agreement.writeReply(to: &$0) }
            return agreement
        } catch {
            throw .negotiation(error)
        }
    }

    private mutating func serve(
        _ request: Request, _ header: MessageHeader, _ payload: Span<UInt8>,
        _ descriptors: inout DescriptorBundle, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        switch request {
        case .version: throw .outOfOrder(.version)
        case .mapDMA(let request): try map(request, &descriptors)
        case .unmapDMA(let request): try unmap(request, header, &reply)
        case .getDeviceInfo: describeDevice(header, &reply)
        case .getRegionInfo(let request): try describeRegion(request, header, &reply)
        case .getRegionIODescriptors(let request): try describeIODescriptors(request, header, &reply)
        case .getInterruptInfo(let request): try describeInterrupt(request, header, &reply)
        case .setInterrupts(let request): try setInterrupts(request, payload, &descriptors)
        case .readRegion(let request):
            try requireRegionAccess()
            try readRegion(request, header, &reply)
        case .writeRegion(let request):
            try requireRegionAccess()
            try writeRegion(request, payload, header, &reply)
        case .writeRegions(let request):
            try requireRegionAccess()
            try writeRegions(request, payload, header, &reply)
        case .resetDevice: reset()
        case .deviceFeature(let request): try useFeature(request, payload, header, &reply)
        case .readMigrationData(let request): try readMigrationData(request, header, &reply)
        case .writeMigrationData(let request): try writeMigrationData(request, payload)
        }
        reply.completeIfEmpty(header)
    }

    /// Requests to the client end first: the client may be unable to answer them before it has the reply to this.
    private mutating func reset() {
        let device = device
        clientMemory.withoutTransfers { device.reset() }
        migration?.didReset()
    }
}

/// What a session answers to one message: nothing, or one reply, with descriptors if it has any.
public struct SessionReply: ~Copyable, Sendable {
    public var writer: MessageWriter
    public var descriptors = DescriptorBundle()

    public init(writer: MessageWriter = MessageWriter()) {
        self.writer = writer
    }

    /// Forgets the reply and keeps the memory.
    public mutating func removeAll() {
        writer.removeAll()
        if !descriptors.isEmpty { descriptors = DescriptorBundle() }
    }

    /// Writes a reply whose payload `body` appends, unless the client wants none.
    mutating func answer(_ header: MessageHeader, _ body: (inout MessageWriter) -> Void) {
        guard !header.expectsNoReply else { return }
        writer.beginReply(to: header)
        body(&writer)
        writer.finish()
    }

    /// Writes the reply without payload of a request that has written none.
    mutating func completeIfEmpty(_ header: MessageHeader) {
        if writer.bytes.isEmpty { answer(header) { _ in } }
    }

    mutating func refuse(_ header: MessageHeader, errorNumber: Int32) {
        guard !header.expectsNoReply else { return }
        writer.removeAll()
        writer.appendErrorReply(to: header, errorNumber: errorNumber)
    }
}
