/// What an IOMMU has counted since it was made.
public struct IOMMUStatistics: Hashable, Sendable {
    /// Requests of all kinds, and those that were not granted.
    public var requestCount: UInt64 = 0
    public var rejectedCount: UInt64 = 0
    /// Batches in which requests were handled.
    public var batchCount: UInt64 = 0
    /// Accesses that were refused for what the guest has mapped; those that were too many in a second are counted apart.
    public var faultCount: UInt64 = 0
    public var suppressedFaultCount: UInt64 = 0
    /// Faults of which the driver was not told because it had given no buffer, or one that was too small.
    public var untoldFaultCount: UInt64 = 0
    /// Pieces of guest memory that could not be shown in a domain when they came.
    public var failedPieceCount: UInt64 = 0

    public init() {}
}
