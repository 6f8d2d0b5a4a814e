/// What a write does to the bits of a field, and what a read shows.
public enum FieldAccess: Sendable, Hashable {
    /// Writes change nothing. RO
    case readOnly
    /// Reads show what was written. RW
    case readWrite
    /// A one clears the bit, a zero leaves it. RW1C
    case writeOneToClear
    /// A one sets the bit, a zero leaves it; the device clears it. RW1S
    case writeOneToSet
    /// Reads show zero; the device is told what was written. WO
    case writeOnly

    /// The abbreviation that register tables use.
    public var abbreviation: String {
        switch self {
        case .readOnly: "RO"
        case .readWrite: "RW"
        case .writeOneToClear: "RW1C"
        case .writeOneToSet: "RW1S"
        case .writeOnly: "WO"
        }
    }
}

/// Some bits of a register that belong together.
public struct RegisterField: Sendable, Hashable {
    public let name: String
    /// Bit numbers within the register, both ends included.
    public let bits: ClosedRange<Int>
    public let access: FieldAccess

    public init(_ name: String, _ bits: ClosedRange<Int>, _ access: FieldAccess) {
        self.name = name
        self.bits = bits
        self.access = access
    }

    public init(_ name: String, _ bit: Int, _ access: FieldAccess) {
        self.init(name, bit...bit, access)
    }

    /// The field's bits, in place.
    public var mask: UInt64 {
        let ones = bits.count == 64 ? UInt64.max : (1 << UInt64(bits.count)) - 1
        return ones << UInt64(bits.lowerBound)
    }

    /// The field's value in `registerValue`, shifted down.
    public func value(in registerValue: UInt64) -> UInt64 {
        (registerValue & mask) >> UInt64(bits.lowerBound)
    }
}

/// When a device takes part in an access to a register.
public struct RegisterHooks: OptionSet, Sendable, Hashable {
    public let rawValue: UInt8

    public init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// The device supplies the value at every read.
    public static let read = RegisterHooks(rawValue: 1)
    /// The device is told of every write.
    public static let write = RegisterHooks(rawValue: 2)
}

/// A register as its standard's table has it: where it is, how wide, what it holds after reset, and who may change what.
///
/// Bits that no field covers are reserved: they read as zero and ignore writes.
public struct RegisterDeclaration<ID: Hashable & Sendable>: Sendable {
    public let id: ID
    public let name: String
    /// In bytes from the start of the map.
    public let offset: Int
    /// 1, 2, 4 or 8.
    public let byteCount: Int
    public let resetValue: UInt64
    public let fields: [RegisterField]
    public let hooks: RegisterHooks

    public init(
        _ id: ID, _ name: String, at offset: Int, byteCount: Int, reset resetValue: UInt64 = 0,
        fields: [RegisterField], hooks: RegisterHooks = []
    ) {
        self.id = id
        self.name = name
        self.offset = offset
        self.byteCount = byteCount
        self.resetValue = resetValue
        self.fields = fields
        self.hooks = hooks
    }

    /// A register all of whose bits are one field.
    public init(
        _ id: ID, _ name: String, at offset: Int, byteCount: Int, reset resetValue: UInt64 = 0,
        _ access: FieldAccess, hooks: RegisterHooks = []
    ) {
        self.init(
            id, name, at: offset, byteCount: byteCount, reset: resetValue,
            fields: [RegisterField(name, 0...(byteCount * 8 - 1), access)], hooks: hooks)
    }

    /// The bits of every field with one of `kinds`.
    func mask(of kinds: Set<FieldAccess>) -> UInt64 {
        fields.reduce(0) { kinds.contains($1.access) ? $0 | $1.mask : $0 }
    }
}
