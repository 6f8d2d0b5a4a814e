import LinuxHost
import VFIOUserSession
import VFIOUserWire

/// What a peer has not taken yet.
///
/// Each message leaves with one `sendmsg`, its descriptors on its first byte: clients read a header with one call and
/// take descriptors from that call only. What a full socket does not take waits here, and while anything waits the
/// connection handles no further message, so that a peer that does not read costs one message of memory.
struct OutgoingMessages: ~Copyable {
    private var waiting: [UInt8] = []
    private var descriptors = DescriptorBundle()

    var isEmpty: Bool { waiting.isEmpty }

    /// Sends a reply, or as much of it as the socket takes.
    ///
    /// - Precondition: nothing waits.
    /// - Throws: what `sendmsg(2)` answers, but not `EAGAIN`.
    mutating func send(_ reply: borrowing SessionReply, to socket: UNIXSocket) throws(Errno) {
        precondition(isEmpty, "a reply overtakes the one before it")
        guard !reply.writer.bytes.isEmpty else { return }
        let sent = try Self.send(reply.writer.bytes, reply.descriptors, to: socket)
        guard sent < reply.writer.bytes.count else { return }
        waiting = Array(reply.writer.bytes[sent...])
        // The reply's descriptors are closed with it, so those that still have to be sent are duplicated.
        if sent == 0 { descriptors = try reply.descriptors.duplicate() }
    }

    /// Goes on with what waits.
    mutating func flush(to socket: UNIXSocket) throws(Errno) {
        guard !isEmpty else { return }
        let sent = try Self.send(waiting, descriptors, to: socket)
        if sent > 0, !descriptors.isEmpty { descriptors = DescriptorBundle() }
        waiting.removeFirst(sent)
    }

    private static func send(
        _ bytes: [UInt8], _ descriptors: borrowing DescriptorBundle, to socket: UNIXSocket
    ) throws(Errno) -> Int {
        var result: Result<Int, Errno> = .success(0)
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                result = .success(unsafe try socket.send(buffer, descriptors: descriptors, waiting: false))
            } catch {
                result = .failure(error)
            }
        }
        do throws(Errno) {
            return try result.get()
        } catch .wouldBlock {
            return 0
        }
    }
}
