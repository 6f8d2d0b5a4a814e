import Glibc
import LinuxHost
import Testing
import VFIOUserClient

/// Listeners that take nobody, or take somebody and say nothing.
@Suite struct ConnectingInTime {
    private static let patience = Duration.milliseconds(200)

    private func withListener(_ body: (String) throws -> Void) throws {
        var template = Array("/tmp/outboard-client-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        let directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { unsafe rmdir(directory) }
        // Nobody accepts, but the queue of clients has room.
        let listener = try UNIXSocketListener(path: directory + "/socket")
        try body(directory + "/socket")
        _ = listener.descriptor.rawValue
    }

    private func failure(_ path: String, _ patience: Duration) -> ClientError? {
        do throws(ClientError) {
            _ = try Client(path: path, replyTimeout: patience)
            return nil
        } catch {
            return error
        }
    }

    @Test func `a server that does not answer the version message is given up`() throws {
        try withListener { #expect(failure($0, Self.patience) == .timedOut) }
    }

    @Test func `a listener whose queue is full is given up`() throws {
        try withListener { path in
            var waiting: [UNIXSocket] = []
            // Until the kernel takes no more into the queue.
            while let socket = try? UNIXSocket.connect(toPath: path, atMost: .zero) { waiting.append(socket) }
            #expect(failure(path, Self.patience) == .system(.timedOut))
            #expect(!waiting.isEmpty)
        }
    }

    @Test func `a path where nobody listens is told apart from one that is too long`() {
        #expect(failure("/nonexistent/socket", Self.patience) == .system(.noSuchEntry))
        #expect(failure("/" + String(repeating: "x", count: 200), Self.patience) == .system(.nameTooLong))
        #expect(failure("", Self.patience) == .system(.invalidArgument))
    }
}
