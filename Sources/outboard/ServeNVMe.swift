import ArgumentParser
import BlockStorage
import Configuration
import DeviceModel
import Glibc
import LinuxHost
import NVMe
import PCI
import VFIOUserServer

/// `outboard serve nvme`
struct ServeNVMe: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nvme", abstract: "An NVMe controller with one disk, kept in a raw image or on a block device.")

    @OptionGroup var common: ServeOptions

    @Option(help: .init("The image or block device.", valueName: "file"))
    var image: String?

    @Option(
        help: .init("Create the image with this size if there is none: bytes, or 512M, 1GiB, 2T.", valueName: "size"),
        transform: { text in
            guard let size = StorageSize(text) else {
                throw ValidationError("--size takes whole sectors, as bytes or with a unit of M, G or T: \(text)")
            }
            return size
        })
    var size: StorageSize?

    @Flag(help: "Refuse to write, and open the image for reading only.")
    var readOnly = false

    @Option(
        help: .init("The serial number, 1 to 20 ASCII characters. (default: made from the path)", valueName: "text"))
    var serial: String?

    @Option(help: .init("How many pairs of I/O queues there are, 1 to 64. (default: 64)", valueName: "n"))
    var queues: Int?

    @Option(help: .init("Bytes in a block, 512 or 4096. (default: 512)", valueName: "bytes"))
    var blockSize: Int?

    func validate() throws {
        if image == nil && common.config == nil { throw ValidationError("--image is needed") }
        if let queues, !NVMeOptions.queueCounts.contains(queues) {
            throw ValidationError("--queues takes 1 to 64")
        }
        if let blockSize, !NVMeOptions.blockSizes.contains(blockSize) {
            throw ValidationError("--block-size takes 512 or 4096")
        }
        if let serial, NVMeController.SerialNumber(serial) == nil {
            throw ValidationError("--serial takes 1 to 20 printable ASCII characters")
        }
        if let size, size.byteCount % UInt64(blockSize ?? 512) != 0 {
            throw ValidationError("--size is a multiple of the block size")
        }
    }

    func run() throws {
        let file = try common.configuration(of: "nvme")
        var options = NVMeOptions(image: image ?? "")
        if case .nvme(let fromFile)? = file?.device { options = fromFile }
        if let image { options.image = image }
        if let size { options.size = size.byteCount }
        if readOnly { options.readOnly = true }
        if let serial { options.serial = serial }
        if let queues { options.queues = queues }
        if let blockSize { options.blockSize = blockSize }
        try common.serve(options, file)
    }
}

extension ServeOptions {
    func serve(_ options: NVMeOptions, _ file: DeviceConfiguration?) throws {
        let clientCount = clientCount(file)
        if clientCount > 1, options.readOnly != true {
            throw ValidationError(
                "--max-clients above 1 needs --read-only: guests that write to one disk would destroy each other's files"
            )
        }
        let service = try service("nvme", file)
        let identity = service.identity
        try service.run {
            let disk = try NVMeDisk(options)
            guard clientCount > 1 else { return .exclusive(try disk.makeDevice(route: identity.makeDirectRoute())) }
            return .forEachClient(maximum: clientCount) { () throws(Errno) in
                try disk.makeDevice(route: identity.makeDirectRoute())
            }
        }
    }
}

/// An open image and how controllers show it.
struct NVMeDisk {
    private let store: FileStore
    private let controller: NVMeController.Options

    /// - Throws: `Failure` when the image cannot be had.
    init(_ options: NVMeOptions) throws {
        do throws(ImageError) {
            store = try FileStore(
                path: options.image, byteCount: options.size,
                blockSize: options.blockSize == 4096 ? .bytes4096 : .bytes512, isReadOnly: options.readOnly ?? false)
        } catch {
            throw Failure(message: "\(error)")
        }
        let serial =
            options.serial.flatMap { NVMeController.SerialNumber($0) }
            ?? NVMeController.SerialNumber(derivedFrom: absolutePath(options.image))
        var controller = NVMeController.Options(serial: serial)
        if let queues = options.queues { controller.queuePairs = queues }
        self.controller = controller
    }

    func makeDevice(route: any DMARoute) throws(Errno) -> any Device {
        try NVMeController.makeFunction(store: store, options: controller, route: route)
    }
}

/// The one name of an existing file that does not depend on where the tool was started; `path` itself if there is none.
private func absolutePath(_ path: String) -> String {
    guard let resolved = unsafe realpath(path, nil) else { return path }
    defer { unsafe free(resolved) }
    return unsafe String(cString: resolved)
}
