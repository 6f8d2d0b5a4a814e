import JSONText

extension DeviceConfiguration {
    /// Reads a configuration file's text.
    public init(parsing text: [UInt8]) throws(ConfigurationError) {
        let document: JSONValue
        do {
            document = try JSONValue(parsing: text)
        } catch {
            throw ConfigurationError("", DeviceConfiguration.describe(error, in: text))
        }
        var members = try MemberReader(document, path: "")
        let name = try members.required("device", "must name a device: nvme, edu or virtio-rng") { $0.string }
        let listener = try DeviceConfiguration.readListener(&members)
        let maxClients = try members.optional("maxClients", "must be 1 to 64") {
            $0.count(in: DeviceConfiguration.clientCounts)
        }
        let device: Device
        switch name {
        case "nvme":
            guard let options = try members.object("options") else {
                throw ConfigurationError("options.image", "is missing")
            }
            device = .nvme(try NVMeOptions(options))
        case "edu":
            device = .edu(try members.object("options").map(EduOptions.init) ?? EduOptions())
        case "virtio-rng":
            try members.object("options")?.finish()
            device = .virtioRNG
        default:
            throw ConfigurationError("device", "must be nvme, edu or virtio-rng")
        }
        try members.finish()
        self.init(device: device, listener: listener)
        self.maxClients = maxClients
    }

    private static func readListener(_ members: inout MemberReader) throws(ConfigurationError) -> Listener? {
        // The kernel's sockaddr_un has 108 bytes, the last of them NUL.
        let path = try members.optional("socketPath", "must be a path of 1 to 107 bytes") {
            $0.string.flatMap { (1...107).contains($0.utf8.count) ? $0 : nil }
        }
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

    private static func describe(_ error: JSONError, in text: [UInt8]) -> String {
        guard let offset = error.offset else { return "not JSON: \(error)" }
        let before = text.prefix(offset)
        let line = before.count { $0 == UInt8(ascii: "\n") } + 1
        let column = before.reversed().prefix { $0 != UInt8(ascii: "\n") }.count + 1
        return "not JSON: \(error) in line \(line), column \(column)"
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
            throw ConfigurationError("options.size", "must be a multiple of the block size")
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

    fileprivate func count(in range: ClosedRange<Int>) -> Int? {
        wholeNumber.flatMap { Int(exactly: $0) }.flatMap { range.contains($0) ? $0 : nil }
    }
}

/// Takes the members of an object one by one and then finds what is left over.
struct MemberReader {
    /// Of the object itself, from the root.
    private let path: String
    private var rest: [JSONValue.Member]

    init(_ value: JSONValue, path: String) throws(ConfigurationError) {
        guard let members = value.members else { throw ConfigurationError(path, "must be an object") }
        self.path = path
        rest = members
    }

    mutating func optional<Value>(
        _ name: String, _ requirement: String, _ read: (JSONValue) -> Value?
    ) throws(ConfigurationError) -> Value? {
        guard let member = take(name) else { return nil }
        guard let value = read(member) else { throw ConfigurationError(path(to: name), requirement) }
        return value
    }

    mutating func required<Value>(
        _ name: String, _ requirement: String, _ read: (JSONValue) -> Value?
    ) throws(ConfigurationError) -> Value {
        guard let value = try optional(name, requirement, read) else {
            throw ConfigurationError(path(to: name), "is missing")
        }
        return value
    }

    mutating func object(_ name: String) throws(ConfigurationError) -> MemberReader? {
        guard let member = take(name) else { return nil }
        return try MemberReader(member, path: path(to: name))
    }

    /// Refuses members that nobody has asked for: in a file written by hand they are spelling mistakes.
    func finish() throws(ConfigurationError) {
        if let member = rest.first { throw ConfigurationError(path(to: member.name), "is not known here") }
    }

    private func path(to name: String) -> String {
        path.isEmpty ? name : "\(path).\(name)"
    }

    private mutating func take(_ name: String) -> JSONValue? {
        guard let index = rest.firstIndex(where: { $0.name == name }) else { return nil }
        return rest.remove(at: index).value
    }
}
