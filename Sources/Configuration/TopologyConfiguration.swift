public import PCITopology

/// An IOMMU and the devices of one process, each with a socket of its own and a place on the guest's bus.
///
/// The text is JSON as `schemas/topology.schema.json` has it. No address, socket or name is there twice.
public struct TopologyConfiguration: Hashable, Sendable {
    public struct IOMMU: Hashable, Sendable {
        /// What the log calls it, and the file of its recording.
        public var name: String
        public var address: PCIAddress
        public var socketPath: String
        public var options: IOMMUOptions

        public init(address: PCIAddress, socketPath: String, options: IOMMUOptions = IOMMUOptions()) {
            name = "iommu"
            self.address = address
            self.socketPath = socketPath
            self.options = options
        }
    }

    public struct Member: Hashable, Sendable {
        /// What the log calls it, and the file of its recording.
        public var name: String
        public var address: PCIAddress
        public var socketPath: String
        public var device: DeviceConfiguration.Device
        /// Whether the IOMMU translates what it accesses.
        public var isBehindIOMMU = true
        /// Addresses that the guest must not give it.
        public var reservedRegions: [ReservedRegion] = []

        public init(address: PCIAddress, socketPath: String, device: DeviceConfiguration.Device) {
            name = "\(device.name)-\(address)"
            self.address = address
            self.socketPath = socketPath
            self.device = device
        }
    }

    /// I/O addresses from the first to the last, both of which belong to it.
    public struct ReservedRegion: Hashable, Sendable {
        public var first: UInt64
        public var last: UInt64

        public init(first: UInt64, last: UInt64) {
            self.first = first
            self.last = last
        }

        func overlaps(_ other: ReservedRegion) -> Bool { first <= other.last && other.first <= last }
    }

    /// Where writes are interrupts. It is reserved for every device behind the IOMMU, without being mentioned.
    static let interruptMessages = ReservedRegion(first: 0xfee0_0000, last: 0xfeef_ffff)

    public var iommu: IOMMU
    public var devices: [Member]

    /// As many as one server has clients at the most: each costs a connection's threads and its own.
    public static let deviceCounts = 1...64
    /// Of one device. All of them have to fit in an answer to the guest's question for them.
    public static let maximumReservedRegions = 16
    public static let maximumNameLength = 32

    public init(iommu: IOMMU, devices: [Member]) {
        self.iommu = iommu
        self.devices = devices
    }

    /// The functions that the IOMMU translates for.
    public var endpoints: [PCIAddress] { devices.filter(\.isBehindIOMMU).map(\.address) }
}

/// The options of the IOMMU. What is `nil` is left to the device.
public struct IOMMUOptions: Hashable, Sendable {
    /// Whether devices reach all memory until the guest's driver says otherwise, as a firmware that boots from them needs.
    public var bootBypass: Bool?
    /// Bytes of the smallest page that can be mapped.
    public var granule: UInt64?
    /// How wide an address is that devices can be given.
    public var addressBits: Int?
    /// How many mappings a domain can have.
    public var maxMappings: Int?

    public static let granules: [UInt64] = [4096, 8192, 16384, 65536]
    public static let addressWidths = 32...64
    public static let mappingCounts = 1...(1 << 24)

    public init() {}
}
