/// What one side of a connection says it can do; nil where it says nothing and the standard's default holds.
///
/// The same value serves a client's proposal and a server's answer. `capabilities` of `VFIO_USER_VERSION`
public struct Capabilities: Hashable, Sendable {
    /// Descriptors the sender of this takes in one message. `max_msg_fds`
    public var maximumMessageDescriptors: Int?
    /// Bytes of data the sender of this takes in one message. `max_data_xfer_size`
    public var maximumTransferSize: Int?
    /// `max_dma_maps`
    public var maximumDMAMappings: Int?
    /// `pgsizes`
    public var pageSizes: PageSizes?
    /// `twin_socket`
    public var twinSocket: TwinSocket?
    /// Whether several writes can come in one message. `write_multiple`
    public var writeMultiple: Bool?
    /// `migration`
    public var migration: Migration?

    public init() {}

    /// A second socket for what the server asks of the client.
    public struct TwinSocket: Hashable, Sendable {
        public var isSupported: Bool
        /// Which of the reply's descriptors it is; only a server that supports it says so. `fd_index`
        public var descriptorIndex: Int?

        public init(isSupported: Bool, descriptorIndex: Int? = nil) {
            self.isSupported = isSupported
            self.descriptorIndex = descriptorIndex
        }
    }

    /// How dirty pages are reported.
    public struct Migration: Hashable, Sendable {
        /// Bytes per bit. `pgsize`
        public var pageSize: UInt64?
        /// `max_bitmap_size`
        public var maximumBitmapSize: UInt64?

        public init(pageSize: UInt64? = nil, maximumBitmapSize: UInt64? = nil) {
            self.pageSize = pageSize
            self.maximumBitmapSize = maximumBitmapSize
        }
    }
}

/// Sizes of pages, each its own bit.
public struct PageSizes: OptionSet, Hashable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    public static let fourKiB = PageSizes(rawValue: 1 << 12)
    /// Every size from 4 KiB up; smaller ones no client maps.
    public static let all = PageSizes(rawValue: ~0xfff)
}

/// What holds where a side says nothing, and what no side may say; vfio-user, "Version" and its capabilities.
public enum CapabilityLimits {
    public static let defaultMessageDescriptors = 1
    public static let defaultTransferSize = 1 << 20
    public static let defaultDMAMappings = 65535
    public static let defaultPageSizes = PageSizes.fourKiB

    /// The counts of a client; the other implementations keep them in 32 bits.
    static let proposed = Int(UInt32.max)

    /// What QEMU demands of a server, which makes it what a server may say.
    static let answeredMessageDescriptors = 16
    static let answeredTransferSize = 64 << 20
    static let answeredDMAMappings = 65535
    static let answeredBitmapSize: UInt64 = 256 << 20

    static let pageSize: UInt64 = 4096
}
