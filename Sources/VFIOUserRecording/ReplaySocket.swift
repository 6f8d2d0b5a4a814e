import LinuxHost
import VFIOUserTransport

/// A socket that the replay talks over, never waiting for one direction alone.
struct ReplaySocket: ~Copyable {
    let socket: UNIXSocket
    /// The longest message of a server: the largest transfer that a client agrees to, and what comes before its data.
    private static let maximumMessageSize = (64 << 20) + 64

    private var incoming = MessageAssembler(maximumMessageSize: maximumMessageSize)
    private var outgoing: [UInt8] = []
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)
    /// A second socket that came along and was not taken.
    private var passedSocket: UNIXSocket?

    init(_ socket: UNIXSocket) {
        self.socket = socket
    }

    var hasOutgoing: Bool { !outgoing.isEmpty }

    mutating func takePassedSocket() -> UNIXSocket? {
        defer { passedSocket = nil }
        return passedSocket
    }

    /// Sends a message, or as much of it as the socket takes now; the rest waits for `flush()`.
    ///
    /// - Returns: `false` when descriptors go along and there is no room for the first byte: then nothing was sent.
    mutating func send(
        _ bytes: [UInt8], _ descriptors: borrowing DescriptorBundle = DescriptorBundle()
    ) throws(Errno) -> Bool {
        if descriptors.isEmpty {
            outgoing += bytes
            try flush()
            return true
        }
        guard !hasOutgoing else { return false }
        let count = try socket.offer(bytes, descriptors)
        if count > 0 { outgoing = Array(bytes[count...]) }
        return count > 0
    }

    mutating func flush() throws(Errno) {
        if hasOutgoing { outgoing.removeFirst(try socket.offer(outgoing, DescriptorBundle())) }
    }

    /// Reads once what has arrived.
    ///
    /// - Returns: `false` when the peer has closed.
    mutating func receive() throws(Errno) -> Bool {
        var result: Result<Int, Errno> = .success(0)
        unsafe buffer.withUnsafeMutableBytes { room in
            do throws(Errno) {
                var received = unsafe try socket.receive(into: room, waiting: false)
                let descriptions = try received.descriptors.describe()
                for description in descriptions {
                    guard let descriptor = received.descriptors.takeFirst() else { break }
                    if description.kind == .socket { passedSocket = UNIXSocket(adopting: descriptor) }
                }
                let bytes = unsafe UnsafeRawBufferPointer(rebasing: room[..<received.count])
                unsafe incoming.append(bytes, descriptions.map(\.recorded), lost: received.lostDescriptors)
                result = .success(received.count)
            } catch {
                result = .failure(error)
            }
        }
        do throws(Errno) {
            return try result.get() > 0
        } catch .wouldBlock {
            return true
        }
    }

    mutating func next() -> RecordedMessage? {
        incoming.next().map {
            RecordedMessage(direction: .toClient, descriptors: $0.descriptors, bytes: $0.bytes)
        }
    }
}

extension DescriptorDescription {
    /// As a recording has it, but for the number.
    fileprivate var recorded: RecordedDescriptor {
        let kind: RecordedDescriptor.Kind =
            switch kind {
            case .file: .memory
            case .eventCounter: .eventCounter
            case .socket: .socket
            case .other: .other
            }
        return RecordedDescriptor(
            kind: kind, isWritable: isReadWrite, number: 0, byteCount: UInt64(clamping: byteCount))
    }
}
