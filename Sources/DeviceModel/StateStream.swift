/// The form in which a device's state goes from one process to another: who it belongs to, then what it is.
///
/// | opening: offset | size | field |
/// |---|---|---|
/// | 0 | 8 | `OUTBOARD` |
/// | 8 | 4 | version of this form, 1 |
/// | 12 | 4 | size of the identity |
/// | 16 | … | identity: kind of device, its version, properties by name and value |
/// | | 4 | checksum of all bytes so far |
///
/// | body: offset | size | field |
/// |---|---|---|
/// | 0 | 8 | size of the state |
/// | 8 | … | the state, as the device saves it |
/// | | 4 | checksum of the body's bytes so far |
///
/// Integers are little-endian; checksums are CRC-32. The opening can be sent while the device still runs, and is checked as
/// soon as it is there, so that a device that does not fit is known before the guest stands still. A checksum finds what was
/// damaged on the way, not what was made up: what a body says is the device's to doubt.
public enum StateStream {
    private static let magic: [UInt8] = Array("OUTBOARD".utf8)
    private static let formatVersion: UInt32 = 1
    /// Where the identity begins, and where in a body the state begins.
    private static let identityOffset = 16
    private static let stateOffset = 8
    private static let checksumByteCount = 4
    /// More than 64 properties with the longest texts.
    private static let maximumIdentityByteCount = 64 << 10
    /// A device that has more to say than this cannot migrate: a receiver holds it all before it looks at it.
    public static let maximumStateByteCount = 16 << 20

    public static func opening(of device: any MigratableDevice) -> [UInt8] {
        var identity = StateWriter()
        device.stateIdentity.write(to: &identity)
        var writer = StateWriter()
        writer.append(bytes: magic)
        writer.append(formatVersion)
        writer.append(count: identity.bytes.count)
        writer.append(bytes: identity.bytes)
        writer.append(CRC32.checksum(of: writer.bytes[...]))
        return writer.bytes
    }

    /// - Precondition: the device is stopped.
    public static func body(of device: any MigratableDevice) -> [UInt8] {
        var state = StateWriter()
        device.saveState(into: &state)
        precondition(state.bytes.count <= maximumStateByteCount, "a device saves more than a stream carries")
        var writer = StateWriter()
        writer.append(UInt64(state.bytes.count))
        writer.append(bytes: state.bytes)
        writer.append(CRC32.checksum(of: writer.bytes[...]))
        return writer.bytes
    }

    /// A stream that is being received, for a device.
    public struct Incoming: Sendable {
        private let identity: StateIdentity
        private var bytes: [UInt8] = []
        /// Where the body begins, once the opening has been found to fit.
        private var bodyStart: Int?

        public init(for device: any MigratableDevice) {
            identity = device.stateIdentity
        }

        /// Takes the next bytes, however many, and refuses what cannot become a state for the device.
        public mutating func append(_ new: Span<UInt8>) throws(StateError) {
            let limit =
                identityOffset + maximumIdentityByteCount + stateOffset + maximumStateByteCount + 2 * checksumByteCount
            guard new.count <= limit - bytes.count else { throw .tooLong }
            bytes.reserveCapacity(bytes.count + new.count)
            for index in 0..<new.count { bytes.append(new[index]) }
            if bodyStart == nil { bodyStart = try checkOpening() }
            if let bodyStart { _ = try stateByteCount(ofBodyAt: bodyStart) }
        }

        /// The whole state, when all of it has come.
        public func finish() throws(StateError) -> StateReader {
            guard let bodyStart, let count = try stateByteCount(ofBodyAt: bodyStart) else { throw .tooShort }
            let checksumStart = bodyStart + stateOffset + count
            let end = checksumStart + checksumByteCount
            guard bytes.count >= end else { throw .tooShort }
            guard bytes.count == end else { throw .trailingBytes }
            try checkChecksum(of: bodyStart..<checksumStart)
            return StateReader(bytes[(bodyStart + stateOffset)..<checksumStart])
        }

        /// Where the opening ends; `nil` while it is not all there.
        private func checkOpening() throws(StateError) -> Int? {
            guard bytes.prefix(magic.count).elementsEqual(magic.prefix(bytes.count)) else { throw .notAState }
            guard bytes.count >= identityOffset else { return nil }
            var reader = StateReader(bytes[magic.count..<identityOffset])
            let version = try reader.integer(UInt32.self)
            guard version == formatVersion else { throw .unknownFormat(version) }
            let end = identityOffset + (try reader.count(atMost: maximumIdentityByteCount, "size of the identity"))
            guard bytes.count >= end + checksumByteCount else { return nil }
            try checkChecksum(of: 0..<end)
            var words = StateReader(bytes[identityOffset..<end])
            try identity.compare(with: &words)
            try words.finish()
            return end + checksumByteCount
        }

        private func stateByteCount(ofBodyAt start: Int) throws(StateError) -> Int? {
            guard bytes.count >= start + stateOffset else { return nil }
            var reader = StateReader(bytes[start..<start + stateOffset])
            guard let count = Int(exactly: try reader.integer(UInt64.self)), count <= maximumStateByteCount else {
                throw .tooLong
            }
            return count
        }

        private func checkChecksum(of range: Range<Int>) throws(StateError) {
            var reader = StateReader(bytes[range.upperBound..<range.upperBound + checksumByteCount])
            guard try reader.integer(UInt32.self) == CRC32.checksum(of: bytes[range]) else { throw .damaged }
        }
    }
}

/// The checksum of IEEE 802.3, which finds every change of one bit and of up to 32 in a row.
private enum CRC32 {
    private static let table: [UInt32] = (0..<256).map { number in
        (0..<8).reduce(UInt32(number)) { value, _ in value & 1 == 0 ? value >> 1 : value >> 1 ^ 0xedb8_8320 }
    }

    static func checksum(of bytes: ArraySlice<UInt8>) -> UInt32 {
        var value = UInt32.max
        let table = table
        for byte in bytes { value = value >> 8 ^ table[Int(UInt8(truncatingIfNeeded: value) ^ byte)] }
        return ~value
    }
}
