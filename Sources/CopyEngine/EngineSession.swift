import DMA
import LinuxHost
import PCI
import SVA

/// The device between one enabling and the next: its address spaces, and whoever works in them.
///
/// Commands come on the control thread, transfers on the workers', several at a time.
final class EngineSession: Sendable {
    /// The number of the enabling.
    let epoch: Int
    let memory: EngineMemory
    let device: SVADevice
    /// Where page requests wait for the driver; `nil` without a ring for them.
    let channel: FaultChannel?
    private let windows: MemoryWindows
    /// All of memory, for accesses without a PASID.
    private let ownSpace = IOAddressSpace()
    private let spaces = Monitor<[PASID: IOAddressSpace]>([:])

    private static let ownWindows = 2

    /// A session whose device runs.
    ///
    /// - Parameter channel: the handler of page requests, if there is a ring for them.
    init(
        epoch: Int, _ memory: GuestMemory, _ options: CopyEngine.Options, _ faultQueue: FaultQueue,
        _ statistics: WaitStatistics, channel: FaultChannel?
    ) {
        self.epoch = epoch
        self.memory = EngineMemory(guest: memory)
        self.channel = channel
        windows = MemoryWindows(limit: options.maximumMappings + EngineSession.ownWindows)
        var configuration = SVADevice.Configuration()
        configuration.maximumPASIDs = UInt32(options.pasidLimit)
        configuration.outstandingRequests = CopyEngine.outstandingRequests
        configuration.requestsPerGroup = CopyEngine.requestsPerGroup
        configuration.requestPatience = options.pageTimeout
        configuration.cachedTranslations = 0
        device = SVADevice(configuration, in: PASIDSpace(), faultQueue: faultQueue) { statistics.note($0) }
        do throws(DMAError) {
            // Two halves, because no mapping has 2^64 bytes.
            for half in 0..<UInt64(EngineSession.ownWindows) {
                let window = try MemoryWindow(memory, shift: 0, in: windows)
                try ownSpace.map(
                    .remote(window), at: IOVA(half << 63), byteCount: 1 << 63, rights: [.read, .write])
            }
            try device.attach(ownSpace)
            try device.start()
        } catch {
            preconditionFailure("a new device cannot be started: \(error)")
        }
    }

    /// Ends everything: what waits for pages is answered, and accesses fail.
    ///
    /// - Parameter finishWork: returns when no worker uses the session any more.
    func end(_ manner: SVADevice.Manner, finishWork: () -> Void) {
        device.remove(manner, finishWork: finishWork)
        channel?.close()
        spaces.withLock { $0 = [:] }
    }
}

/// Commands.
extension EngineSession {
    /// Carries out a command.
    ///
    /// - Returns: what its completion record tells as bytes.
    func perform(_ command: Command) throws(EngineFailure) -> UInt64 {
        switch command {
        case .nothing: break
        case .createSpace(let number, let hasDemandPaging): try createSpace(number, hasDemandPaging)
        case .destroySpace(let number): try destroySpace(number)
        case .map(let number, let range, let memory, let rights): try map(number, range, memory, rights)
        case .unmap(let number, let range):
            let space = try space(number)
            return try refusing(about: .address, at: range.first) { () throws(DMAError) in try space.unmap(range) }
        case .respond(let cookie, let isAccessible):
            try refusing(about: .source) { () throws(DMAError) in
                guard let channel else { throw .invalid }
                try channel.respond(
                    FaultChannel.Cookie(rawValue: cookie), isAccessible ? .accessible : .refused)
            }
        }
        return 0
    }

    private func createSpace(_ number: UInt32, _ hasDemandPaging: Bool) throws(EngineFailure) {
        let pasid = try pasid(number)
        try refusing { () throws(DMAError) in
            guard channel != nil || !hasDemandPaging else { throw .notSupported }
            guard space(of: pasid) == nil else { throw .exists }
            let space = IOAddressSpace()
            try device.attach(space, to: pasid, handler: hasDemandPaging ? channel : nil)
            spaces.withLock { $0[pasid] = space }
        }
    }

    private func destroySpace(_ number: UInt32) throws(EngineFailure) {
        let pasid = try pasid(number)
        let space = try space(number)
        try refusing { () throws(DMAError) in
            try device.detach(from: pasid)
            spaces.withLock { $0[pasid] = nil }
            // Transfers that had found their page are waited for.
            try space.unmap(.everything)
        }
    }

    private func map(
        _ number: UInt32, _ range: IOVARange, _ address: IOVA, _ rights: AccessRights
    ) throws(EngineFailure) {
        let space = try space(number)
        try refusing(about: .address, at: range.first) { () throws(DMAError) in
            let shift = address.rawValue &- range.first.rawValue
            let window = try MemoryWindow(memory.guest, shift: shift, in: windows)
            do throws(DMAError) {
                try space.map(.remote(window), at: range.first, byteCount: range.byteCount, rights: rights)
            } catch {
                // Nobody else revokes what was not mapped.
                window.revoke()
                throw error
            }
        }
    }

    private func pasid(_ number: UInt32) throws(EngineFailure) -> PASID {
        guard let pasid = PASID(rawValue: number), number < device.maximumPASIDs else {
            throw EngineFailure(.noAddressSpace)
        }
        return pasid
    }

    private func space(_ number: UInt32) throws(EngineFailure) -> IOAddressSpace {
        guard let space = space(of: try pasid(number)) else { throw EngineFailure(.noAddressSpace) }
        return space
    }

    func space(of pasid: PASID) -> IOAddressSpace? { spaces.withLock { $0[pasid] } }

    private func refusing<Result>(
        about operand: CompletionRecord.Operand = .none, at address: IOVA? = nil,
        _ body: () throws(DMAError) -> Result
    ) throws(EngineFailure) -> Result {
        do throws(DMAError) {
            return try body()
        } catch {
            throw EngineFailure(.refused, error, about: operand, at: address)
        }
    }
}
