import VFIOUserCheck

/// A driver of the copy engine.
extension Script {
    /// Where the rings are in the first file, with 64 entries of 64 bytes, or 32.
    private static let commandRing: UInt64 = 0x1000
    private static let workRing: UInt64 = 0x3000
    private static let pageRing: UInt64 = 0x5000
    private static let entryCount: UInt32 = 64

    /// Describes the rings, now and then wrongly, and enables the device or disables it.
    mutating func enableCopyEngine() throws(Finding) {
        try writeRegister(7, at: 4, bytes(.u16(6)))
        let choice = choices.byte()
        if choice & 3 == 3 { try writeRegister(0, at: 0x10, bytes(.u32(0))) }
        let rings = [(0x20, Self.commandRing), (0x40, Self.workRing), (0x60, Self.pageRing)] as [(UInt64, UInt64)]
        for (number, (registers, base)) in rings.enumerated() {
            let isMisplaced = Int(choice) == 255 - number
            try writeRegister(0, at: registers, bytes(.u64(isMisplaced ? address() : base)))
            let size = Int(choice) == 250 - number ? UInt32(choices.number(byteCount: 4)) : Self.entryCount
            try writeRegister(0, at: registers + 8, bytes(.u32(size)))
        }
        try writeRegister(0, at: 0x10, bytes(.u32(1)))
        tails = [0, 0]
    }

    /// What the driver does with page requests that it may not even have looked at, and with indices.
    mutating func driveCopyEngine() throws(Finding) {
        switch choices.below(8) {
        case 0: try enableCopyEngine()
        case 1: try writeRegister(0, at: 0x6c, bytes(.u32(UInt32(choices.below(70)))))
        case 2: try writeRegister(0, at: choices.pick([0x30, 0x50]), bytes(.u32(UInt32(choices.below(70)))))
        case 3, 4, 5: try submitCommand(0x15)
        case 6: try writeRegister(0, at: choices.pick([0x10, 0x2e, 0x51]), choices.raw(choices.pick([1, 2, 4])))
        default: try writeRegister(0, at: 0x10, bytes(.u32(0)))
        }
    }

    /// A command or a piece of work, which nearly makes sense.
    mutating func useCopyEngine() throws(Finding) {
        switch choices.below(10) {
        case 0: try submitCommand(0x11)
        case 1: try submitCommand(0x12)
        case 2, 3: try submitCommand(0x13)
        case 4: try submitCommand(0x14)
        case 5: try submitCommand(choices.byte())
        default:
            var entry = descriptor(choices.chance(8) ? choices.byte() : UInt8(choices.pick([1, 1, 2, 0])))
            entry.put(choices.pick([0, 0, 1, 2, 1023]), at: 4, byteCount: 4)
            if choices.chance(200) {
                entry.put(UInt64(choices.pick([1, 8, 4096, 0x8000, 0x12345])), at: 32, byteCount: 8)
            }
            try submit(entry, to: 1)
        }
    }

    private mutating func submitCommand(_ opcode: UInt8) throws(Finding) {
        var entry = descriptor(opcode)
        switch opcode {
        case 0x11: entry.put(UInt64(choices.below(2)), at: 2, byteCount: 2)
        case 0x13: entry.put(3, at: 2, byteCount: 2)
        case 0x15:
            // Cookies count from one.
            entry = [UInt8](repeating: 0, count: 64)
            entry[0] = opcode
            entry[2] = UInt8(choices.below(2))
            entry.put(UInt64(choices.byte() & 15), at: 16, byteCount: 8)
        default: break
        }
        if opcode == 0x11 || opcode == 0x12 { entry.replaceSubrange(16..<40, with: repeatElement(0, count: 24)) }
        if opcode == 0x14 { entry.replaceSubrange(16..<24, with: repeatElement(0, count: 8)) }
        try submit(entry, to: 0)
    }

    /// Fields that commands and work have in common.
    private mutating func descriptor(_ opcode: UInt8) -> [UInt8] {
        var entry = [UInt8](repeating: 0, count: 64)
        entry[0] = opcode
        let hasCompletion = choices.chance(128)
        entry[1] = (hasCompletion ? 1 : 0) | (choices.chance(128) ? 2 : 0)
        entry.put(choices.pick([1, 1, 2, 1023, 0, 1024]), at: 8, byteCount: 4)
        entry.put(address(), at: 16, byteCount: 8)
        entry.put(address(), at: 24, byteCount: 8)
        entry.put(UInt64(choices.pick([1, 1, 2, 16])) << 12, at: 32, byteCount: 8)
        if hasCompletion { entry.put(0x6000 + UInt64(choices.below(64)) * 32, at: 40, byteCount: 8) }
        entry.put(UInt64(choices.byte()), at: 48, byteCount: 8)
        return entry
    }

    /// Puts an entry where the driver thinks that the device sees it, and rings.
    private mutating func submit(_ entry: [UInt8], to ring: Int) throws(Finding) {
        var entry = entry
        if choices.chance(16) { entry[choices.below(64)] = choices.byte() }
        try peer.put(entry, at: [Self.commandRing, Self.workRing][ring] + UInt64(tails[ring] * 64))
        tails[ring] = (tails[ring] + 1) % Self.entryCount
        try writeRegister(0, at: [0x30, 0x50][ring], bytes(.u32(tails[ring])))
        try peer.sendAnswers()
    }
}
