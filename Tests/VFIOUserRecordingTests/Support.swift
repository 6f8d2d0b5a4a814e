import BlockStorage
import DeviceModel
import Edu
import Foundation
import LinuxHost
import NVMe
import PCI
import Testing
import VFIOUserRecording
import VFIOUserServer
import VFIOUserTransport
import VFIOUserWire

/// A session of QEMU 11.1.3 from boot to power-off, recorded by `qemu/run` and kept as it is.
enum Golden: String, CaseIterable, CustomTestStringConvertible, Sendable {
    /// `qemu/run edu --record FILE`: a driver in user space behind a virtual IOMMU, INTx and MSI.
    case edu = "qemu-11.1.3-edu"
    /// `qemu/run nvme-replayed --keep DIRECTORY`: all that the disk transfers goes by messages.
    case nvme = "qemu-11.1.3-nvme"

    var testDescription: String { rawValue }

    func bytes() throws -> [UInt8] {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Fixtures")
        return [UInt8](try Data(contentsOf: folder.appendingPathComponent(rawValue + ".recording")))
    }

    func entries() throws -> [RecordingEntry] {
        var reader = try RecordingReader(try bytes())
        let entries = try reader.all()
        guard !reader.isCut else { throw CutOff() }
        return entries
    }

    func messages() throws -> [RecordedMessage] { try entries().compactMap(\.message) }

    /// The device that was served, as new.
    func device() throws -> any Device {
        switch self {
        case .edu: return try Edu.makeFunction()
        case .nvme:
            let file = try OwnedDescriptor.anonymousMemory(name: "disk", byteCount: 16 << 20)
            let store = try FileStore(
                path: "/proc/self/fd/\(file.rawValue)", byteCount: nil, blockSize: .bytes512, isReadOnly: false)
            guard let serial = NVMeController.SerialNumber("disk") else { throw CutOff() }
            return try NVMeController.makeFunction(store: store, options: NVMeController.Options(serial: serial))
        }
    }

    struct CutOff: Error {}
}

extension RecordingEntry {
    var message: RecordedMessage? {
        if case .message(let message) = event { message } else { nil }
    }
}

extension Replay.Options {
    /// For what a server does in the end, however busy the machine is.
    static let patient: Replay.Options = {
        var options = Replay.Options()
        options.patience = .seconds(120)
        options.settling = .seconds(120)
        return options
    }()
}

/// Serves a device over a socket pair while `body` runs with the other end.
func serving(
    _ device: any Device,
    decorate: @escaping @Sendable (UNIXSocket, TransportRole) -> any Transport = { socket, _ in socket },
    _ body: (UNIXSocket) throws -> Void
) throws {
    let (ours, theirs) = try UNIXSocket.pair()
    let stop = try EventCounter()
    let thread = try OSThread(name: "server") {
        Server(device: device, decorate: decorate).serve(theirs, until: stop)
    }
    defer {
        stop.signal()
        thread.join()
    }
    try body(ours)
}

/// A directory that goes with its value.
final class TemporaryDirectory {
    let path = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false) }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func read(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(name)")))
    }
}

extension MessageWriter {
    /// The bytes of one message.
    static func message(
        _ command: Command, id: UInt16 = 1, _ kind: MessageHeader.Kind = .command,
        _ body: (inout MessageWriter) -> Void = { _ in }
    ) -> [UInt8] {
        var writer = MessageWriter()
        writer.begin(MessageHeader(id: MessageID(rawValue: id), command: command, kind: kind))
        body(&writer)
        writer.finish()
        return writer.bytes
    }
}
