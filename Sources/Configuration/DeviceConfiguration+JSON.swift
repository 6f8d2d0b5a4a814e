import JSONText

extension DeviceConfiguration {
    init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        let device = try Device(&members)
        let listener = try DeviceConfiguration.readListener(&members)
        let maxClients = try members.optional("maxClients", "must be 1 to 64") {
            $0.count(in: DeviceConfiguration.clientCounts)
        }
        try members.finish()
        self.init(device: device, listener: listener)
        self.maxClients = maxClients
    }

    private static func readListener(_ members: inout MemberReader) throws(ConfigurationError) -> Listener? {
        let path = try members.optional("socketPath", socketPathRequirement) { $0.socketPath }
        let descriptor = try members.optional("fd", "must be the number of an inherited descriptor, 3 or above") {
            $0.wholeNumber.flatMap { $0 >= 3 ? Int32(exactly: $0) : nil }
        }
        switch (path, descriptor) {
        case (nil, nil): return nil
        case (let path?, nil): return .socketPath(path)
        case (nil, let descriptor?): return .descriptor(descriptor)
        case (_?, _?): throw ConfigurationError("fd", "cannot be given together with socketPath")
        }
    }
}

extension DeviceConfiguration.Device {
    private static let names = "nvme, edu, copy-engine or virtio-rng"

    /// Takes the members that say which device it is and how it is.
    init(_ members: inout MemberReader) throws(ConfigurationError) {
        let name = try members.required("device", "must name a device: \(Self.names)") { $0.string }
        switch name {
        case "nvme":
            guard let options = try members.object("options") else {
                throw ConfigurationError(members.path(to: "options.image"), "is missing")
            }
            self = .nvme(try NVMeOptions(options))
        case "edu":
            self = .edu(try members.object("options").map(EduOptions.init) ?? EduOptions())
        case "copy-engine":
            self = .copyEngine(try members.object("options").map(CopyEngineOptions.init) ?? CopyEngineOptions())
        case "virtio-rng":
            try members.object("options")?.finish()
            self = .virtioRNG
        default:
            throw ConfigurationError(members.path(to: "device"), "must be \(Self.names)")
        }
    }
}

extension NVMeOptions {
    init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        self.init(image: try members.required("image", "must be a path") { $0.nonEmptyString })
        blockSize = try members.optional("blockSize", "must be 512 or 4096") {
            $0.wholeNumber.flatMap { Int(exactly: $0) }.flatMap { NVMeOptions.blockSizes.contains($0) ? $0 : nil }
        }
        size = try members.optional("size", "must be a number of bytes, or a text like \"1GiB\"; whole sectors") {
            $0.storageSize?.byteCount
        }
        if let size, size % UInt64(blockSize ?? 512) != 0 {
            throw ConfigurationError(members.path(to: "size"), "must be a multiple of the block size")
        }
        readOnly = try members.optional("readOnly", "must be true or false") { $0.boolean }
        serial = try members.optional("serial", "must be 1 to 20 printable ASCII characters, no space first or last") {
            $0.serial
        }
        queues = try members.optional("queues", "must be 1 to 64") { $0.count(in: NVMeOptions.queueCounts) }
        try members.finish()
    }
}

extension EduOptions {
    init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        self.init()
        dmaMask = try members.optional("dmaMask", "must be 12 to 64 bits") { $0.count(in: EduOptions.dmaMasks) }
        try members.finish()
    }
}

extension CopyEngineOptions {
    init(_ reader: MemberReader) throws(ConfigurationError) {
        var members = reader
        self.init()
        pasids = try members.optional("pasids", "must be 2 to 1048576") { $0.count(in: CopyEngineOptions.pasidCounts) }
        workers = try members.optional("workers", "must be 1 to 64") { $0.count(in: CopyEngineOptions.workerCounts) }
        pageTimeout = try members.optional("pageTimeout", "must be 1 to 3600 seconds") {
            $0.count(in: CopyEngineOptions.pageTimeouts)
        }
        maxMappings = try members.optional("maxMappings", "must be 1 to 16777216") {
            $0.count(in: CopyEngineOptions.mappingCounts)
        }
        try members.finish()
    }
}

extension JSONValue {
    fileprivate var nonEmptyString: String? {
        string.flatMap { $0.isEmpty ? nil : $0 }
    }

    fileprivate var serial: String? {
        nonEmptyString.flatMap { text in
            let isPrintable = text.utf8.allSatisfy { (0x20...0x7e).contains($0) }
            let isPadded = text.utf8.first == UInt8(ascii: " ") || text.utf8.last == UInt8(ascii: " ")
            return isPrintable && !isPadded && text.utf8.count <= NVMeOptions.maximumSerialLength ? text : nil
        }
    }

    fileprivate var storageSize: StorageSize? {
        if let string {
            // Plain digits belong in a number.
            return string.last?.isNumber == true ? nil : StorageSize(string)
        }
        return wholeNumber.flatMap { UInt64(exactly: $0) }.flatMap { StorageSize(byteCount: $0) }
    }
}
