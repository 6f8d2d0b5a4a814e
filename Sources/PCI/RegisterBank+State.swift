public import DeviceModel

extension RegisterBank {
    /// Appends the values of all registers, for a device's state.
    public func save(into writer: inout StateWriter) {
        writer.append(count: bytes.count)
        writer.append(bytes: bytes)
    }

    /// Registers as a state has them.
    ///
    /// What neither software nor the device can change has to be as after reset: those bits say what the device is, and are
    /// the same in every device that may take the state. Reserved bits are zero.
    ///
    /// - Parameter changedByDevice: the registers with read-only fields that the device changes, besides those that are
    ///   declared with the read hook.
    public init(
        _ map: RegisterMap<ID>, from reader: inout StateReader, changedByDevice: Set<ID> = []
    ) throws(StateError) {
        self.init(map)
        try reader.require(try reader.count(atMost: map.byteCount, "registers") == map.byteCount, "registers")
        let saved = try reader.bytes(map.byteCount)
        for place in 0..<map.byteCount {
            var changeable = map.replaced[place] | map.cleared[place] | map.set[place]
            if map.owner[place] != RegisterMap<ID>.none {
                let register = map.declarations[Int(map.owner[place])]
                if register.hooks.contains(.read) || changedByDevice.contains(register.id) {
                    let declared = register.fields.reduce(0) { $0 | $1.mask }
                    changeable |= declared.byte(place - register.offset)
                }
            }
            try reader.require(
                saved[place] & ~changeable == bytes[place] & ~changeable, "register byte 0x\(String(place, radix: 16))")
        }
        bytes = saved
    }
}
