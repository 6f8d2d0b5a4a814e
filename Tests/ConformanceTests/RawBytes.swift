import VFIOUserCheck

extension Collection<UInt8> where Index == Int {
    func u16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func u32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func u64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    /// All the bytes as one number.
    var number: UInt64 { number(at: 0, byteCount: count) }

    private func number(at offset: Int, byteCount: Int) -> UInt64 {
        (0..<byteCount).reduce(0) { $0 | UInt64(self[startIndex + offset + $1]) << UInt64($1 * 8) }
    }
}

/// Payloads, field by field.
enum Payload {
    static func version(_ json: String?, major: UInt16 = 0, minor: UInt16 = 0) -> [UInt8] {
        guard let json else { return bytes(.u16(major), .u16(minor)) }
        return bytes(.u16(major), .u16(minor), .text(json), .u8(0))
    }

    /// What QEMU 10.2 to 11.1 sends: 193 characters, in a message of 214 bytes.
    static let qemuCapabilities = """
        {"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, \
        "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}
        """

    /// What cloud-hypervisor sends.
    static let cloudHypervisorCapabilities =
        #"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#

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

    static func interruptInfo(_ index: UInt32, argsz: UInt32 = 16) -> [UInt8] {
        bytes(.u32(argsz), .u32(0), .u32(index), .u32(0))
    }

    static func setInterrupts(
        _ flags: UInt32, index: UInt32, start: UInt32 = 0, count: UInt32, argsz: UInt32? = nil, _ data: [UInt8] = []
    ) -> [UInt8] {
        bytes(
            .u32(argsz ?? UInt32(20 + data.count)), .u32(flags), .u32(index), .u32(start), .u32(count), .raw(data))
    }

    static func read(_ region: UInt32, at offset: UInt64, count: UInt32) -> [UInt8] {
        bytes(.u64(offset), .u32(region), .u32(count))
    }

    static func write(_ region: UInt32, at offset: UInt64, _ data: [UInt8], count: UInt32? = nil) -> [UInt8] {
        bytes(.u64(offset), .u32(region), .u32(count ?? UInt32(data.count)), .raw(data))
    }

    static func feature(_ number: UInt32, _ operations: UInt32, argsz: UInt32 = 8, _ data: [UInt8] = []) -> [UInt8] {
        bytes(.u32(argsz), .u32(number | operations), .raw(data))
    }

    enum FeatureOperation {
        static let get: UInt32 = 1 << 16
        static let set: UInt32 = 1 << 17
        static let probe: UInt32 = 1 << 18
    }
}

/// VFIO's indexes of what the tests touch.
enum Region {
    static let configuration: UInt32 = 7
    static let rom: UInt32 = 6
}

enum Interrupt {
    static let intx: UInt32 = 0
    static let msi: UInt32 = 1
    static let msix: UInt32 = 2
    static let error: UInt32 = 3
    static let request: UInt32 = 4
}

let invalid: UInt32 = 22
let exists: UInt32 = 17
let notPermitted: UInt32 = 1
