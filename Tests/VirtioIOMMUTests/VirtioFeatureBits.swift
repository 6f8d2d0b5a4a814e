import Virtio

/// Features by the standard's numbers.
enum VirtioFeatureBits {
    static let mapUnmap = VirtioFeatures(rawValue: 1 << 2)
    static let bypass = VirtioFeatures(rawValue: 1 << 3)
    static let probe = VirtioFeatures(rawValue: 1 << 4)
    static let mmio = VirtioFeatures(rawValue: 1 << 5)
    static let bypassConfiguration = VirtioFeatures(rawValue: 1 << 6)
}
