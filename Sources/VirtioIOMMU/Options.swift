public import DMA

extension VirtioIOMMU {
    /// What an IOMMU is like. All of it is fixed for the IOMMU's life and shows in its configuration, but for the limits.
    public struct Options: Sendable {
        /// The lowest bit is the unit of all mappings; the others tell the driver what sizes are best.
        public var pageSizeMask: UInt64 = ~0xfff
        /// The addresses that can be mapped.
        public var inputRange = IOVARange(first: IOVA(0), last: IOVA((1 << 48) - 1))
        /// The numbers that domains can have.
        public var domainRange: ClosedRange<UInt32> = 0...UInt32.max
        /// The room that the driver gives for the properties of an endpoint.
        public var probeByteCount = 512
        /// Whether endpoints reach guest memory before the driver has attached them to a domain.
        public var startsInBypass = true
        /// The number of mappings past which a domain takes no more. There are at most as many domains as endpoints.
        public var maximumMappings = 1 << 20
        /// The regions of an endpoint that is given none of its own.
        public var reservedRegions = [ReservedRegion.x86Messages]

        public init() {}

        /// The unit of all mappings, in bytes.
        public var granule: UInt64 { pageSizeMask & ~(pageSizeMask - 1) }

        func check() {
            precondition(pageSizeMask != 0, "an IOMMU has a page size")
            precondition((0...Self.maximumProbeByteCount).contains(probeByteCount), "properties take up to 64 KiB")
            precondition(maximumMappings > 0, "a domain has room for a mapping")
        }

        private static let maximumProbeByteCount = 1 << 16
    }
}
