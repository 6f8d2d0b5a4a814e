import VFIOUserCheck

/// Bytes of a header.
let headerSize = 16
/// No message is longer: a region access of 1 MiB, its payload's fixed part and the header.
let maximumMessageSize = (1 << 20) + 32

extension [UInt8] {
    mutating func put(_ value: UInt64, at offset: Int, byteCount: Int) {
        for place in 0..<byteCount { self[offset + place] = UInt8(truncatingIfNeeded: value >> UInt64(8 * place)) }
    }

    func u16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func u32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func u64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    private func number(at offset: Int, byteCount: Int) -> UInt64 {
        var value: UInt64 = 0
        for place in 0..<byteCount { value |= UInt64(self[offset + place]) << UInt64(8 * place) }
        return value
    }
}

/// What QEMU 10.2 to 11.1 sends in its first message.
let qemuCapabilities = """
    {"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, \
    "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}
    """

/// What cloud-hypervisor sends.
let cloudHypervisorCapabilities =
    #"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#

func versionPayload(_ json: String?, major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
    guard let json else { return bytes(.u16(major), .u16(minor)) }
    return bytes(.u16(major), .u16(minor), .text(json), .u8(0))
}
