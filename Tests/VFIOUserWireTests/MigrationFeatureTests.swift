import Testing
import VFIOUserWire

@Suite struct `Data of the migration features` {
    @Test func `states have the kernel's numbers, and others are refused`() throws {
        let names: [MigrationState] = [
            .error, .stop, .running, .stopCopy, .resuming, .runningPeerToPeer, .preCopy, .preCopyPeerToPeer,
        ]
        for (number, state) in names.enumerated() {
            let data = fields(u32(UInt32(number)), u32(9))
            let read = try MigrationDeviceState(parsing: data.span)
            #expect(read == MigrationDeviceState(state, descriptor: 9))
            #expect(MessageWriter.bytes { read.write(to: &$0) } == data)
        }
        for number in [8, 255, .max] as [UInt32] {
            #expect(throws: WireError.unknownValue(UInt64(number))) {
                try MigrationDeviceState(parsing: fields(u32(number), u32(0)).span)
            }
        }
        #expect(throws: WireError.payloadTooShort(minimum: 8, actual: 7)) {
            try MigrationDeviceState(parsing: [UInt8](repeating: 0, count: 7).span)
        }
    }

    @Test func `no device migrates without stopping and copying`() throws {
        #expect(try MigrationAbilities(parsing: u64(5).span) == [.stopCopy, .preCopy])
        #expect(try MigrationAbilities(parsing: u64(1 << 40 | 3).span).contains([.stopCopy, .peerToPeer]))
        #expect(throws: WireError.unknownValue(4)) { try MigrationAbilities(parsing: u64(4).span) }
        #expect(throws: WireError.payloadTooShort(minimum: 8, actual: 0)) {
            try MigrationAbilities(parsing: [UInt8]().span)
        }
    }

    @Test func `a start of logging names its ranges, or none`() throws {
        for ranges in [[], [0...0xfff], [0x1000...0x1fff, .max - 4095 ... .max, 0...0]] as [[ClosedRange<UInt64>]] {
            let request = StartDMALogging(pageSize: 8192, ranges: ranges)
            let data = MessageWriter.bytes { request.write(to: &$0) }
            #expect(data.count == 16 + 16 * ranges.count)
            #expect(try StartDMALogging(parsing: data.span) == request)
            for count in 0..<data.count {
                #expect(throws: WireError.self) { try StartDMALogging(parsing: data.span.extracting(0..<count)) }
            }
        }
    }

    @Test func `a start of logging that makes no sense is refused`() {
        func error(_ data: [UInt8]) -> WireError? {
            do throws(WireError) {
                _ = try StartDMALogging(parsing: data.span)
                return nil
            } catch {
                return error
            }
        }
        let range = fields(u64(0x1000), u64(0x1000))
        #expect(error(fields(u64(4096), u32(1), u32(0), range)) == nil)
        #expect(error(fields(u64(4095), u32(1), u32(0), range)) == .unknownValue(4095))
        #expect(error(fields(u64(0), u32(0), u32(0))) == .unknownValue(0))
        #expect(error(fields(u64(4096), u32(0), u32(1))) == .reservedBits(1))
        #expect(error(fields(u64(4096), u32(257), u32(0))) == .countTooLarge(maximum: 256, actual: 257))
        #expect(error(fields(u64(4096), u32(.max), u32(0))) == .countTooLarge(maximum: 256, actual: 0xffff_ffff))
        #expect(error(fields(u64(4096), u32(2), u32(0), range, range)) == .unknownValue(0x1000))
        #expect(error(fields(u64(4096), u32(1), u32(0), u64(1), u64(0))) == .emptyRange)
        #expect(
            error(fields(u64(4096), u32(1), u32(0), u64(2), u64(.max))) == .rangeOverflow(start: 2, byteCount: .max))
    }

    @Test(
        arguments: [
            (0, 4096, 4096, 8), (0, 64 << 12, 4096, 8), (0, 65 << 12, 4096, 16), (4096, 1, 4096, 8),
            (0, 1 << 62, 1 << 62, 8), (1 << 63, 1 << 63, 4096, 1 << 48),
        ] as [(UInt64, UInt64, UInt64, UInt64)])
    func `a report has a bit for each page, in whole words`(
        address: UInt64, size: UInt64, pageSize: UInt64, bitmap: UInt64
    ) throws {
        let data = fields(u64(address), u64(size), u64(pageSize))
        let report = try DMALoggingReport(parsing: data.span)
        #expect(report.bitmapByteCount == bitmap)
        #expect(MessageWriter.bytes { report.write(to: &$0) } == data)
        for count in 0..<data.count {
            #expect(throws: WireError.payloadTooShort(minimum: 24, actual: count)) {
                try DMALoggingReport(parsing: data.span.extracting(0..<count))
            }
        }
    }

    @Test func `a report that makes no sense is refused`() {
        func error(_ address: UInt64, _ size: UInt64, _ pageSize: UInt64) -> WireError? {
            do throws(WireError) {
                _ = try DMALoggingReport(parsing: fields(u64(address), u64(size), u64(pageSize)).span)
                return nil
            } catch {
                return error
            }
        }
        #expect(error(0, 4096, 0) == .unknownValue(0))
        #expect(error(0, 4096, 2048) == .unknownValue(2048))
        #expect(error(0, 4096, 12288) == .unknownValue(12288))
        #expect(error(4097, 4096, 4096) == .unknownValue(4097))
        #expect(error(0, 0, 4096) == .emptyRange)
        #expect(error(.max - 4095, 4097, 4096) == .rangeOverflow(start: .max - 4095, byteCount: 4097))
    }
}
