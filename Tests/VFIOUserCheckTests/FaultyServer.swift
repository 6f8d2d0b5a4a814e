import DeviceModel
import Glibc
import LinuxHost
import VFIOUserServer

/// A server that is right in everything but one thing: the real one, with somebody in between who spoils what passes.
///
/// It serves one client after another, each with the same device, and hands every message on as it came, but for its
/// fault.
final class FaultyServer {
    let path: String
    private let directory: String
    private let stop: EventCounter
    private let thread: OSThread

    init(_ fault: Fault, device: any Device) throws {
        var template = Array("/tmp/outboard-check-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        path = directory + "/socket"
        let listener = try UNIXSocketListener(path: path)
        let stop = try EventCounter()
        self.stop = stop
        thread = try OSThread(name: "faulty server") {
            try? Self.serve(listener, device, fault, until: stop)
        }
    }

    func end() {
        stop.signal()
        thread.join()
        unsafe unlink(path)
        unsafe rmdir(directory)
    }

    private static func serve(
        _ listener: UNIXSocketListener, _ device: any Device, _ fault: Fault, until stop: EventCounter
    ) throws {
        let poller = try Poller()
        try poller.add(listener.descriptor.rawValue, token: 0, interest: .readable)
        try poller.add(stop.rawDescriptor, token: 1, interest: .readable)
        while try !poller.wait().contains(where: { $0.token == 1 }) {
            guard let client = try? listener.accept() else { continue }
            let conversation = try Conversation(client, fault)
            try conversation.run(device)
            if conversation.endsServer { return }
        }
    }
}

/// One client's conversation with the real server.
private final class Conversation: Sendable {
    private let client: UNIXSocket
    private let server: UNIXSocket
    private let far: UNIXSocket
    private let fault: Fault
    private let kept = Monitor<[HeldDescriptor]>([])
    private let isOver = Monitor(false)

    init(_ client: UNIXSocket, _ fault: Fault) throws {
        self.client = client
        self.fault = fault
        (server, far) = try UNIXSocket.pair()
    }

    /// Whether the client has asked for what this server does not survive.
    var endsServer: Bool { isOver.withLock { $0 } }

    func run(_ device: any Device) throws {
        let stop = try EventCounter()
        let serving = try OSThread(name: "server") { [far] in
            Server(device: device).serve(far, until: stop)
        }
        let answering = try OSThread(name: "answers") { [self] in
            while let message = receiveMessage() {
                guard let message = fault.spoil(message), send(message) else { continue }
            }
            end()
        }
        forwardCommands()
        end()
        stop.signal()
        serving.join()
        answering.join()
    }

    private func end() {
        client.shutdown()
        server.shutdown()
    }

    /// Passes on what the client sends, in the pieces in which it comes.
    private func forwardCommands() {
        var boundary = MessageBoundary()
        while var part = receive(client, atMost: 65536), !part.bytes.isEmpty {
            boundary.visitHeaders(&part.bytes) { header in
                if fault == .answersWhatWantsNoReply { header[8] &= ~0x10 }
                if case .dies(let command) = fault, UInt16(header[2]) == command { isOver.withLock { $0 = true } }
            }
            if endsServer { return }
            fault.spoilCommand(&part.bytes)
            if fault == .keepsDescriptors { kept.withLock { $0 += part.descriptors } }
            guard transmit(part.bytes, part.descriptors, to: server) else { return }
        }
    }

    private func receiveMessage() -> Message? {
        guard var message = receive(server, atMost: 16) else { return nil }
        while message.bytes.count < message.wantedCount {
            guard let part = receive(server, atMost: message.wantedCount - message.bytes.count), !part.bytes.isEmpty
            else { return nil }
            message.bytes += part.bytes
            message.descriptors += part.descriptors
        }
        return message.bytes.isEmpty ? nil : message
    }

