public import LinuxHost

/// What carries the bytes of messages between two processes, in order, with descriptors attached to some of them.
///
/// A `UNIXSocket` is the one that the kernel gives. Others stand before it and pass on what they see: one that writes
/// down the conversation, one that makes faults on purpose. One thread sends and receives; any may end it.
public protocol Transport: AnyObject, Sendable {
    /// What becomes readable when bytes have arrived and writable when there is room for more; for `Poller`.
    var pollDescriptor: Int32 { get }

    /// Reads what is there, at most `buffer.count` bytes, and the descriptors that came with it.
    ///
    /// - Parameter waiting: whether to wait for the first byte.
    /// - Throws: `EAGAIN` when nothing is there and `waiting` is false; `EINTR` when it may be tried again; others from
    ///   `recvmsg(2)`.
    func receive(into buffer: UnsafeMutableRawBufferPointer, waiting: Bool) throws(Errno) -> ReceivedBytes

    /// Sends bytes with one system call, descriptors attached to the first of them.
    ///
    /// - Returns: how many bytes were taken; if that is not all, the rest must follow without descriptors.
    /// - Throws: `EAGAIN` when there is no room and `waiting` is false; `EINTR` when it may be tried again; `EPIPE` when
    ///   the peer is gone.
    func send(
        _ bytes: UnsafeRawBufferPointer, descriptors: borrowing DescriptorBundle, waiting: Bool
    ) throws(Errno) -> Int

    /// Ends both directions, which wakes whoever waits on either side.
    func shutdown()
}

/// Which of a connection's sockets a transport stands on.
public enum TransportRole: Sendable {
    /// The one that the client connected, over which it asks and is answered.
    case main
    /// The second one, for what the server asks of the client, and the first one's transport.
    case twin(of: any Transport)
}

extension UNIXSocket: Transport {
    public var pollDescriptor: Int32 { descriptor.rawValue }
}
