public import LinuxHost

/// What a peer has not taken yet.
///
/// Each message leaves with one `sendmsg`, its descriptors on its first byte: clients read a header with one call and
/// take descriptors from that call only. What a full socket does not take waits here, and while anything waits the
/// connection handles no further message, so that a peer that does not read costs one message of memory.
public struct MessageSender: ~Copyable {
    private var waiting: [UInt8] = []
    private var descriptors = DescriptorBundle()

    public init() {}

    public var isEmpty: Bool { waiting.isEmpty }

    /// Sends a message, or as much of it as the transport takes.
    ///
    /// - Precondition: nothing waits.
    /// - Throws: what `sendmsg(2)` answers, but not `EAGAIN` and `EINTR`.
    public mutating func send(
        _ bytes: [UInt8], _ descriptors: borrowing DescriptorBundle, to transport: any Transport
    ) throws(Errno) {
        precondition(isEmpty, "a message overtakes the one before it")
        guard !bytes.isEmpty else { return }
        let sent = try transport.offer(bytes, descriptors)
        guard sent < bytes.count else { return }
        waiting = Array(bytes[sent...])
        // The message's descriptors are closed with it, so those that still have to be sent are duplicated.
        if sent == 0 { self.descriptors = try descriptors.duplicate() }
    }

    /// Goes on with what waits.
    public mutating func flush(to transport: any Transport) throws(Errno) {
        guard !isEmpty else { return }
        let sent = try transport.offer(waiting, descriptors)
        if sent > 0, !descriptors.isEmpty { descriptors = DescriptorBundle() }
        waiting.removeFirst(sent)
    }
}

extension Transport {
    /// Sends what the transport takes at once, descriptors with the first byte.
    ///
    /// - Returns: how many bytes were taken; none when there is no room.
    /// - Throws: what `sendmsg(2)` answers, but not `EAGAIN` and `EINTR`.
    public func offer(_ bytes: [UInt8], _ descriptors: borrowing DescriptorBundle) throws(Errno) -> Int {
        var result: Result<Int, Errno> = .success(0)
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                result = .success(unsafe try send(buffer, descriptors: descriptors, waiting: false))
            } catch {
                result = .failure(error)
            }
        }
        do throws(Errno) {
            return try result.get()
        } catch .wouldBlock {
            return 0
        } catch .interrupted {
            return 0
        }
    }
}
