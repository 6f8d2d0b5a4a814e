import VFIOUserCheck

/// What a step of a session can be.
extension Script {
    mutating func step() throws(Finding) {
        switch choices.byte() {
        case 0..<4: try raw()
        case 4..<40: try dispatch(map())
        case 40..<56: try dispatch(unmap())
        case 56..<60: try dispatch(deviceInfo())
        case 60..<68:
            try dispatch(
                Wish(
                    Number.getRegionInfo,
                    described(choices.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]), byteCount: 32)))
        case 68..<72:
            try dispatch(
                Wish(Number.getRegionIODescriptors, described(choices.pick([0, 1, 1, 2, 7, 9]), byteCount: 16)))
        case 72..<76: try dispatch(Wish(Number.getInterruptInfo, described(choices.below(7), byteCount: 16)))
        case 76..<100: try dispatch(setInterrupts())
        case 100..<120: try dispatch(readRegion())
        case 120..<150: try dispatch(writeRegion())
        case 150..<156: try dispatch(writeRegions())
        case 156..<160: try dispatch(Wish(Number.resetDevice, []))
        case 160..<168: try dispatch(feature())
        case 168..<172: try dispatch(migrationData())
        case 172..<175: try dispatch(Wish(UInt16(choices.pick([0, 11, 12, 14, 19, 99, 65535])), choices.raw(16)))
        case 175..<190: try driveDevice()
        case 190..<214: try transfer()
        case 214..<220: try command()
        case 220..<226: try peer.settle()
        case 226..<229: try waitForDevice()
        case 229: try spoilTwin()
        case 230..<236: peer.honesty = choices.pick(Peer.Honesty.allCases)
        case 236..<239: peer.answerLate()
        case 239..<242: try answerNothing()
        case 242..<244: peer.files.signal(choices.below(3))
        case 244..<246: try ring()
        case 246..<248: try takeEverythingAway()
        case 248..<250: try migrate()
        default: try introduceMemory()
        }
    }

    /// Bytes as they are: a message that somebody has recorded, or nonsense.
    private mutating func raw() throws(Finding) {
        let count = choices.below(1 << 16) & 0x3ff
        let descriptors = choices.byte()
        let kinds =
            descriptors < 128 ? [] : [GuestFiles.Kind.allCases[Int(descriptors) % GuestFiles.Kind.allCases.count]]
        let bytes = choices.raw(min(count, 1024))
        if !bytes.isEmpty { try deliver(bytes, kinds) }
    }
}

/// Messages about memory.
extension Script {
    /// An address that mappings are at, or near, or one at an edge.
    mutating func address() -> UInt64 {
        let way = choices.byte()
        if way < 240 { return UInt64(way & 31) << 12 }
        return way < 248 ? ~0xfff &- UInt64(way & 7) << 12 : choices.edge()
    }

    private mutating func size() -> UInt64 {
        let way = choices.byte()
        return way < 248 ? UInt64(1 + way & 7) << 12 : choices.edge()
    }

    private mutating func map() -> Wish {
        let address = address()
        let size = size()
        let rights = choices.pick([3, 3, 3, 1, 2, 7, 11, 15, 0, 5, 9] as [UInt32])
        let offset = choices.chance(240) ? UInt64(choices.byte() & 15) << 12 : choices.edge()
        var kinds: [GuestFiles.Kind] = []
        let way = choices.byte()
        switch way {
        case 0..<128: kinds = [.memory]
        case 128..<176: kinds = []
        default: kinds = [choices.pick(GuestFiles.Kind.allCases)]
        }
        return Wish(Number.mapDMA, bytes(.u32(32), .u32(rights), .u64(offset), .u64(address), .u64(size)), kinds)
    }

