/// What has to be the same in two devices for one to take the other's state.
public struct StateIdentity: Hashable, Sendable {
    /// Something the user chose, or that follows from it, and that a guest can tell: a size, a serial number.
    public struct Property: Hashable, Sendable {
        public let name, value: String

        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    /// Of names and values no more than this is compared.
    static let maximumTextByteCount = 255
    static let maximumPropertyCount = 64

    /// The kind of device, such as `nvme`.
    public let device: String
    /// Counts the forms that the kind's state has had.
    public let version: UInt32
    public let properties: [Property]

    /// - Precondition: there are at most 64 properties, with names of their own.
    public init(device: String, version: UInt32, properties: [Property] = []) {
        precondition(properties.count <= Self.maximumPropertyCount, "a device has more properties than a state tells")
        precondition(
            Set(properties.map(\.name)).count == properties.count, "two properties of a device have the same name")
        self.device = device
        self.version = version
        self.properties = properties
    }

    func write(to writer: inout StateWriter) {
        writer.append(text: device)
        writer.append(version)
        writer.append(count: properties.count)
        for property in properties {
            writer.append(text: property.name)
            writer.append(text: property.value)
        }
    }

    /// Reads an identity that another device has written and compares it.
    ///
    /// - Throws: the first difference, as far as there is one.
    func compare(with reader: inout StateReader) throws(StateError) {
        let kind = try reader.text()
        guard kind == StateWriter.plain(device) else { throw .otherDevice(kind) }
        let number = try reader.integer(UInt32.self)
        guard number == version else { throw .otherVersion(number) }
        var there: [String: String] = [:]
        for _ in 0..<(try reader.count(atMost: Self.maximumPropertyCount, "number of properties")) {
            let name = try reader.text()
            there[name] = try reader.text()
        }
        for property in properties {
            let (name, here) = (StateWriter.plain(property.name), StateWriter.plain(property.value))
            let value = there.removeValue(forKey: name)
            guard value == here else { throw .otherProperty(name, here: here, there: value ?? "") }
        }
        if let (name, value) = there.min(by: { $0.key < $1.key }) {
            throw .otherProperty(name, here: "", there: value)
        }
    }
}

/// Why bytes are not a state that a device can take. Nothing of the device has changed.
public enum StateError: Error, Hashable, Sendable {
    /// They are not a saved state at all.
    case notAState
    /// They are one in a form that is not known here.
    case unknownFormat(UInt32)
    case tooLong
    case tooShort
    case trailingBytes
    /// They are not what was saved: a checksum does not fit.
    case damaged
    /// They are the state of another kind of device.
    case otherDevice(String)
    /// They are the state of another version of the device.
    case otherVersion(UInt32)
    /// They are the state of a device that was made differently; an empty value stands for a property that is not there.
    case otherProperty(String, here: String, there: String)
    /// What they say cannot be: the name of the first thing that is wrong.
    case impossible(String)
}
