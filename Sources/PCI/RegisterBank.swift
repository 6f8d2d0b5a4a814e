/// A register that an access wrote to, for the device to act on.
public struct RegisterWrite<ID: Hashable & Sendable>: Sendable {
    public let id: ID
    /// The register's value before and after, by the rules of its fields.
    public let old, new: UInt64
    /// The bits that the access carried, whatever the fields made of them; zero in bytes it did not reach.
    public let written: UInt64

    /// Whether the access carried a one for every bit of `mask`.
    public func sets(_ mask: UInt64) -> Bool { written & mask == mask }
}

/// The values of the registers of a map.
///
/// A value: reset makes a new one, so that no register can be forgotten.
public struct RegisterBank<ID: Hashable & Sendable>: Sendable {
    public let map: RegisterMap<ID>
    var bytes: [UInt8]

    /// Every register at its reset value.
    public init(_ map: RegisterMap<ID>) {
        self.map = map
        bytes = map.resetBytes
    }

    /// A register's whole value as the device sees it: it may read what reads hide and change what writes cannot.
    ///
    /// - Precondition: the map declares `id`.
    public subscript(id: ID) -> UInt64 {
        get {
            let register = declaration(of: id)
            return value(at: register.offset, byteCount: register.byteCount)
        }
        set {
            let register = declaration(of: id)
            for byte in 0..<register.byteCount { bytes[register.offset + byte] = newValue.byte(byte) }
        }
    }

    /// Reads `byteCount` (at most 8) bytes at any offset; bytes outside every register are zero.
    ///
    /// - Parameter live: supplies the value of a register that is declared with the read hook.
    public mutating func read(at offset: Int, byteCount: Int, live: (ID) -> UInt64) -> UInt64 {
        map.forEachRegister(touchedAt: offset, byteCount: byteCount) { number in
            let register = map.declarations[number]
            if register.hooks.contains(.read) { self[register.id] = live(register.id) }
        }
        var result: UInt64 = 0
        for byte in 0..<byteCount where map.byteCount > offset + byte {
            let place = offset + byte
            result |= UInt64(bytes[place] & ~map.hidden[place]) << UInt64(byte * 8)
        }
        return result
    }

    /// Writes the `byteCount` (at most 8) low bytes of `value` at any offset, as far as the fields allow.
    ///
    /// - Returns: the registers with the write hook that the access touched, in ascending order.
    public mutating func write(_ value: UInt64, at offset: Int, byteCount: Int) -> [RegisterWrite<ID>] {
        let hooked = map.registers(touchedAt: offset, byteCount: byteCount).filter {
            map.declarations[$0].hooks.contains(.write)
        }
        let old = hooked.map { self[map.declarations[$0].id] }
        for byte in 0..<byteCount where map.byteCount > offset + byte {
            let place = offset + byte
            let written = value.byte(byte)
            var result = bytes[place]
            result = (result & ~map.replaced[place]) | (written & map.replaced[place])
            result &= ~(written & map.cleared[place])
            result |= written & map.set[place]
            bytes[place] = result
        }
        return zip(hooked, old).map { number, old in
            let register = map.declarations[number]
            return RegisterWrite(
                id: register.id, old: old, new: self[register.id],
                written: Self.part(of: value, at: offset, byteCount, within: register))
        }
    }

    private func declaration(of id: ID) -> RegisterDeclaration<ID> {
        guard let number = map.index[id] else { preconditionFailure("register \(id) is not in this map") }
        return map.declarations[number]
    }

    private func value(at offset: Int, byteCount: Int) -> UInt64 {
        var result: UInt64 = 0
        for byte in 0..<byteCount { result |= UInt64(bytes[offset + byte]) << UInt64(byte * 8) }
        return result
    }

    /// The bytes of an access that fall on `register`, moved to where they lie in it.
    private static func part(
        of value: UInt64, at offset: Int, _ byteCount: Int, within register: RegisterDeclaration<ID>
    ) -> UInt64 {
        var result: UInt64 = 0
        for byte in 0..<byteCount {
            let place = offset + byte - register.offset
            if place >= 0, place < register.byteCount { result |= UInt64(value.byte(byte)) << UInt64(place * 8) }
        }
        return result
    }
}