    private mutating func unmap() -> Wish {
        let way = choices.byte()
        switch way {
        case 0..<200:
            return Wish(Number.unmapDMA, bytes(.u32(24), .u32(0), .u64(address()), .u64(size())))
        case 200..<220:
            return Wish(Number.unmapDMA, bytes(.u32(24), .u32(0), .u64(0), .u64(1 << 20)))
        case 220..<232: return Wish(Number.unmapDMA, bytes(.u32(24), .u32(2), .u64(0), .u64(0)))
        case 232..<244: return Wish(Number.unmapDMA, bytes(.u32(24), .u32(0), .u64(0), .u64(0)))
        default:
            return Wish(
                Number.unmapDMA,
                bytes(.u32(UInt32(choices.byte()) + 24), .u32(1), .u64(address()), .u64(size()), .u64(4096), .u64(8)))
        }
    }

    /// Lets the device see all of the first file, so that what it does with memory succeeds.
    mutating func introduceMemory() throws(Finding) {
        let isShared = choices.chance(192)
        let size = UInt64(GuestFiles.byteCounts[0])
        let payload = bytes(.u32(32), .u32(3), .u64(0), .u64(0), .u64(size))
        try deliver(message(Number.mapDMA, id: newID(), payload), isShared ? [.memory] : [])
        if device.kind != .window { try writeRegister(7, at: 4, bytes(.u16(6))) }
    }

    /// Unmaps everything and waits for the answer. From then on no byte of a file changes.
    private mutating func takeEverythingAway() throws(Finding) {
        try peer.settle()
        guard peer.canSend, peer.isAtBoundary, peer.model.phase == .serving else { return }
        try peer.queue(message(Number.unmapDMA, id: newID(), bytes(.u32(24), .u32(2), .u64(0), .u64(0))))
        try peer.settle()
        // What was asked over a second socket before the answer was.
        try peer.receiveAll()
        guard !peer.isClosed else { return }
        try peer.files.verify(except: peer.touched)
        peer.forgetAllMappings()
        try peer.files.renew()
    }
}

/// Messages about the device.
extension Script {
    private mutating func deviceInfo() -> Wish {
        Wish(Number.getDeviceInfo, bytes(.u32(UInt32(choices.pick([16, 32, 16, 15]))), .zeros(12)))
    }

    /// A question about something that has a number.
    private mutating func described(_ index: Int, byteCount: Int) -> [UInt8] {
        let room = byteCount + choices.pick([0, 0, 32, 256])
        return bytes(.u32(UInt32(room)), .u32(0), .u32(UInt32(index)), .zeros(byteCount - 12))
    }

    private mutating func setInterrupts() -> Wish {
        let index = choices.below(6)
        let vectors = index < 5 ? device.vectorCounts[index] : 1
        let start = UInt32(choices.below(4)) % max(1, vectors)
        let room = max(1, vectors) - start
        let count = choices.chance(224) ? choices.pick([1, 1, room, room, 0]) : UInt32(choices.below(20))
        let way = choices.byte()
        let action = [32, 32, 32, 16, 8][Int(way >> 2) % 5] as UInt32
        let start2 = count == 0 ? 0 : start
        func fields(_ data: UInt32, _ action: UInt32, _ more: [UInt8] = []) -> [UInt8] {
            bytes(
                .u32(UInt32(20 + more.count)), .u32(data | action), .u32(UInt32(index)), .u32(start2), .u32(count),
                .raw(more))
        }
        switch way & 3 {
        case 0: return Wish(Number.setInterrupts, fields(1, count == 0 ? 32 : action))
        case 1: return Wish(Number.setInterrupts, fields(2, action, choices.raw(Int(count))))
        default:
            var kinds: [GuestFiles.Kind] = []
            if choices.chance(200) {
                let counters: [GuestFiles.Kind] = [
                    .counter, .secondCounter, .thirdCounter, .fullCounter, .counter, .memory,
                ]
                for _ in 0..<count { kinds.append(choices.pick(counters)) }
            }
            return Wish(Number.setInterrupts, fields(4, action), kinds)
        }
    }

