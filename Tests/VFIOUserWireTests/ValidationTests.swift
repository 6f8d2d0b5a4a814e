import Testing
import VFIOUserWire

@Suite struct `Mapping and unmapping` {
    private func map(
        argsz: UInt32 = 32, flags: UInt32 = 3, offset: UInt64 = 0, address: UInt64, size: UInt64
    ) -> [UInt8] {
        fields(u32(argsz), u32(flags), u64(offset), u64(address), u64(size))
    }

    private func unmap(argsz: UInt32 = 24, flags: UInt32 = 0, address: UInt64, size: UInt64) -> [UInt8] {
        fields(u32(argsz), u32(flags), u64(address), u64(size))
    }

    @Test func `a map may end at the very top of the space`() throws {
        let message = try MapDMA(parsing: map(address: .max - 4095, size: 4096).span)
        #expect(message.addresses == (.max - 4095) ... .max)
    }

    /// S42
    @Test func `a map that is empty or wraps is refused`() {
        #expect(throws: WireError.emptyRange) { try MapDMA(parsing: map(address: 4096, size: 0).span) }
        #expect(throws: WireError.rangeOverflow(start: .max - 4095, byteCount: 4097)) {
            try MapDMA(parsing: map(address: .max - 4095, size: 4097).span)
        }
        #expect(throws: WireError.rangeOverflow(start: .max, byteCount: 4096)) {
            try MapDMA(parsing: map(offset: .max, address: 0, size: 4096).span)
        }
        #expect(throws: WireError.rangeOverflow(start: 2, byteCount: .max)) {
            try MapDMA(parsing: map(address: 2, size: .max).span)
        }
    }

    /// S38, S53
    @Test func `an argsz below the layout is refused`() {
        #expect(throws: WireError.argumentSizeTooSmall(minimum: 32, actual: 31)) {
            try MapDMA(parsing: map(argsz: 31, address: 0, size: 4096).span)
        }
        #expect(throws: WireError.argumentSizeTooSmall(minimum: 24, actual: 23)) {
            try UnmapDMA(parsing: unmap(argsz: 23, address: 0, size: 4096).span)
        }
        #expect(throws: WireError.argumentSizeTooLarge(maximum: 1 << 20, actual: (1 << 20) + 1)) {
            try UnmapDMA(parsing: unmap(argsz: (1 << 20) + 1, address: 0, size: 4096).span)
        }
    }

    /// S50, S51
    @Test func `an unmap can reach the top, or everything in two spellings`() throws {
        let top = try UnmapDMA(parsing: unmap(address: 0xfef0_0000, size: 0 &- 0xfef0_0000).span)
        #expect(top.scope == .addresses(0xfef0_0000 ... .max))
        #expect(try UnmapDMA(parsing: unmap(flags: 2, address: 0, size: 0).span).scope == .everything)
        #expect(try UnmapDMA(parsing: unmap(address: 0, size: 0).span).scope == .everything)
        for (address, size) in [(4096, 0), (0, 4096)] as [(UInt64, UInt64)] {
            #expect(throws: WireError.conflictingFlags(2)) {
                try UnmapDMA(parsing: unmap(flags: 2, address: address, size: size).span)
            }
        }
        #expect(throws: WireError.emptyRange) { try UnmapDMA(parsing: unmap(address: 4096, size: 0).span) }
    }

    /// S52
    @Test func `a dirty bitmap needs room, a page size and no other flag`() {
        func bitmap(argsz: UInt32, flags: UInt32 = 1, pageSize: UInt64, size: UInt64) -> [UInt8] {
            unmap(argsz: argsz, flags: flags, address: 0, size: 4096) + u64(pageSize) + u64(size)
        }
        #expect(throws: WireError.conflictingFlags(3)) {
            try UnmapDMA(parsing: bitmap(argsz: 48, flags: 3, pageSize: 4096, size: 8).span)
        }
        #expect(throws: WireError.argumentSizeTooSmall(minimum: 40, actual: 39)) {
            try UnmapDMA(parsing: bitmap(argsz: 39, pageSize: 4096, size: 0).span)
        }
        #expect(throws: WireError.countTooLarge(maximum: 7, actual: 8)) {
            try UnmapDMA(parsing: bitmap(argsz: 47, pageSize: 4096, size: 8).span)
        }
        #expect(throws: WireError.countTooLarge(maximum: 8, actual: .max)) {
            try UnmapDMA(parsing: bitmap(argsz: 48, pageSize: 4096, size: .max).span)
        }
        for pageSize in [0, 3, 4097, .max] as [UInt64] {
            #expect(throws: WireError.unknownValue(pageSize)) {
                try UnmapDMA(parsing: bitmap(argsz: 48, pageSize: pageSize, size: 8).span)
            }
        }
    }
}

