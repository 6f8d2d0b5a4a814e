import LinuxHost
import VFIOUserWire

/// The memory that a client has mapped for the device, and what of it has changed since it was last looked at.
///
/// It is looked at before each write to a region: a driver has laid out its work in memory by then and leaves it alone
/// until the device is done. What the client changes without telling the device is not seen, nor what it changes between
/// the look and the device's own.
struct MemoryWatch {
    /// Shadows of all files together; a client may share more memory than there is here to remember it.
    private static let maximumKeptByteCount = 2 << 30
    /// Each is kept open; guests have a few.
    private static let maximumFiles = 64

    private final class File {
        var snapshot: FileSnapshot

        init(_ descriptor: consuming OwnedDescriptor) {
            snapshot = FileSnapshot(of: descriptor)
        }
    }

    private struct Mapping {
        var addresses: ClosedRange<UInt64>
        let number: UInt32
        let bytes: Range<Int64>
    }

    private var files: [UInt32: File] = [:]
    private var mappings: [Mapping] = []
    /// Whether memory may have changed, or become more, since it was last looked at.
    private var isStale = true

    /// Begins with messages that have arrived together, and keeps the files that came along, under their numbers.
    ///
    /// - Throws: `EMFILE` and the like when there are no descriptors left for them, `ETOOMANYREFS` for too many files.
    mutating func begin(_ recorded: [RecordedDescriptor], _ bundle: borrowing DescriptorBundle) throws(Errno) {
        isStale = true
        guard recorded.contains(where: { $0.kind == .memory && files[$0.number] == nil }) else { return }
        var copies = try bundle.duplicate()
        for descriptor in recorded {
            guard let copy = copies.takeFirst() else { return }
            guard descriptor.kind == .memory, files[descriptor.number] == nil else { continue }
            guard files.count < Self.maximumFiles else { throw .tooManyReferences }
            files[descriptor.number] = File(copy)
        }
    }

    /// Follows what a message does to the mappings, and looks at memory if the message can start work.
    mutating func handle(
        _ message: MessageAssembler.Assembled, _ changed: (RecordedMemory) -> Void
    ) throws(Errno) {
        let header: MessageHeader
        let request: Request
        do throws(WireError) {
            header = try MessageHeader(parsing: message.bytes.span)
            guard header.kind == .command else { return }
            let payload = message.bytes.span.extracting(MessageHeader.byteCount..<message.bytes.count)
            request = try Request(parsing: payload, command: header.command)
        } catch {
            return
        }
        switch request {
        case .mapDMA(let map):
            guard let descriptor = message.descriptors.first, descriptor.kind == .memory,
                let start = Int64(exactly: map.fileOffset), let size = Int64(exactly: map.size),
                case let (end, overflow) = start.addingReportingOverflow(size), !overflow
            else { return }
            isStale = true
            mappings.append(Mapping(addresses: map.addresses, number: descriptor.number, bytes: start..<end))
        case .unmapDMA(let unmap):
            switch unmap.scope {
            case .everything: mappings = []
            case .addresses(let range):
                mappings.removeAll {
                    range.lowerBound <= $0.addresses.lowerBound && $0.addresses.upperBound <= range.upperBound
                }
            }
        case .writeRegion, .writeRegions:
            if isStale { try look(changed) }
            isStale = false
        case .version, .getDeviceInfo, .getRegionInfo, .getRegionIODescriptors, .getInterruptInfo, .setInterrupts,
            .readRegion, .resetDevice, .deviceFeature, .readMigrationData, .writeMigrationData:
            break
        }
    }

    private mutating func look(_ changed: (RecordedMemory) -> Void) throws(Errno) {
        var kept = files.values.reduce(0) { $0 + $1.snapshot.keptByteCount }
        for (number, file) in files {
            kept -= file.snapshot.keptByteCount
            let ranges = mappings.filter { $0.number == number }.map(\.bytes).sorted { $0.lowerBound < $1.lowerBound }
            var seen: Int64 = 0
            for range in ranges where range.upperBound > seen {
                let part = max(seen, range.lowerBound)..<range.upperBound
                try file.snapshot.update(part, keepingAtMost: Self.maximumKeptByteCount - kept) { offset, bytes in
                    changed(RecordedMemory(number: number, offset: UInt64(offset), bytes: bytes))
                }
                seen = range.upperBound
            }
            kept += file.snapshot.keptByteCount
        }
    }
}
