/// What a descriptor stands for, as far as somebody can tell who only passes it on.
public struct DescriptorDescription: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// A regular file, such as a memfd.
        case file
        /// An eventfd.
        case eventCounter
        case socket
        case other
    }

    public let kind: Kind
    /// In bytes, of a file; zero for anything else.
    public let byteCount: Int64
    /// Whether it is open for reading and writing.
    public let isReadWrite: Bool
    /// Tells files apart; all event counters have the same.
    public let identity: FileStatus.Identity

    /// - Throws: what `fstat(2)` answers.
    public init(_ descriptor: borrowing OwnedDescriptor) throws(Errno) {
        let status = try descriptor.status()
        switch status.kind {
        case .regular: kind = .file
        case .socket: kind = .socket
        case .blockDevice: kind = .other
        case .other: kind = descriptor.isEventCounter ? .eventCounter : .other
        }
        byteCount = kind == .file ? status.size : 0
        isReadWrite = descriptor.isReadWrite
        identity = status.identity
    }
}

extension DescriptorBundle {
    /// What the descriptors stand for, in order.
    ///
    /// - Throws: what `fstat(2)` answers.
    public func describe() throws(Errno) -> [DescriptorDescription] {
        guard !isEmpty else { return [] }
        return unsafe try withRawValues { (numbers) throws(Errno) in
            var descriptions: [DescriptorDescription] = []
            for number in unsafe Array(numbers) {
                // The bundle keeps the descriptor.
                let lent = OwnedDescriptor(adopting: number)
                let result: Result<DescriptorDescription, Errno>
                do throws(Errno) {
                    result = .success(try DescriptorDescription(lent))
                } catch {
                    result = .failure(error)
                }
                _ = lent.take()
                descriptions.append(try result.get())
            }
            return descriptions
        }
    }
}
