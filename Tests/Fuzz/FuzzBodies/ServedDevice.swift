import BlockStorage
import CopyEngine
import DeviceModel
import Edu
import LinuxHost
import NVMe
import PCI

/// A device that sessions are played against, and how one tells that it is well.
struct ServedDevice {
    enum Kind: Int, CaseIterable, Sendable {
        case edu, nvme, window, copyEngine
    }

    let kind: Kind
    let device: any Device
    /// A region, an offset in it, and what is read there after a reset.
    let sign: (region: UInt32, offset: UInt64, bytes: [UInt8])
    /// Where reads and writes do something, by region.
    let interestingOffsets: [(region: UInt32, offsets: [UInt64])]
    let vectorCounts: [UInt32]

    /// The file that the disk is in lives as long as its store has it open.
    static func all() throws -> [ServedDevice] {
        let image = try OwnedDescriptor.anonymousMemory(name: "disk", byteCount: 1 << 20)
        let store = try FileStore(
            path: "/proc/self/fd/\(image.rawValue)", byteCount: nil, blockSize: .bytes512, isReadOnly: false)
        var options = NVMeController.Options(serial: NVMeController.SerialNumber(derivedFrom: "fuzz"))
        options.queuePairs = 2
        options.workers = 1
        var copying = CopyEngine.Options()
        copying.workers = 2
        copying.maximumMappings = 64
        let configuration: [UInt64] = [0, 4, 6, 0x10, 0x14, 0x18, 0x30, 0x34, 0x3c, 0x40, 0x44, 0x48, 0x50, 0x60, 0x80]
        return [
            ServedDevice(
                kind: .edu, device: try Edu.makeFunction(),
                sign: (0, 0, [0xed, 0x00, 0x00, 0x01]),
                interestingOffsets: [
                    (0, [0, 4, 8, 0x20, 0x24, 0x60, 0x64, 0x80, 0x88, 0x90, 0x98, 0xffff8]), (7, configuration),
                ],
                vectorCounts: [1, 1, 0, 1, 1]),
            ServedDevice(
                kind: .nvme, device: try NVMeController.makeFunction(store: store, options: options),
                sign: (0, 8, [0, 0, 2, 0, 0, 0, 0, 0]),
                interestingOffsets: [
                    (
                        0,
                        [0, 8, 0xc, 0x10, 0x14, 0x1c, 0x24, 0x28, 0x30, 0x1000, 0x1004, 0x1008, 0x100c, 0x2000, 0x3000]
                    ),
                    (7, configuration),
                ],
                vectorCounts: [1, 1, 3, 1, 1]),
            ServedDevice(
                kind: .window, device: try WindowDevice(), sign: (3, 8, [8, 9, 10, 11, 12, 13, 14, 15]),
                interestingOffsets: [
                    (0, [0, 0xff8, 0x1000, 0x1ffc, 0x3ff8]), (1, [0, 8, 16, 0x38]), (2, [0, 0x38]), (3, [0, 0x38]),
                    (7, [0, 0xf8]),
                ],
                vectorCounts: [1, 4, UInt32(WindowDevice.vectorCount), 1, 1]),
            ServedDevice(
                kind: .copyEngine, device: try CopyEngine.makeFunction(copying),
                sign: (0, 0, [0x43, 0x4f, 0x50, 0x59]),
                interestingOffsets: [
                    (
                        0,
                        [
                            0, 8, 0x10, 0x14, 0x20, 0x28, 0x2c, 0x30, 0x40, 0x48, 0x50, 0x60, 0x68, 0x6c, 0x70, 0x80,
                            0x98, 0x2000, 0x200c, 0x3000,
                        ]
                    ),
                    (7, configuration),
                ],
                vectorCounts: [0, 0, 4, 1, 1]),
        ]
    }
}