    /// A region, and an offset that something is at.
    private mutating func place() -> (region: UInt32, offset: UInt64) {
        let known = choices.pick(device.interestingOffsets)
        let offset = choices.chance(224) ? choices.pick(known.offsets) : UInt64(choices.below(0x4000))
        return choices.chance(8) ? (UInt32(choices.below(11)), choices.edge()) : (known.region, offset)
    }

    private mutating func readRegion() -> Wish {
        let place = place()
        let count = choices.chance(8) ? choices.edge() : choices.pick([1, 2, 4, 4, 8, 8, 3, 16, 64, 0])
        return Wish(
            Number.readRegion, bytes(.u64(place.offset), .u32(place.region), .u32(UInt32(truncatingIfNeeded: count))))
    }

    private mutating func writeRegion() -> Wish {
        let place = place()
        let count = choices.pick([1, 2, 4, 4, 4, 8, 8, 0, 12, 40])
        let data = choices.raw(count)
        return Wish(
            Number.writeRegion, bytes(.u64(place.offset), .u32(place.region), .u32(UInt32(count)), .raw(data)))
    }

    private mutating func writeRegions() -> Wish {
        let count = choices.below(6)
        var payload = bytes(.u64(UInt64(count)))
        for _ in 0..<count {
            let place = place()
            payload += bytes(
                .u64(place.offset), .u32(place.region), .u32(UInt32(choices.below(9))),
                .u64(choices.number(byteCount: 8)))
        }
        return Wish(Number.writeRegions, payload)
    }

    private mutating func feature() -> Wish {
        let number = choices.pick([1, 2, 6, 7, 8, 11, 3] as [UInt32])
        let operation = choices.pick([1, 2, 4, 5, 6, 3, 0, 7] as [UInt32]) << 16
        var data: [UInt8] = []
        switch number {
        case 2: data = bytes(.u32(UInt32(choices.below(9))), .u32(0))
        case 6: data = bytes(.u64(4096), .u32(1), .u32(0), .u64(address()), .u64(size()))
        case 8: data = bytes(.u64(address()), .u64(size()), .u64(4096))
        case 11: data = bytes(.zeros(32))
        default: break
        }
        let room = UInt32(8 + data.count + choices.pick([0, 64, 0, 4096]))
        return Wish(Number.deviceFeature, bytes(.u32(room), .u32(number | operation), .raw(data)))
    }

    private mutating func migrationData() -> Wish {
        let count = choices.pick([8, 64, 4096, 0, 1 << 20])
        if choices.chance(128) {
            return Wish(Number.readMigrationData, bytes(.u32(UInt32(8 + count)), .u32(UInt32(count))))
        }
        let data = choices.raw(min(count, 64))
        return Wish(
            Number.writeMigrationData, bytes(.u32(UInt32(8 + data.count)), .u32(UInt32(data.count)), .raw(data)))
    }

    /// Rings a doorbell of the device, and asks for them before if need be.
    private mutating func ring() throws(Finding) {
        if !peer.hasBells {
            let region: UInt32 = device.kind == .window ? 1 : 0
            let payload = bytes(.u32(512), .u32(0), .u32(region), .u32(0))
            try peer.queue(message(Number.getRegionIODescriptors, id: newID(), payload))
            try peer.settle()
        }
        for _ in 0...choices.below(3) { peer.ring(choices.below(8)) }
    }

    /// An answer to something that the server has not asked, or has asked before.
    private mutating func answerNothing() throws(Finding) {
        let command = choices.pick([Number.readClientMemory, Number.writeClientMemory, Number.readRegion, 0])
        let payload = choices.chance(128) ? [] : bytes(.u64(address()), .u64(16), .raw(choices.raw(16)))
        let flags = choices.pick([HeaderFlags.reply, HeaderFlags.reply | HeaderFlags.error])
        if payload.isEmpty { peer.mayBeTakenForLegacy = true }
        try peer.queue(message(command, id: UInt16(choices.below(20)), flags: flags, payload))
    }
}

