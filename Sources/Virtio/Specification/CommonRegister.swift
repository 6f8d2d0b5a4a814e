public import PCI

/// A register of the common configuration structure. Virtio 1.2, 4.1.4.3, `struct virtio_pci_common_cfg`
public enum CommonRegister: Hashable, Sendable {
    case deviceFeatureSelect, deviceFeature, driverFeatureSelect, driverFeature
    case configurationVector, queueCount, deviceStatus, configurationGeneration
    case queueSelect, queueSize, queueVector, queueEnable, queueNotifyOffset
    case queueDescriptors, queueDriver, queueDevice, queueNotifyData, queueReset

    /// The registers behind `queueSelect` are those of the queue that it names; without such a queue they read as zero.
    /// Values belong to the transport's state and are supplied at every read.
    public static let map = RegisterMap<CommonRegister>([
        .init(.deviceFeatureSelect, "Device Feature Select", at: 0x00, byteCount: 4, .readWrite),
        .init(.deviceFeature, "Device Feature", at: 0x04, byteCount: 4, .readOnly, hooks: .read),
        .init(.driverFeatureSelect, "Driver Feature Select", at: 0x08, byteCount: 4, .readWrite),
        .init(.driverFeature, "Driver Feature", at: 0x0c, byteCount: 4, .readWrite, hooks: [.read, .write]),
        .init(
            .configurationVector, "Configuration MSI-X Vector", at: 0x10, byteCount: 2, .readWrite,
            hooks: [.read, .write]),
        .init(.queueCount, "Number of Queues", at: 0x12, byteCount: 2, .readOnly, hooks: .read),
        .init(.deviceStatus, "Device Status", at: 0x14, byteCount: 1, .readWrite, hooks: [.read, .write]),
        .init(
            .configurationGeneration, "Configuration Generation", at: 0x15, byteCount: 1, .readOnly, hooks: .read),
        .init(.queueSelect, "Queue Select", at: 0x16, byteCount: 2, .readWrite),
        .init(.queueSize, "Queue Size", at: 0x18, byteCount: 2, .readWrite, hooks: [.read, .write]),
        .init(.queueVector, "Queue MSI-X Vector", at: 0x1a, byteCount: 2, .readWrite, hooks: [.read, .write]),
        .init(.queueEnable, "Queue Enable", at: 0x1c, byteCount: 2, .readWrite, hooks: [.read, .write]),
        .init(.queueNotifyOffset, "Queue Notify Offset", at: 0x1e, byteCount: 2, .readOnly, hooks: .read),
        .init(.queueDescriptors, "Queue Descriptor Area", at: 0x20, byteCount: 8, .readWrite, hooks: [.read, .write]),
        .init(.queueDriver, "Queue Driver Area", at: 0x28, byteCount: 8, .readWrite, hooks: [.read, .write]),
        .init(.queueDevice, "Queue Device Area", at: 0x30, byteCount: 8, .readWrite, hooks: [.read, .write]),
        .init(.queueNotifyData, "Queue Notify Data", at: 0x38, byteCount: 2, .readOnly, hooks: .read),
        .init(.queueReset, "Queue Reset", at: 0x3a, byteCount: 2, .readWrite, hooks: [.read, .write]),
    ])
}
