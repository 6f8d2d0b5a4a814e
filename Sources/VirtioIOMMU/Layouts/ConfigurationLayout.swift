import DMA

/// The device's configuration. `struct virtio_iommu_config`
///
///     offset  size
///        0      8   page_size_mask
///        8     16   input_range: first and last address
///       24      8   domain_range: first and last number
///       32      4   probe_size
///       36      1   bypass, the one field that the driver writes
///       37      3   reserved
enum ConfigurationLayout {
    static let byteCount = 40
    static let bypassOffset = 36

    /// All bytes, so that an access of any size can be answered from them.
    static func bytes(_ options: VirtioIOMMU.Options, bypass: Bool) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: options.pageSizeMask)
        bytes.append(littleEndian: options.inputRange.first.rawValue)
        bytes.append(littleEndian: options.inputRange.last.rawValue)
        bytes.append(littleEndian: options.domainRange.lowerBound)
        bytes.append(littleEndian: options.domainRange.upperBound)
        bytes.append(littleEndian: UInt32(options.probeByteCount))
        bytes.append(bypass ? 1 : 0)
        bytes += [0, 0, 0]
        return bytes
    }
}