/// What a driver in the guest does.
extension Script {
    mutating func writeRegister(_ region: UInt32, at offset: UInt64, _ data: [UInt8]) throws(Finding) {
        let payload = bytes(.u64(offset), .u32(region), .u32(UInt32(data.count)), .raw(data))
        try peer.queue(message(Number.writeRegion, id: newID(), payload))
    }

    /// Small things that a driver does with each device.
    private mutating func driveDevice() throws(Finding) {
        switch device.kind {
        case .edu:
            switch choices.below(4) {
            case 0: try writeRegister(0, at: 0x08, bytes(.u32(UInt32(choices.byte()))))
            case 1: try writeRegister(0, at: 0x60, bytes(.u32(UInt32(choices.byte()))))
            case 2: try writeRegister(0, at: 0x64, bytes(.u32(0xffff_ffff)))
            default: try writeRegister(0, at: 0x20, bytes(.u32(0x80)))
            }
        case .nvme:
            if choices.chance(128) {
                try bringUpNVMe()
            } else {
                try enableNVMe()
            }
        case .window: try writeRegister(1, at: 16, bytes(.u64(UInt64(choices.byte()))))
        case .copyEngine: try driveCopyEngine()
        }
    }

    /// Lets the device reach for guest memory.
    private mutating func transfer() throws(Finding) {
        switch device.kind {
        case .edu:
            let count = choices.pick([16, 4096, 1, 100, 4095, 4097])
            let local = 0x40000 + UInt64(choices.pick([0, 0, 1, 0x800]))
            let remote = address() &+ UInt64(choices.pick([0, 0, 1, 0xff8]))
            let isFromDevice = choices.chance(128)
            try writeRegister(0, at: 0x80, bytes(.u64(isFromDevice ? local : remote)))
            try writeRegister(0, at: 0x88, bytes(.u64(isFromDevice ? remote : local)))
            try writeRegister(0, at: 0x90, bytes(.u64(UInt64(count))))
            try writeRegister(0, at: 0x98, bytes(.u64(isFromDevice ? 7 : 1)))
        case .nvme: try command()
        case .window:
            try writeRegister(1, at: choices.chance(64) ? 8 : 0, bytes(.u64(address() & ~0xfff)))
        case .copyEngine: try useCopyEngine()
        }
        if choices.chance(160) { try waitForDevice() }
    }

    /// Asks the device a few times whether it has done what it was told, and answers what it asks meanwhile.
    private mutating func waitForDevice() throws(Finding) {
        try peer.settle()
        let (offset, busy, attempts): (UInt64, UInt8, Int) =
            switch device.kind {
            case .edu: (0x98, 1, 8)
            // Nothing in their registers tells whether they are at work.
            case .nvme: (0x1c, 0xff, 4)
            case .copyEngine: (0x14, 0xff, 4)
            case .window: (0, 0, 0)
            }
        for _ in 0..<attempts {
            guard peer.canSend, peer.isAtBoundary, peer.model.phase == .serving else { return }
            let payload = bytes(.u64(offset), .u32(0), .u32(4))
            try peer.queue(message(Number.readRegion, id: newID(), payload))
            try peer.settle()
            if let last = peer.lastRead.dropFirst(headerSize + 16).first, last & busy == 0 { return }
        }
    }
}

/// A driver of NVMe.
extension Script {
    /// Queues of 16 entries at fixed places of the first file.
    private static let submissionQueues: [UInt64] = [0x1000, 0x3000]
    private static let completionQueues: [UInt64] = [0x2000, 0x4000]
    private static let entryCount: UInt32 = 16

