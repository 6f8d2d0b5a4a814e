import Testing
import VFIOUserWire

@Suite struct `Region info` {
    private let info = RegionInfo(
        index: 4, flags: [.read, .write, .mappable], size: 0x8000, mappingOffset: 0x10_0000,
        capabilities: [
            .mappableAreas([.init(offset: 0, size: 0x1000), .init(offset: 0x4000, size: 0x2000)]),
            .mappableMSIX,
        ])

    /// S67
    @Test(arguments: [32, 33, 87])
    func `that does not fit is cut to its fixed part, without a sign of capabilities`(room: Int) throws {
        #expect(info.requiredReplySize == 88)
        #expect(!info.fits(room))
        let bytes = MessageWriter.bytes { info.write(to: &$0, maximumReplySize: room) }
        #expect(bytes.count == 32)
        #expect(Array(bytes[0..<4]) == u32(88))
        #expect(Array(bytes[4..<8]) == u32(0b0111))
        #expect(Array(bytes[12..<16]) == u32(0))
        let read = try RegionInfo(parsing: bytes.span)
        #expect(read.requiredReplySize == 88)
        #expect(read.flags == info.flags)
    }

    /// S67
    @Test(arguments: [88, 89, Int(UInt32.max)])
    func `that fits has its capabilities in one chain`(room: Int) throws {
        #expect(info.fits(room))
        let bytes = MessageWriter.bytes { info.write(to: &$0, maximumReplySize: room) }
        #expect(bytes.count == 88)
        #expect(Array(bytes[4..<8]) == u32(0b1111))
        #expect(Array(bytes[12..<16]) == u32(32))
        #expect(Array(bytes[36..<40]) == u32(80))
        #expect(Array(bytes[84..<88]) == u32(0))
        #expect(try RegionInfo(parsing: bytes.span) == info)
    }

    @Test func `a chain that leaves the message is refused`() {
        for offset in [1, 31, 85, 88, 0xffff_ffff] as [UInt32] {
            #expect(throws: WireError.brokenCapabilityChain(offset: Int(offset))) {
                try RegionInfo(parsing: bytes(replacing: 12, with: offset).span)
            }
        }
    }

    @Test func `a chain that turns back is refused`() {
        for offset in [32, 39, 16] as [UInt32] {
            #expect(throws: WireError.brokenCapabilityChain(offset: Int(offset))) {
                try RegionInfo(parsing: bytes(replacing: 36, with: offset).span)
            }
        }
    }

    @Test func `more areas than the message holds are refused`() {
        for count in [4, 0x1000_0000, 0xffff_ffff] as [UInt32] {
            #expect(throws: WireError.countTooLarge(maximum: 2, actual: UInt64(count))) {
                try RegionInfo(parsing: bytes(replacing: 40, with: count).span)
            }
        }
    }

    private func bytes(replacing offset: Int, with value: UInt32) -> [UInt8] {
        var bytes = MessageWriter.bytes { info.write(to: &$0, maximumReplySize: .max) }
        bytes.replaceSubrange(offset..<(offset + 4), with: u32(value))
        return bytes
    }
}

@Suite struct `Region I/O descriptors` {
    private let entries: [RegionIODescriptor] = [
        .init(offset: 0x1000, size: 4, descriptorIndex: 0, flags: 1, kind: .event(dataMatch: 5)),
        .init(offset: 0x2000, size: 0, descriptorIndex: 1, kind: .region(userData: 6)),
    ]

    /// S72
    @Test func `that do not fit are counted but not listed`() throws {
        let descriptors = RegionIODescriptors(index: 0, entries: entries)
        let bytes = MessageWriter.bytes { descriptors.write(to: &$0, maximumReplySize: 95) }
        #expect(bytes == fields(u32(96), u32(0), u32(0), u32(2)))
        let read = try RegionIODescriptors(parsing: bytes.span)
        #expect(read.entries.isEmpty)
        #expect(read.requiredReplySize == 96)
    }