@Suite struct `Setting interrupts` {
    private func message(_ flags: UInt32, start: UInt32 = 0, count: UInt32 = 1, data: [UInt8] = []) -> [UInt8] {
        fields(u32(20 + UInt32(data.count)), u32(flags), u32(2), u32(start), u32(count), data)
    }

    /// S81: of the 64 combinations of the six flags nine are requests.
    @Test func `exactly one kind of data and one action`() throws {
        var accepted = 0
        for flags in 0..<UInt32(64) {
            let payload = message(flags, data: flags & 2 == 0 ? [] : [1])
            let isValid = (flags & 7).nonzeroBitCount == 1 && (flags >> 3).nonzeroBitCount == 1
            if isValid {
                _ = try SetInterrupts(parsing: payload.span)
                accepted += 1
            } else {
                #expect(throws: WireError.conflictingFlags(flags)) { try SetInterrupts(parsing: payload.span) }
            }
        }
        #expect(accepted == 9)
    }

    @Test func `no vector at all means the whole index and nothing else`() throws {
        let disable = try SetInterrupts(parsing: message(0x21, count: 0).span)
        #expect(disable.disablesIndex)
        #expect(throws: WireError.emptyRange) { try SetInterrupts(parsing: message(0x21, start: 1, count: 0).span) }
        for flags in [0x09, 0x11, 0x22, 0x24, 0x0a, 0x14] as [UInt32] {
            #expect(throws: WireError.emptyRange) { try SetInterrupts(parsing: message(flags, count: 0).span) }
        }
    }

    @Test func `vectors past 32 bits are refused`() throws {
        #expect(throws: WireError.rangeOverflow(start: UInt64(UInt32.max), byteCount: 1)) {
            try SetInterrupts(parsing: message(0x24, start: .max, count: 1).span)
        }
        let last = try SetInterrupts(parsing: message(0x24, start: .max - 1, count: 1).span)
        #expect(last.vectors == (.max - 1)..<(.max))
    }

    /// S77
    @Test func `booleans have to be as many as the vectors`() throws {
        #expect(try SetInterrupts(parsing: message(0x22, count: 3, data: [0, 1, 0]).span).data == .booleans)
        #expect(throws: WireError.sizeMismatch(stated: 3, actual: 2)) {
            try SetInterrupts(parsing: message(0x22, count: 3, data: [0, 1]).span)
        }
        #expect(throws: WireError.sizeMismatch(stated: 0xffff_fff0, actual: 2)) {
            try SetInterrupts(parsing: message(0x22, count: 0xffff_fff0, data: [0, 1]).span)
        }
    }
}