    private mutating func enableNVMe() throws(Finding) {
        try writeRegister(7, at: 4, bytes(.u16(6)))
        let choice = choices.byte()
        if choice & 3 == 3 { try writeRegister(0, at: 0x14, bytes(.u32(0))) }
        let last = Self.entryCount - 1
        try writeRegister(0, at: 0x24, bytes(.u32(last | last << 16)))
        try writeRegister(0, at: 0x28, bytes(.u64(choice == 255 ? address() : Self.submissionQueues[0])))
        try writeRegister(0, at: 0x30, bytes(.u64(choice == 254 ? address() : Self.completionQueues[0])))
        try writeRegister(0, at: 0x14, bytes(.u32(choice == 253 ? UInt32(choices.number(byteCount: 4)) : 0x0046_0001)))
        tails = [0, 0]
    }

    /// A command into one of the queues, and the ring of its doorbell; for other devices nothing.
    private mutating func command() throws(Finding) {
        guard device.kind == .nvme else { return }
        let queue = choices.chance(128) ? 1 : 0
        var entry = [UInt8](repeating: 0, count: 64)
        let opcodes: [UInt8] = queue == 0 ? [6, 5, 1, 9, 10, 2, 12, 8, 0, 4] : [2, 1, 0, 8, 9, 5, 4]
        entry[0] = choices.chance(8) ? choices.byte() : choices.pick(opcodes)
        entry[1] = choices.chance(4) ? choices.byte() : 0
        entry.put(UInt64(choices.byte()), at: 2, byteCount: 2)
        entry.put(choices.chance(16) ? choices.edge() : 1, at: 4, byteCount: 4)
        entry.put(address() &+ UInt64(choices.pick([0, 0, 0, 8, 0xff8])), at: 24, byteCount: 8)
        entry.put(address(), at: 32, byteCount: 8)
        if queue == 0, entry[0] == 1 || entry[0] == 5 {
            entry = Self.queueCreation(entry[0])
        } else {
            entry.put(UInt64(choices.byte() & 31), at: 40, byteCount: 4)
            entry.put(UInt64(choices.pick([0, 0, 1, 255])), at: 44, byteCount: 4)
            entry.put(UInt64(choices.byte()), at: 48, byteCount: 4)
        }
        if choices.chance(24) { entry[choices.below(64)] = choices.byte() }
        try submit(entry, to: queue, doorbell: choices.chance(8) ? UInt32(choices.byte()) : nil)
        try peer.sendAnswers()
    }

    /// All that a driver does before its first read: memory, admin queues, the pair of I/O queues.
    private mutating func bringUpNVMe() throws(Finding) {
        try introduceMemory()
        try enableNVMe()
        try peer.settle()
        for opcode in [5, 1] as [UInt8] {
            try submit(Self.queueCreation(opcode), to: 0, doorbell: nil)
            try waitForDevice()
        }
    }

    /// The admin command that creates the I/O completion queue (5) or submission queue (1).
    private static func queueCreation(_ opcode: UInt8) -> [UInt8] {
        var entry = [UInt8](repeating: 0, count: 64)
        entry[0] = opcode
        entry.put(opcode == 1 ? submissionQueues[1] : completionQueues[1], at: 24, byteCount: 8)
        entry.put(UInt64(1 | (entryCount - 1) << 16), at: 40, byteCount: 4)
        entry.put(opcode == 1 ? 1 | 1 << 16 : 3 | 1 << 16, at: 44, byteCount: 4)
        return entry
    }

    /// Puts an entry where the driver thinks that the device sees it, and rings.
    private mutating func submit(_ entry: [UInt8], to queue: Int, doorbell: UInt32?) throws(Finding) {
        try peer.put(entry, at: Self.submissionQueues[queue] + UInt64(tails[queue] * 64))
        tails[queue] = (tails[queue] + 1) % Self.entryCount
        let value = doorbell ?? tails[queue]
        try writeRegister(0, at: 0x1000 + UInt64(queue) * 8, bytes(.u32(value)))
        if choices.chance(128) { try writeRegister(0, at: 0x1004 + UInt64(queue) * 8, bytes(.u32(value))) }
    }
}
