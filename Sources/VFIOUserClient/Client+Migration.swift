import LinuxHost
import VFIOUserNegotiation
public import VFIOUserWire

/// Features that a device has or has not. `VFIO_USER_DEVICE_FEATURE`
extension Client {
    /// Whether the device has a feature, with all of some operations.
    public func hasFeature(
        _ feature: DeviceFeature.Feature, _ operations: DeviceFeature.Operations = []
    ) throws(ClientError) -> Bool {
        do throws(ClientError) {
            _ = try perform(feature, operations.union(.probe), replyByteCount: 0)
            return true
        } catch .refused {
            return false
        }
    }

    /// Uses a feature and returns the data of the answer.
    func perform(
        _ feature: DeviceFeature.Feature, _ operations: DeviceFeature.Operations, replyByteCount: Int,
        _ writeData: (inout MessageWriter) -> Void = { _ in }
    ) throws(ClientError) -> [UInt8] {
        var data = MessageWriter(capacity: 64)
        writeData(&data)
        let request = DeviceFeature(
            feature: feature, operations: operations,
            argumentSize: DeviceFeature.byteCount + max(replyByteCount, data.bytes.count))
        let reply = try perform(.deviceFeature(request), data: data.bytes)
        let answer = try parse(reply) { (payload) throws(WireError) in try DeviceFeature(parsingReply: payload) }
        guard answer.feature == feature else { throw closeAfterUnexpected(reply) }
        return Array(reply.payload[DeviceFeature.dataOffset...])
    }

    /// Parses the data of an answer; what cannot be parsed closes the connection.
    private func parse<Value>(
        _ data: [UInt8], _ body: (Span<UInt8>) throws(WireError) -> Value
    ) throws(ClientError) -> Value {
        do throws(WireError) {
            return try body(data.span)
        } catch {
            conversation.close()
            throw .malformed(error)
        }
    }
}

/// Migration: a device's state is saved here and restored there.
///
///     running ──saveState()──▶ stop-copy        resuming ──restoreState(_:)──▶ stop ──▶ running
extension Client {
    /// How the device can migrate. `VFIO_DEVICE_FEATURE_MIGRATION`
    ///
    /// - Throws: `refused` for a device that cannot.
    public func migrationAbilities() throws(ClientError) -> MigrationAbilities {
        let data = try perform(.migration, .get, replyByteCount: MigrationAbilities.byteCount)
        return try parse(data) { (data) throws(WireError) in try MigrationAbilities(parsing: data) }
    }

    /// The state that the device is in. `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`
    public func migrationState() throws(ClientError) -> MigrationState {
        let data = try perform(.migrationDeviceState, .get, replyByteCount: MigrationDeviceState.byteCount)
        return try parse(data) { (data) throws(WireError) in try MigrationDeviceState(parsing: data).state }
    }

    /// Brings the device to a state, through others if need be.
    ///
    /// - Throws: `refused`, after which the device may be in the state that it was in, in one on the way, or in
    ///   `MigrationState.error`, which only a reset ends.
    public func setMigrationState(_ state: MigrationState) throws(ClientError) {
        _ = try perform(.migrationDeviceState, .set, replyByteCount: MigrationDeviceState.byteCount) {
            MigrationDeviceState(state).write(to: &$0)
        }
    }

    /// The next bytes of the device's state, at most `count`; fewer, or none, when there are no more. In
    /// `MigrationState.preCopy` there may be more later. `VFIO_USER_MIG_DATA_READ`
    public func readMigrationData(atMost count: Int) throws(ClientError) -> [UInt8] {
        let reply = try perform(.readMigrationData(MigrationDataRequest(count: min(count, maximumMigrationData))))
        let answer = try parse(reply) { (payload) throws(WireError) in try MigrationData(parsingReply: payload) }
        guard answer.count <= count else { throw closeAfterUnexpected(reply) }
        return Array(reply.payload[MigrationData.dataOffset..<MigrationData.dataOffset + answer.count])
    }

    /// Hands over bytes of a state, in as many messages as it takes. `VFIO_USER_MIG_DATA_WRITE`
    public func writeMigrationData(_ bytes: some Collection<UInt8>) throws(ClientError) {
        var rest = Array(bytes)[...]
        while !rest.isEmpty {
            let part = Array(rest.prefix(maximumMigrationData))
            _ = try perform(.writeMigrationData(MigrationData(count: part.count)), data: part)
            rest = rest.dropFirst(part.count)
        }
    }

