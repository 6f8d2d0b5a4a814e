/// Finds the end of a message in bytes that arrive in any pieces.
///
/// A pure function of what is buffered; reading more and dropping what was used is the caller's.
public struct MessageFramer: Sendable {
    public enum Progress: Hashable, Sendable {
        /// The buffer ends inside a message; at least this many more bytes complete its header or the whole of it.
        case needs(byteCount: Int)
        /// The first `byteCount` bytes of the buffer are this message.
        case message(MessageHeader)
        /// The stream cannot be read any further. The ID and the command serve the last error reply.
        case broken(id: MessageID, command: Command, error: WireError)
    }

    /// The default limit: a region access of 1 MiB, its payload's fixed part and the header.
    public static let defaultMaximumMessageSize = (1 << 20) + 32

    public var maximumMessageSize: Int

    public init(maximumMessageSize: Int = MessageFramer.defaultMaximumMessageSize) {
        self.maximumMessageSize = maximumMessageSize
    }

    /// Looks at the first message in `buffered`.
    ///
    /// A header that announces too much is reported as soon as it is there, before anything is allocated for it.
    public func examine(_ buffered: Span<UInt8>) -> Progress {
        if buffered.count < MessageHeader.byteCount {
            return .needs(byteCount: MessageHeader.byteCount - buffered.count)
        }
        do throws(WireError) {
            let header = try MessageHeader(parsing: buffered)
            if header.byteCount > maximumMessageSize {
                throw .messageTooLong(maximum: maximumMessageSize, actual: header.byteCount)
            }
            if buffered.count < header.byteCount {
                return .needs(byteCount: header.byteCount - buffered.count)
            }
            return .message(header)
        } catch {
            return .broken(
                id: MessageHeader.id(of: buffered), command: MessageHeader.command(of: buffered), error: error)
        }
    }
}