    private func send(_ message: Message) -> Bool {
        guard fault == .sendsInPieces, message.bytes.count > 16 else {
            return transmit(message.bytes, message.descriptors, to: client)
        }
        guard transmit(Array(message.bytes[..<16]), message.descriptors, to: client) else { return false }
        usleep(5000)
        return transmit(Array(message.bytes[16...]), [], to: client)
    }

    private func receive(_ socket: UNIXSocket, atMost count: Int) -> Message? {
        var bytes = [UInt8](repeating: 0, count: count)
        var descriptors: [HeldDescriptor] = []
        let received = unsafe bytes.withUnsafeMutableBytes { buffer -> Int? in
            guard var part = unsafe try? socket.receive(into: buffer, waiting: true) else { return nil }
            while let descriptor = part.descriptors.takeFirst() { descriptors.append(HeldDescriptor(descriptor)) }
            return part.count
        }
        return received.map { Message(bytes: Array(bytes.prefix($0)), descriptors: descriptors) }
    }

    private func transmit(_ bytes: [UInt8], _ descriptors: [HeldDescriptor], to socket: UNIXSocket) -> Bool {
        var sent = 0
        while sent < bytes.count {
            var bundle = DescriptorBundle(adopting: sent == 0 ? descriptors.map { $0.owned.rawValue } : [])
            defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
            let count = unsafe bytes[sent...].withUnsafeBytes { buffer in
                unsafe try? socket.send(buffer, descriptors: bundle, waiting: true)
            }
            guard let count else { return false }
            sent += count
        }
        return true
    }
}

final class HeldDescriptor: Sendable {
    let owned: OwnedDescriptor

    init(_ owned: consuming OwnedDescriptor) { self.owned = owned }
}

struct Message {
    var bytes: [UInt8]
    var descriptors: [HeldDescriptor]

    /// How long the message is, as far as is known.
    var wantedCount: Int { bytes.isEmpty ? 0 : bytes.count < 8 ? 16 : Int(number(at: 4, 4)) }
    var command: UInt16 { UInt16(number(at: 2, 2)) }
    var isError: Bool { bytes[8] & 0x20 != 0 }

    func number(at offset: Int, _ byteCount: Int) -> UInt64 {
        (0..<byteCount).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64($1 * 8) }
    }

    mutating func set(_ value: UInt64, at offset: Int, _ byteCount: Int) {
        for place in 0..<byteCount { bytes[offset + place] = UInt8(truncatingIfNeeded: value >> UInt64(place * 8)) }
    }

    /// States the length that the message has now.
    mutating func finish() { set(UInt64(bytes.count), at: 4, 4) }
}

/// Finds the headers in a stream that comes in pieces. One that comes in pieces itself is left as it is.
private struct MessageBoundary {
    /// How much of the present message is still to come after its header.
    private var rest = 0
    /// What there is of a header that comes in pieces.
    private var partialHeader: [UInt8] = []

    mutating func visitHeaders(_ bytes: inout [UInt8], _ visit: (inout [UInt8]) -> Void) {
        var offset = 0
        while offset < bytes.count {
            let available = bytes.count - offset
            if rest > 0 {
                let taken = min(rest, available)
                rest -= taken
                offset += taken
            } else if partialHeader.isEmpty, available >= 16 {
                var header = Array(bytes[offset..<offset + 16])
                visit(&header)
                bytes.replaceSubrange(offset..<offset + 16, with: header)
                rest = Self.payloadCount(header)
                offset += 16
            } else {
                let taken = min(16 - partialHeader.count, available)
                partialHeader += bytes[offset..<offset + taken]
                offset += taken
                if partialHeader.count == 16 {
                    rest = Self.payloadCount(partialHeader)
                    partialHeader = []
                }
            }
        }
    }

    private static func payloadCount(_ header: [UInt8]) -> Int {
        max(16, (4..<8).reversed().reduce(0) { $0 << 8 | Int(header[$1]) }) - 16
    }
}