@Suite struct `Accesses` {
    /// S92
    @Test func `a region write has exactly as many bytes as it says`() throws {
        for actual in 0..<8 {
            let payload = fields(u64(0), u32(0), u32(4), Array(repeating: 1, count: actual))
            if actual == 4 {
                #expect(try RegionAccess(parsingWithData: payload.span).count == 4)
            } else {
                #expect(throws: WireError.sizeMismatch(stated: 4, actual: actual)) {
                    try RegionAccess(parsingWithData: payload.span)
                }
            }
        }
        let huge = fields(u64(.max), u32(.max), u32(.max))
        #expect(throws: WireError.sizeMismatch(stated: UInt64(UInt32.max), actual: 0)) {
            try RegionAccess(parsingWithData: huge.span)
        }
        #expect(try RegionAccess(parsingWithoutData: huge.span).count == Int(UInt32.max))
    }

    /// S96
    @Test func `several writes are counted without overflow`() throws {
        let one = fields(u64(0x10), u32(2), u32(4), [1, 2, 3, 4, 0xee, 0xee, 0xee, 0xee])
        let message = try WriteRegions(parsing: (u64(1) + one).span)
        let write = try message.write(at: 0, in: (u64(1) + one).span)
        #expect(write == .init(offset: 0x10, region: 2, count: 4, data: 0xeeee_eeee_0403_0201))
        for stated in [0, 2, .max, 1 << 61, (.max / 24) + 2] as [UInt64] {
            #expect(throws: WireError.sizeMismatch(stated: stated, actual: 24)) {
                try WriteRegions(parsing: (u64(stated) + one).span)
            }
        }
        let nine = u64(1) + fields(u64(0), u32(0), u32(9), u64(0))
        #expect(throws: WireError.countTooLarge(maximum: 8, actual: 9)) { try WriteRegions(parsing: nine.span) }
        let many = u64(200) + (0..<200).flatMap { _ in one }
        #expect(try WriteRegions(parsing: many.span).count == 200)
        #expect(try WriteRegions(parsing: u64(0).span).count == 0)
    }

    /// S57
    @Test func `a count of client memory beyond all memory is refused`() {
        #expect(throws: WireError.countTooLarge(maximum: .max, actual: 1 << 63)) {
            try ClientMemoryAccess(parsingWithoutData: (u64(0) + u64(1 << 63)).span)
        }
        #expect(throws: WireError.sizeMismatch(stated: 1 << 40, actual: 0)) {
            try ClientMemoryAccess(parsingWithData: (u64(0) + u64(1 << 40)).span)
        }
    }

    @Test func `a short answer is an answer and a long one is not`() {
        let asked = ClientMemoryAccess(address: 0x1000, count: 64)
        #expect(asked.isAnswered(by: .init(address: 0x1000, count: 64)))
        #expect(asked.isAnswered(by: .init(address: 0x1000, count: 0)))
        #expect(!asked.isAnswered(by: .init(address: 0x1000, count: 65)))
        #expect(!asked.isAnswered(by: .init(address: 0x2000, count: 64)))
    }

    /// S58, S59
    @Test func `QEMU up to 11.0 shows itself by a bare reply and puts data four bytes early`() throws {
        let nothing: [UInt8] = []
        let isLegacy = ClientMemoryAccess.isLegacyWriteReply(nothing.span)
        #expect(isLegacy)
        let reply = fields(u64(0x1000), u32(4), [1, 2, 3, 4], u32(0))
        let access = try LegacyClientMemoryAccess(parsingWithData: reply.span)
        #expect(access == .init(address: 0x1000, count: 4))
        #expect(Array(reply[LegacyClientMemoryAccess.dataOffset...].prefix(access.count)) == [1, 2, 3, 4])
        let request = MessageWriter.bytes { ClientMemoryAccess(address: 0x1000, count: 4).write(to: &$0) }
        #expect(try LegacyClientMemoryAccess(parsingWithoutData: request.span) == access)
    }

    /// S14
    @Test func `each side refuses what only the other may ask`() {
        for command in [Command.readClientMemory, .writeClientMemory] {
            #expect(throws: WireError.wrongDirection(command)) {
                try Request(parsing: (u64(0) + u64(0)).span, command: command)
            }
        }
        for number in 1...18 where number != 11 && number != 12 && number != 14 {
            let command = Command(rawValue: UInt16(number))
            #expect(throws: WireError.wrongDirection(command)) {
                try ServerRequest(parsing: (u64(0) + u64(0)).span, command: command)
            }
        }
    }
}

@Suite struct `Descriptors beside a message` {
    /// S40, S44
    @Test func `a map takes one or none, and one if it says how to use it`() throws {
        let plain = Request.mapDMA(.init(flags: [.read], fileOffset: 0, address: 0, size: 4096))
        try plain.validate(descriptorCount: 0)
        try plain.validate(descriptorCount: 1)
        #expect(throws: WireError.wrongDescriptorCount(expected: 1, actual: 2)) {
            try plain.validate(descriptorCount: 2)
        }
        for flags in [MapDMA.Flags.accessByMapping, .accessByFileIO] {
            let needy = Request.mapDMA(.init(flags: flags, fileOffset: 0, address: 0, size: 4096))
            try needy.validate(descriptorCount: 1)
            #expect(throws: WireError.wrongDescriptorCount(expected: 1, actual: 0)) {
                try needy.validate(descriptorCount: 0)
            }
        }
    }

    /// S74, S75, S81
    @Test func `interrupts take one for each vector or none`() throws {
        let assign = Request.setInterrupts(.init(action: .trigger, data: .descriptors, index: 2, start: 0, count: 3))
        for count in 0...4 {
            if count == 0 || count == 3 {
                try assign.validate(descriptorCount: count)
            } else {
                #expect(throws: WireError.wrongDescriptorCount(expected: 3, actual: count)) {
                    try assign.validate(descriptorCount: count)
                }
            }
        }
        let fire = Request.setInterrupts(.init(action: .trigger, data: .none, index: 2, start: 0, count: 1))
        #expect(throws: WireError.wrongDescriptorCount(expected: 0, actual: 1)) {
            try fire.validate(descriptorCount: 1)
        }
    }

    /// S16, S24
    @Test func `other messages take none`() {
        for request in [Request.version(.init(major: 0, minor: 0)), .resetDevice, .getDeviceInfo(.init())] {
            #expect(throws: WireError.wrongDescriptorCount(expected: 0, actual: 1)) {
                try request.validate(descriptorCount: 1)
            }
        }
    }
}
