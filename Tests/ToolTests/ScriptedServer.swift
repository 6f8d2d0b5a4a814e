import Foundation
import Glibc
import LinuxHost

/// A server that has nothing behind it: it answers each command of one client after another with bytes that a script
/// gives.
final class ScriptedServer {
    /// What happens on a command.
    enum Answer {
        case payload([UInt8])
        case error(UInt32)
        /// Whatever these bytes are.
        case raw([UInt8])
        case nothing
        case close
        /// Requests for memory, for as long as anybody takes them.
        case flood
    }

    let path: String
    private let stop: EventCounter
    private let thread: OSThread
    private let connection: Monitor<UNIXSocket?>

    init(_ script: @escaping @Sendable (_ command: UInt16, _ payload: [UInt8]) -> Answer) throws {
        path = FileManager.default.temporaryDirectory.path + "/outboard-\(UUID().uuidString.prefix(8))"
        let listener = try UNIXSocketListener(path: path)
        let (stop, connection) = (try EventCounter(), Monitor<UNIXSocket?>(nil))
        self.stop = stop
        self.connection = connection
        thread = try OSThread(name: "scripted server") {
            try? ScriptedServer.serve(listener, until: stop) { socket in
                connection.withLock { $0 = socket }
                ScriptedServer.converse(socket, script)
                socket.shutdown()
            }
        }
    }

    private static func serve(
        _ listener: UNIXSocketListener, until stop: EventCounter, _ body: (UNIXSocket) -> Void
    ) throws {
        let poller = try Poller()
        try poller.add(listener.descriptor.rawValue, token: 0, interest: .readable)
        try poller.add(stop.rawDescriptor, token: 1, interest: .readable)
        while try !poller.wait().contains(where: { $0.token == 1 }) {
            if let socket = try? listener.accept() { body(socket) }
        }
    }

    func end() {
        stop.signal()
        connection.withLock { $0 }?.shutdown()
        thread.join()
        unsafe unlink(path)
    }

    private static func converse(_ socket: UNIXSocket, _ script: (UInt16, [UInt8]) -> Answer) {
        while let header = read(16, socket) {
            let size = (4..<8).reversed().reduce(0) { $0 << 8 | Int(header[$1]) }
            guard size >= 16, let payload = read(size - 16, socket) else { return }
            let command = UInt16(header[2]) | UInt16(header[3]) << 8
            switch script(command, payload) {
            case .payload(let answer):
                send(header[..<4] + number(16 + answer.count) + number(1) + number(0) + answer, socket)
            case .error(let error): send(header[..<4] + number(16) + number(0x21) + number(Int(error)), socket)
            case .raw(let bytes): send(bytes, socket)
            case .nothing: break
            case .close: return
            case .flood:
                let request = [1, 0, 11, 0] + number(32) + number(0) + number(0) + [UInt8](repeating: 0, count: 16)
                while send(request, socket) {}
                return
            }
        }
    }

    private static func number(_ value: Int) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    private static func read(_ count: Int, _ socket: UNIXSocket) -> [UInt8]? {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var part = [UInt8](repeating: 0, count: count - bytes.count)
            let received = unsafe part.withUnsafeMutableBytes { buffer in
                (unsafe try? socket.receive(into: buffer, waiting: true).count) ?? 0
            }
            guard received > 0 else { return nil }
            bytes += part.prefix(received)
        }
        return bytes
    }

    @discardableResult
    private static func send(_ bytes: [UInt8], _ socket: UNIXSocket) -> Bool {
        let sent = unsafe bytes.withUnsafeBytes { buffer in
            unsafe try? socket.send(buffer, descriptors: DescriptorBundle(), waiting: true)
        }
        return sent == bytes.count
    }
}
