import JSONText

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

    /// The elements of an array of objects; `nil` without the array.
    mutating func objects(_ name: String, _ requirement: String) throws(ConfigurationError) -> [MemberReader]? {
        guard let elements = try optional(name, requirement, { $0.elements }) else { return nil }
        var readers: [MemberReader] = []
        for (index, element) in elements.enumerated() {
            readers.append(try MemberReader(element, path: "\(path(to: name))[\(index)]"))
        }
        return readers
    }

    /// Whether the member is there and has not been taken.
    func has(_ name: String) -> Bool { rest.contains { $0.name == name } }

    /// Refuses members that nobody has asked for: in a file written by hand they are spelling mistakes.
    func finish() throws(ConfigurationError) {
        if let member = rest.first { throw ConfigurationError(path(to: member.name), "is not known here") }
    }

    /// The path of a member, whether it is there or not.
    func path(to name: String) -> String {
        path.isEmpty ? name : "\(path).\(name)"
    }

    private mutating func take(_ name: String) -> JSONValue? {
        guard let index = rest.firstIndex(where: { $0.name == name }) else { return nil }
        return rest.remove(at: index).value
    }
}

/// What a socket path must be: the kernel's `sockaddr_un` has 108 bytes, the last of them NUL.
let socketPathRequirement = "must be a path of 1 to 107 bytes"

extension JSONValue {
    var socketPath: String? {
        string.flatMap { (1...107).contains($0.utf8.count) ? $0 : nil }
    }

    func count(in range: ClosedRange<Int>) -> Int? {
        wholeNumber.flatMap { Int(exactly: $0) }.flatMap { range.contains($0) ? $0 : nil }
    }
}
