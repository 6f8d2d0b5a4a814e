/// Payloads, field by field.
enum Payload {
    static func version(_ json: String?, major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
        guard let json else { return bytes(.u16(major), .u16(minor)) }
        return bytes(.u16(major), .u16(minor), .text(json), .u8(0))
    }

    /// What QEMU 10.2 to 11.1 proposes, in as many bytes: its message has 214.
    static let qemuCapabilities = """
        {"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, \
        "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}
        """

    /// What cloud-hypervisor proposes.
    static let cloudHypervisorCapabilities =
        #"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#

    /// What a client proposes that has a second socket to offer.
    static let twinSocketCapabilities =
        #"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"twin_socket":{"supported":true}}}"#

    static func map(
        at address: UInt64, size: UInt64, offset: UInt64 = 0, flags: UInt32 = 3, argsz: UInt32 = 32
    ) -> [UInt8] {
        bytes(.u32(argsz), .u32(flags), .u64(offset), .u64(address), .u64(size))
    }

    static func unmap(at address: UInt64, size: UInt64, flags: UInt32 = 0, argsz: UInt32 = 24) -> [UInt8] {
        bytes(.u32(argsz), .u32(flags), .u64(address), .u64(size))
    }

    static func deviceInfo(argsz: UInt32 = 16) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(0), .u32(0))
    }

    static func regionInfo(_ index: UInt32, argsz: UInt32 = 32) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(index), .u32(0), .u64(0), .u64(0))
    }

    static func ioDescriptors(
        _ index: UInt32, argsz: UInt32 = 4096, flags: UInt32 = 0, count: UInt32 = 0
    ) -> [UInt8] {
        bytes(.u32(argsz), .u32(flags), .u32(index), .u32(count))
    }

    static func interruptInfo(_ index: UInt32, argsz: UInt32 = 16) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(index), .u32(0))
    }

    static func setInterrupts(
        _ flags: UInt32, index: UInt32, start: UInt32 = 0, count: UInt32, argsz: UInt32? = nil, _ data: [UInt8] = []
    ) -> [UInt8] {
        bytes(.u32(argsz ?? UInt32(20 + data.count)), .u32(flags), .u32(index), .u32(start), .u32(count), .raw(data))
    }

    static func read(_ region: UInt32, at offset: UInt64, count: UInt32) -> [UInt8] {
        bytes(.u64(offset), .u32(region), .u32(count))
    }

    static func write(_ region: UInt32, at offset: UInt64, _ data: [UInt8], count: UInt32? = nil) -> [UInt8] {
        bytes(.u64(offset), .u32(region), .u32(count ?? UInt32(data.count)), .raw(data))
    }

    /// One entry of a write of many, its data padded to eight bytes.
    static func entry(_ region: UInt32, at offset: UInt64, _ data: [UInt8], count: UInt32? = nil) -> [UInt8] {
        bytes(
            .u64(offset), .u32(region), .u32(count ?? UInt32(data.count)), .raw(data), .zeros(max(0, 8 - data.count)))
    }

    static func feature(_ number: UInt32, _ operations: UInt32, argsz: UInt32? = nil, _ data: [UInt8] = []) -> [UInt8] {
        bytes(.u32(argsz ?? UInt32(8 + data.count)), .u32(number | operations), .raw(data))
    }

    static func migrationData(size: UInt32, argsz: UInt32? = nil, _ data: [UInt8] = []) -> [UInt8] {
        bytes(.u32(argsz ?? size &+ 8), .u32(size), .raw(data))
    }
}

/// Bits and numbers of `DEVICE_FEATURE`.
enum Feature {
    static let get: UInt32 = 1 << 16
    static let set: UInt32 = 1 << 17
    static let probe: UInt32 = 1 << 18

    static let migration: UInt32 = 1
    static let deviceState: UInt32 = 2
    static let startLogging: UInt32 = 6
    static let stopLogging: UInt32 = 7
    static let reportLogging: UInt32 = 8
    static let sharedBuffer: UInt32 = 11
}

/// States of a migrating device.
enum DeviceState {
    static let error: UInt32 = 0
    static let stop: UInt32 = 1
    static let running: UInt32 = 2
    static let stopCopy: UInt32 = 3
    static let resuming: UInt32 = 4
    static let preCopy: UInt32 = 6

    static func name(_ state: UInt32) -> String {
        let names = ["ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"]
        return state < names.count ? names[Int(state)] : "state \(state)"
    }
}
