public import PCI

/// What a device says of itself to its driver. Everything here is fixed for the device's life.
public struct VirtioDescription: Sendable {
    /// The number of the kind of device. Virtio 1.2, section 5
    public var deviceType: UInt16
    public var classCode: PCIClassCode
    /// What is offered besides what every device here offers: `version1`, `indirectDescriptors`, `eventIndex` and
    /// `ringReset`.
    public var features: VirtioFeatures
    /// How many entries each queue has at most; the driver may ask for fewer.
    public var queueSizes: [Int]
    /// The size of the device's configuration in bytes.
    public var configurationByteCount: Int
    /// For how long after each look at a queue the worker stays awake for the next, giving way to other threads meanwhile.
    ///
    /// For a device whose driver waits for every answer without sleeping, where waking the worker would be most of the wait.
    public var lingering = Duration.zero

    /// How many queues a device can have: requests to look at them are bits of a word.
    public static let maximumQueueCount = 64
    /// How many entries a queue can have. More would only let a hostile driver have longer chains checked.
    public static let maximumQueueSize = 1024
    /// The room there is for the device's configuration.
    public static let maximumConfigurationByteCount = 4096

    /// - Precondition: 1 to 64 queues, whose sizes are powers of two up to 1024; at most 4096 bytes of configuration; a
    ///   device type below 0x40, which is what device IDs have room for.
    public init(
        deviceType: UInt16, classCode: PCIClassCode, features: VirtioFeatures = [], queueSizes: [Int],
        configurationByteCount: Int = 0
    ) {
        precondition((1..<0x40).contains(deviceType), "virtio has device types from 1 to 63")
        precondition(
            (1...Self.maximumQueueCount).contains(queueSizes.count)
                && queueSizes.allSatisfy { (1...Self.maximumQueueSize).contains($0) && $0.nonzeroBitCount == 1 },
            "a device has 1 to 64 queues, whose sizes are powers of two up to 1024")
        precondition(
            (0...Self.maximumConfigurationByteCount).contains(configurationByteCount),
            "a device's configuration has at most 4096 bytes")
        self.deviceType = deviceType
        self.classCode = classCode
        self.features = features
        self.queueSizes = queueSizes
        self.configurationByteCount = configurationByteCount
    }

    /// All that is offered to the driver.
    var offeredFeatures: VirtioFeatures { features.union(.ofTransport) }
}

/// Feature bits: those below 24 and from 50 on are the device's own, the others every device's. Virtio 1.2, section 6
public struct VirtioFeatures: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// Descriptors may name a table of descriptors. `VIRTIO_F_INDIRECT_DESC`
    public static let indirectDescriptors = VirtioFeatures(rawValue: 1 << 28)
    /// Each side says from which entry on it wants to be told of new ones. `VIRTIO_F_EVENT_IDX`
    public static let eventIndex = VirtioFeatures(rawValue: 1 << 29)
    /// The device is no legacy device; it works with nothing else. `VIRTIO_F_VERSION_1`
    public static let version1 = VirtioFeatures(rawValue: 1 << 32)
    /// The driver treats the device as one that an IOMMU may stand before. `VIRTIO_F_ACCESS_PLATFORM`
    public static let accessPlatform = VirtioFeatures(rawValue: 1 << 33)
    /// Queues can be reset one by one. `VIRTIO_F_RING_RESET`
    public static let ringReset = VirtioFeatures(rawValue: 1 << 40)

    /// What the transport offers for every device.
    static let ofTransport: VirtioFeatures = [.indirectDescriptors, .eventIndex, .version1, .ringReset]
}
