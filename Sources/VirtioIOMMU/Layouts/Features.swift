import Virtio

/// The device's own feature bits. `VIRTIO_IOMMU_F_*`
extension VirtioFeatures {
    static let inputRange = VirtioFeatures(rawValue: 1 << 0)
    static let domainRange = VirtioFeatures(rawValue: 1 << 1)
    static let mapUnmap = VirtioFeatures(rawValue: 1 << 2)
    static let probe = VirtioFeatures(rawValue: 1 << 4)
    static let mmio = VirtioFeatures(rawValue: 1 << 5)
    static let bypassConfiguration = VirtioFeatures(rawValue: 1 << 6)
}
