import BlockStorage

/// What never changes while a controller lives: names, limits, and the shape of its one namespace.
struct ControllerIdentity: Sendable {
    /// From the numbers that Red Hat, who owns QEMU's, leaves to devices without a registration. QEMU's own NVMe number
    /// (0010) would have Linux ignore the identifiers of the namespace, for an old mistake of that device.
    static let vendorID: UInt16 = 0x1b36
    static let deviceID: UInt16 = 0x00f0
    static let subsystemVendorID: UInt16 = 0x1af4
    static let subsystemID: UInt16 = 0x1100

    /// Entries that an I/O queue can have. Linux asks for no more.
    static let maximumQueueEntries = 1024
    /// Transfers of up to 1 MiB: it bounds what a command can make us allocate, and a list of regions takes two reads.
    static let maximumTransferShift: UInt8 = 8
    static let maximumTransferByteCount: UInt64 = 4096 << UInt64(maximumTransferShift)
    /// Abort commands that a host may have outstanding. They end at once, so any number will do.
    static let abortLimit = 4
    /// Requests for asynchronous events that can be parked, and events that can wait for one.
    static let eventRequestLimit = 4
    static let errorLogEntryCount = 64
    /// What a device without a sensor says of its temperature: 25 °C.
    static let temperatureKelvin: UInt16 = 298
    /// From where on a temperature is told of as too high, and as critical; what the standard recommends, and 100 °C.
    static let warningTemperatureKelvin: UInt16 = 0x157
    static let criticalTemperatureKelvin: UInt16 = 0x175
    static let firmware = PaddedText("1.0", byteCount: 8)

    let queuePairs: Int
    /// How many workers may be busy when another takes up an I/O command.
    let ioWorkers: Int
    let blockSize: BlockSize
    let namespace: IdentifyNamespace
    let controllerBytes: [UInt8]

    /// One of them is there for admin commands when all others are busy.
    var workerCount: Int { ioWorkers + 1 }

    /// Interrupt vectors: one for the admin queues and one for each pair of I/O queues.
    var vectorCount: Int { queuePairs + 1 }

    init(_ options: NVMeController.Options, store: any BlockStore) {
        queuePairs = options.queuePairs
        ioWorkers = options.workers
        blockSize = store.blockSize
        let hash = StableHash(options.serial.text.utf8).bytes
        let second = StableHash("nguid \(options.serial.text)".utf8).bytes
        // No organization is behind the identifiers: the bit for local administration is set in this one, which QEMU
        // uses in the same way.
        let organization: [UInt8] = [0x52, 0x54, 0x00]
        namespace = IdentifyNamespace(
            blockCount: store.blockCount, blockShift: UInt8(store.blockSize.rawValue.trailingZeroBitCount),
            isWriteProtected: store.isReadOnly,
            deallocatedBlocksReadZeroes: store.deallocatedContents == .zeroes,
            // File systems keep files in pages of this size.
            preferredGranularity: UInt16(4096 / store.blockSize.rawValue),
            extendedIdentifier: organization + hash.prefix(5),
            globalIdentifier: second + organization + hash.prefix(5), uniqueIdentifier: Self.uuid(second + hash))
        controllerBytes =
            IdentifyController(
                vendorID: Self.vendorID, subsystemVendorID: Self.subsystemVendorID,
                serial: PaddedText(options.serial.text, byteCount: NVMeController.SerialNumber.maximumByteCount),
                model: PaddedText(options.model, byteCount: 40), firmware: Self.firmware, controllerID: 0,
                maximumTransferShift: Self.maximumTransferShift, organization: organization,
                abortLimit: Self.abortLimit, eventRequestLimit: Self.eventRequestLimit,
                errorLogEntryCount: Self.errorLogEntryCount,
                warningTemperatureKelvin: Self.warningTemperatureKelvin,
                criticalTemperatureKelvin: Self.criticalTemperatureKelvin,
                capacityByteCount: store.blockCount * store.blockSize.byteCount,
                qualifiedName: Self.qualifiedName(Self.uuid(hash + second))
            ).bytes
    }

    /// A UUID of version 8, whose contents are ours to choose.
    private static func uuid(_ digest: [UInt8]) -> [UInt8] {
        var uuid = digest
        uuid[6] = uuid[6] & 0x0f | 0x80
        uuid[8] = uuid[8] & 0x3f | 0x80
        return uuid
    }

    /// A name in the form that needs no registered domain.
    private static func qualifiedName(_ uuid: [UInt8]) -> String {
        let digits = uuid.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
        let groups = [0..<4, 4..<6, 6..<8, 8..<10, 10..<16].map { digits[$0].joined() }
        return "nqn.2014-08.org.nvmexpress:uuid:" + groups.joined(separator: "-")
    }
}