    /// Everything that can be read now, to its end.
    ///
    /// - Parameter limit: more bytes than this close the connection, for a server might never come to an end.
    public func readAllMigrationData(limit: Int = 1 << 30) throws(ClientError) -> [UInt8] {
        var bytes: [UInt8] = []
        while true {
            let count = maximumMigrationData
            let part = try readMigrationData(atMost: count)
            bytes += part
            if part.count < count { return bytes }
            guard bytes.count <= limit else {
                conversation.close()
                throw .unexpectedReply(.readMigrationData)
            }
        }
    }

    /// Stops the device and returns its state. The device stays stopped, in `MigrationState.stopCopy`.
    public func saveState() throws(ClientError) -> [UInt8] {
        try setMigrationState(.stopCopy)
        return try readAllMigrationData()
    }

    /// Gives the device a state that another one has saved. It is stopped afterwards and goes on when it is brought to
    /// `MigrationState.running`.
    ///
    /// - Throws: `refused` for a state that it cannot take; unless it is reset, it is in `MigrationState.error` then.
    public func restoreState(_ bytes: some Collection<UInt8>) throws(ClientError) {
        try setMigrationState(.resuming)
        do throws(ClientError) {
            try writeMigrationData(bytes)
        } catch .refused(let command, let errorNumber) {
            // The server knows already that this comes to nothing. It says so once more, and the device is in error.
            try? setMigrationState(.stop)
            throw .refused(command, errorNumber: errorNumber)
        }
        try setMigrationState(.stop)
    }

    private var maximumMigrationData: Int {
        min(agreement.sending.maximumTransferSize, agreement.receiving.maximumTransferSize)
    }
}

/// Which pages of memory a device has written to.
extension Client {
    /// Has the device's writes noted from now on.
    ///
    /// - Parameter ranges: where; everywhere if there are none.
    /// - Returns: the page size that the server works with.
    public func startDMALogging(
        pageSize: UInt64 = DMALoggingReport.minimumPageSize, ranges: [ClosedRange<UInt64>] = []
    ) throws(ClientError) -> UInt64 {
        let request = StartDMALogging(pageSize: pageSize, ranges: ranges)
        let data = try perform(.startDMALogging, .set, replyByteCount: 0) { request.write(to: &$0) }
        return try parse(data) { (data) throws(WireError) in try StartDMALogging(parsing: data).pageSize }
    }

    public func stopDMALogging() throws(ClientError) {
        _ = try perform(.stopDMALogging, .set, replyByteCount: 0)
    }

    /// The first addresses of the pages in a range that were written to since they were asked for last.
    ///
    /// - Throws: `malformed` for a range or page size that cannot be, and `refused` for one whose bitmap no message holds.
    public func readDirtyPages(
        at address: UInt64, byteCount: UInt64, pageSize: UInt64 = DMALoggingReport.minimumPageSize
    ) throws(ClientError) -> [UInt64] {
        let request: DMALoggingReport
        do throws(WireError) {
            request = try DMALoggingReport(address: address, byteCount: byteCount, pageSize: pageSize)
        } catch {
            throw .malformed(error)
        }
        guard request.bitmapByteCount <= UInt64(maximumMigrationData) else { throw .notAgreed }
        let size = DMALoggingReport.byteCount + Int(request.bitmapByteCount)
        let data = try perform(.reportDMALogging, .get, replyByteCount: size) { request.write(to: &$0) }
        let answer = try parse(data) { (data) throws(WireError) in try DMALoggingReport(parsing: data) }
        guard answer == request, data.count == size else {
            conversation.close()
            throw .unexpectedReply(.deviceFeature)
        }
        // Bits for pages behind the range mean nothing.
        let lastPage = Int((request.addresses.upperBound - address) / pageSize)
        return (0...lastPage).compactMap { page in
            let byte = data[DMALoggingReport.byteCount + page / 8]
            return byte >> UInt8(page % 8) & 1 == 0 ? nil : address + UInt64(page) * pageSize
        }
    }
}
