public import DMA
import Synchronization

/// A device that works in address spaces of processes: what a device model holds to reach memory with a PASID or without.
///
///     idle ── start ──▶ running ── reset ──▶ stopping ──▶ idle
///       └──────────────────┴────── remove ──▶ stopping ──▶ removed
///
/// It has a table of attachments by PASID. `bind` attaches the context of a process, whose pages are asked for when they are
/// missed; `attach` attaches any address space, with a handler for its faults or none. Attachments outlast a reset. While it
/// runs, accesses find their attachment without a lock; one that misses asks for the pages, waits, and tries again.
///
/// Threads: every method on any thread, but not under a lock that the handling of faults or `onUnmap` takes: accesses wait
/// for faults, and what ends attachments waits for both. Remove it before the last reference goes.
public final class SVADevice: FaultingDevice {
    public struct Configuration: Sendable {
        /// PASIDs of the device are below; zero for a device without any. At most 2^20. A PASID that is attached for the
        /// first time costs about five kilobytes for the life of the device.
        public var maximumPASIDs: UInt32 = 1 << 10
        /// How many page requests may be outstanding.
        public var outstandingRequests = 64
        /// How many pages one group asks for at most.
        public var requestsPerGroup = 16
        /// Whether answers to its page requests carry a PASID.
        public var wantsPASIDInResponses = true
        /// How often in a row an access is tried again after it was told that its page is there, at least once.
        public var faultRetries = 8
        /// How long an access waits for others to get their answers before it can ask, or for a replacement that it meets.
        public var requestPatience: Duration = .seconds(10)
        /// How long the end of an attachment, a reset or a removal waits for faults that are being handled.
        public var flushTime: Duration = .seconds(2)
        /// How many translations it keeps for itself; zero for a device without translation services.
        public var cachedTranslations = 64

        public init() {}
    }

    enum Life: UInt8, AtomicRepresentable {
        case idle, running, stopping, removed
    }

    let configuration: Configuration
    let pasids: PASIDSpace
    let faultQueue: FaultQueueCore?
    /// How the device asks for pages.
    public let pageRequests: PageRequestInterface
    public let faultState = FaultState()
    let trace: SVATrace
    let table: PASIDTable
    let cache: TranslationCache
    /// Changed with the bindings locked, so that no binding is made of a device that is on its way out.
    private let lifeNow = Atomic<Life>(.idle)
    private let attachmentCount = Atomic<UInt64>(0)

    /// A device that has no attachments and does not run.
    ///
    /// - Parameters:
    ///   - pasids: the space whose contexts it can be bound to.
    ///   - faultQueue: where its page requests are handled; without one it has none.
    ///   - trace: told what happens, in order.
    ///   - file, line: what reports of the lock checker name the device's callbacks by.
    ///   - onUnmap: told of memory that is to go, as of a `DMAAccess`, for the pins that the model has made itself.
    public init(
        _ configuration: Configuration = Configuration(), in pasids: PASIDSpace, faultQueue: FaultQueue? = nil,
        trace: @escaping SVATrace = { _ in }, file: StaticString = #fileID, line: UInt32 = #line,
        onUnmap: @escaping @Sendable (PASID?, IOVARange) -> Void = { _, _ in }
    ) {
        precondition(configuration.outstandingRequests > 0, "a device may have a page request outstanding")
        precondition(configuration.requestsPerGroup > 0, "a group has requests")
        precondition(configuration.faultRetries > 0, "an access is tried again once it has its page")
        self.configuration = configuration
        self.pasids = pasids
        self.faultQueue = faultQueue?.core
        self.trace = trace
        pageRequests = PageRequestInterface(creditLimit: configuration.outstandingRequests)
        let cache = TranslationCache(capacity: configuration.cachedTranslations)
        self.cache = cache
        table = PASIDTable(limit: max(1, configuration.maximumPASIDs)) { pasid in
            PASIDSlot(pasid, file: file, line: line) { range in
                cache.invalidate(pasid, range)
                onUnmap(pasid, range)
            }
        }
    }

    deinit {
        precondition(table.slots.allSatisfy(\.isEmpty), "a device is dropped that was not removed")
    }

    var life: Life { lifeNow.load(ordering: .acquiring) }

    /// Its PASIDs are below.
    public var maximumPASIDs: UInt32 { configuration.maximumPASIDs == 0 ? 0 : table.limit }

    /// Whether accesses reach memory.
    public var isRunning: Bool { life == .running }

    /// The number of translations it keeps for itself at the moment.
    public var cachedTranslationCount: Int { cache.count }

    /// Changes the life, with the bindings locked.
    func setLife(_ new: Life) { lifeNow.store(new, ordering: .releasing) }

    func newAttachmentSerial() -> UInt64 { attachmentCount.wrappingAdd(1, ordering: .relaxed).newValue }

    // As a fault queue sees it

    public var canRespond: Bool { faultQueue != nil }
    public var outstandingRequestLimit: Int { configuration.outstandingRequests }
    public var wantsPASIDInResponses: Bool { configuration.wantsPASIDInResponses }

    public func faultRoute(for pasid: PASID?) -> FaultRoute? {
        if let attachment = table.slot(of: pasid)?.attachment { return attachment.route }
        guard pasid != nil, let own = table.slot(of: nil)?.attachment, own.takesUnknownPASIDs else { return nil }
        return own.route
    }

    public func respond(_ response: PageResponse) {
        trace(.answered(response))
        pageRequests.take(response)
    }
}
