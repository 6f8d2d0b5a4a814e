import DMA
import DeviceModel
import VFIOUserNegotiation
import VFIOUserWire

/// Features of the device that a client asks for by number: migration and the logging of writes.
///
/// A device that cannot migrate has none of them, whatever the client has proposed; one that can has them all, for the
/// capability that clients propose is gone from the standard.
extension Session {
    /// Bytes of data in one message that both sides take.
    private var maximumData: Int {
        guard let agreement else { return limits.transferSize }
        return min(agreement.receiving.maximumTransferSize, agreement.sending.maximumTransferSize)
    }

    mutating func useFeature(
        _ request: DeviceFeature, _ payload: Span<UInt8>, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        // Among those that are refused is the one for shared buffers: QEMU would take any success for a descriptor.
        guard migration != nil, let operations = request.feature.operations,
            operations.isSuperset(of: request.operations)
        else { throw .unsupportedFeature }
        let data = payload.extracting(DeviceFeature.dataOffset..<payload.count)
        if request.operations.contains(.probe) {
            reply.answer(header) { writer in
                request.write(to: &writer)
                writer.append(data)
            }
            return
        }
        switch request.feature {
        case .migration:
            try answer(request, header, &reply, byteCount: MigrationAbilities.byteCount) {
                MigrationAbilities([.stopCopy, .preCopy]).write(to: &$0)
            }
        case .migrationDeviceState where request.operations.contains(.get):
            let state = MigrationDeviceState(migration?.machine.state ?? .running)
            try answer(request, header, &reply, byteCount: MigrationDeviceState.byteCount) { state.write(to: &$0) }
        case .migrationDeviceState:
            let wanted = try parse { () throws(WireError) in try MigrationDeviceState(parsing: data) }
            try migration?.bring(to: wanted.state, clientMemory)
            try answer(request, header, &reply, byteCount: MigrationDeviceState.byteCount) { wanted.write(to: &$0) }
        case .startDMALogging:
            var wanted = try parse { () throws(WireError) in try StartDMALogging(parsing: data) }
            try startLogging(wanted)
            wanted.pageSize = max(wanted.pageSize, DMALoggingReport.minimumPageSize)
            reply.answer(header) { writer in
                request.write(to: &writer)
                wanted.write(to: &writer)
            }
        case .stopDMALogging:
            stopLogging()
            reply.answer(header) { request.write(to: &$0) }
        case .reportDMALogging:
            let wanted = try parse { () throws(WireError) in try DMALoggingReport(parsing: data) }
            try report(wanted, request, header, &reply)
        default: throw .unsupportedFeature
        }
    }

    /// Answers with data that the feature has beside the request, if there is room for them.
    private func answer(
        _ request: DeviceFeature, _ header: MessageHeader, _ reply: inout SessionReply, byteCount: Int,
        _ body: (inout MessageWriter) -> Void
    ) throws(RequestRefusal) {
        var answer = request
        answer.argumentSize = DeviceFeature.byteCount + byteCount
        guard request.maximumReplySize >= answer.argumentSize else {
            throw .malformed(
                .argumentSizeTooSmall(minimum: answer.argumentSize, actual: request.maximumReplySize))
        }
        reply.answer(header) { writer in
            answer.write(to: &writer)
            body(&writer)
        }
    }

    private func parse<Value>(_ body: () throws(WireError) -> Value) throws(RequestRefusal) -> Value {
        do throws(WireError) {
            return try body()
        } catch {
            throw .malformed(error)
        }
    }

    var allowsRegionAccess: Bool { migration?.machine.allowsRegionAccess ?? true }

    func requireRegionAccess() throws(RequestRefusal) {
        if let machine = migration?.machine, !machine.allowsRegionAccess { throw .wrongState(machine.state) }
    }

    mutating func readMigrationData(
        _ request: MigrationDataRequest, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        guard migration != nil else { throw .unsupportedFeature }
        guard request.count <= maximumData else { throw .tooManyBytes }
        guard let bytes = try migration?.read(atMost: request.count) else { throw .unsupportedFeature }
        reply.answer(header) { writer in
            MigrationData(count: bytes.count).write(to: &writer)
            writer.append(contentsOf: bytes)
        }
    }

    mutating func writeMigrationData(
        _ request: MigrationData, _ payload: Span<UInt8>
    ) throws(RequestRefusal) {
        guard migration != nil else { throw .unsupportedFeature }
        guard request.count <= maximumIncoming else { throw .tooManyBytes }
        let start = MigrationData.dataOffset
        try migration?.write(payload.extracting(start..<start + request.count))
    }
}

/// The logging of writes by the device.
extension Session {
    private mutating func startLogging(_ wanted: StartDMALogging) throws(RequestRefusal) {
        guard migration?.loggedRanges == nil else { throw .loggingIsOn }
        do throws(DMAError) {
            try space.startDirtyTracking()
        } catch {
            throw .memory(error)
        }
        let ranges = wanted.ranges.map { IOVARange(first: IOVA($0.lowerBound), last: IOVA($0.upperBound)) }
        migration?.loggedRanges = ranges.isEmpty ? [.everything] : ranges
    }

    mutating func stopLogging() {
        guard migration?.loggedRanges != nil else { return }
        migration?.loggedRanges = nil
        space.stopDirtyTracking()
    }

    /// Tells the pages of a range that were written to, and forgets them.
    private func report(
        _ wanted: DMALoggingReport, _ request: DeviceFeature, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        guard let ranges = migration?.loggedRanges else { throw .loggingIsOff }
        guard wanted.bitmapByteCount <= UInt64(maximumData) else { throw .tooManyBytes }
        let bitmapByteCount = Int(wanted.bitmapByteCount)
        var bitmap = [UInt8](repeating: 0, count: header.expectsNoReply ? 0 : bitmapByteCount)
        let place = IOVARange(
            first: IOVA(wanted.addresses.lowerBound), last: IOVA(wanted.addresses.upperBound))
        // Whoever wants no answer has not been told of anything, so nothing is forgotten.
        if !header.expectsNoReply, request.maximumReplySize >= Self.reportByteCount + bitmapByteCount {
            for range in ranges {
                guard let part = range.intersection(place) else { continue }
                space.visitDirty(part) { written in
                    let first = (written.first.rawValue - place.first.rawValue) / wanted.pageSize
                    let last = (written.last.rawValue - place.first.rawValue) / wanted.pageSize
                    for page in first...last { bitmap[Int(page / 8)] |= 1 << UInt8(page % 8) }
                }
            }
        }
        try answer(request, header, &reply, byteCount: DMALoggingReport.byteCount + bitmapByteCount) { writer in
            wanted.write(to: &writer)
            writer.append(contentsOf: bitmap)
        }
    }

    private static var reportByteCount: Int { DeviceFeature.byteCount + DMALoggingReport.byteCount }
}

extension DeviceFeature.Feature {
    /// What can be done with a feature of a device that migrates; `nil` for one that there is not.
    fileprivate var operations: DeviceFeature.Operations? {
        switch self {
        case .migration, .reportDMALogging: [.get, .probe]
        case .migrationDeviceState: [.get, .set, .probe]
        case .startDMALogging, .stopDMALogging: [.set, .probe]
        default: nil
        }
    }
}
