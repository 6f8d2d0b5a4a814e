/// How far the driver has come with the device. Virtio 1.2, 2.1
///
///     0 ──▶ acknowledge ──▶ driver ──▶ featuresOK ──▶ driverOK ──▶ needsReset
///     ▲                                                   │             │
///     └──────────────── the driver writes 0 ──────────────┴─────────────┘
struct DeviceStatus: OptionSet, Hashable, Sendable {
    let rawValue: UInt8

    /// The guest has found the device. `ACKNOWLEDGE`
    static let acknowledge = DeviceStatus(rawValue: 1)
    /// The guest has a driver for it. `DRIVER`
    static let driver = DeviceStatus(rawValue: 2)
    /// The device can be used. `DRIVER_OK`
    static let driverOK = DeviceStatus(rawValue: 4)
    /// Driver and device agree on the features. `FEATURES_OK`
    static let featuresOK = DeviceStatus(rawValue: 8)
    /// The device says that it cannot go on. `DEVICE_NEEDS_RESET`
    static let needsReset = DeviceStatus(rawValue: 64)
    /// The driver has given up. `FAILED`
    static let failed = DeviceStatus(rawValue: 128)

    /// The bits that the driver sets.
    static let ofDriver: DeviceStatus = [.acknowledge, .driver, .driverOK, .featuresOK, .failed]
}
