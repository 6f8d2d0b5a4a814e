public import JSONText
public import VFIOUserWire

/// Why two sides do not come to an agreement. The connection closes after the error reply.
public enum NegotiationError: Error, Hashable, Sendable {
    /// The payload has no version.
    case malformed(WireError)
    /// Another major version of the protocol.
    case unsupportedMajor(UInt16)
    /// A server that answers with a minor version above the proposed one.
    case unexpectedMinor(UInt16)
    /// The capabilities do not end with their NUL.
    case notTerminated
    case notJSON(JSONError)
    /// The document, or its `capabilities`, is not an object.
    case notAnObject
    case wrongType(CapabilityKey)
    /// A number that makes no sense, or that this side cannot honour.
    case outOfRange(CapabilityKey)
    /// A server that answers without what its answer needs.
    case missing(CapabilityKey)
    /// The document cannot be written.
    case notWritable(JSONError)

    /// The Linux error number of the error reply: the reference server gives one for all.
    public var errno: Int32 { 22 }  // EINVAL
}

/// The names of the capabilities, and of the members of those that are objects.
public enum CapabilityKey: String, Hashable, Sendable {
    case maximumMessageDescriptors = "max_msg_fds"
    case maximumTransferSize = "max_data_xfer_size"
    case maximumDMAMappings = "max_dma_maps"
    case pageSizes = "pgsizes"
    case twinSocket = "twin_socket"
    case twinSocketSupported = "supported"
    case twinSocketDescriptorIndex = "fd_index"
    case writeMultiple = "write_multiple"
    case migration = "migration"
    case migrationPageSize = "pgsize"
    case migrationMaximumBitmapSize = "max_bitmap_size"
}