    @Test func `longer entries of another server are read by their distance`() throws {
        let descriptors = RegionIODescriptors(index: 0, entries: entries)
        var bytes = MessageWriter.bytes { descriptors.write(to: &$0, maximumReplySize: 96) }
        bytes.insert(contentsOf: u64(0xaa), at: 56)
        bytes += u64(0xbb)
        bytes.replaceSubrange(0..<4, with: u32(112))
        #expect(try RegionIODescriptors(parsing: bytes.span).entries == entries)
    }

    /// The reference server's shadow ioeventfds have 48 bytes and kind 2.
    @Test func `entries of a kind of another server are kept apart and spoil no others`() throws {
        let descriptors = RegionIODescriptors(index: 0, entries: entries)
        var bytes = MessageWriter.bytes { descriptors.write(to: &$0, maximumReplySize: 96) }
        bytes.insert(contentsOf: u64(0xaa), at: 56)
        bytes += u64(0xbb)
        bytes.replaceSubrange(0..<4, with: u32(112))
        bytes.replaceSubrange(36..<40, with: u32(2))
        let read = try RegionIODescriptors(parsing: bytes.span)
        #expect(read.entries.map(\.kind) == [.other(2), .region(userData: 6)])
        #expect(read.entries.map(\.offset) == [0x1000, 0x2000])
    }

    @Test func `a distance below an entry is refused`() {
        for count in [3, 0xffff_ffff] as [UInt32] {
            let descriptors = RegionIODescriptors(index: 0, entries: entries)
            var bytes = MessageWriter.bytes { descriptors.write(to: &$0, maximumReplySize: 96) }
            bytes.replaceSubrange(12..<16, with: u32(count))
            #expect(throws: WireError.sizeMismatch(stated: UInt64(count), actual: 80)) {
                try RegionIODescriptors(parsing: bytes.span)
            }
        }
    }
}

@Suite struct `Device features and migration` {
    /// S85
    @Test func `operations that contradict each other are refused`() throws {
        let accepted: Set<UInt32> = [0x1_0000, 0x2_0000, 0x4_0000, 0x5_0000, 0x6_0000, 0x7_0000]
        for bits in 0..<UInt32(8) {
            let flags = bits << 16
            let payload = fields(u32(64), u32(flags | 11))
            if accepted.contains(flags) {
                let feature = try DeviceFeature(parsing: payload.span)
                #expect(feature.feature == .sharedBuffer)
                #expect(feature.operations.rawValue == flags)
            } else {
                #expect(throws: WireError.conflictingFlags(flags)) { try DeviceFeature(parsing: payload.span) }
            }
        }
    }

    @Test func `a reply that repeats the request has to fit`() throws {
        for flags in [0x2_0002, 0x4_0002] as [UInt32] {
            let payload = fields(u32(15), u32(flags), u64(1))
            #expect(throws: WireError.argumentSizeTooSmall(minimum: 16, actual: 15)) {
                try DeviceFeature(parsing: payload.span)
            }
        }
        #expect(try DeviceFeature(parsing: fields(u32(8), u32(0x1_0001), u64(1)).span).maximumReplySize == 8)
    }

    @Test func `state has to fit the reply it is asked for in`() {
        #expect(throws: WireError.argumentSizeTooSmall(minimum: 4104, actual: 4103)) {
            try MigrationDataRequest(parsing: fields(u32(4103), u32(4096)).span)
        }
        #expect(throws: WireError.sizeMismatch(stated: 4, actual: 3)) {
            try MigrationData(parsing: fields(u32(12), u32(4), [1, 2, 3]).span)
        }
    }

    @Test func `a server that sends its whole buffer is understood`() throws {
        #expect(try MigrationData(parsingReply: fields(u32(16), u32(3), u64(0)).span).count == 3)
        #expect(throws: WireError.sizeMismatch(stated: 9, actual: 8)) {
            try MigrationData(parsingReply: fields(u32(16), u32(9), u64(0)).span)
        }
    }
}
