import LinuxHost

/// A client that sends thousands of like requests a batch at a time, and reads the replies of a batch while the server
/// is at the next.
///
/// Replies must be what was expected of them, byte for byte and in order. At most two batches are in flight, which both
/// directions of a socket have room for: so neither side ever waits for the other to read.
struct RequestPipeline {
    static let batch = 64

    private let peer: RawPeer
    private let template: [UInt8]
    private let replyTemplate: [UInt8]
    /// Lent: whoever makes the pipeline keeps it open.
    private let descriptor: Int32?

    /// - Parameters:
    ///   - template: the request; `send` fills in its ID and what else differs from one to the next.
    ///   - reply: the reply that is expected of each; the same is filled in there.
    init(_ peer: RawPeer, _ template: [UInt8], reply: [UInt8], descriptor: Int32? = nil) {
        self.peer = peer
        self.template = template
        replyTemplate = reply
        self.descriptor = descriptor
    }

    /// Sends a request for each number, and returns when all the replies have come.
    ///
    /// - Parameter fill: writes what belongs to `number` into the request and the reply.
    func send(
        _ numbers: Range<Int>,
        _ fill: (
            _ number: Int, _ request: UnsafeMutableRawBufferPointer, _ reply: UnsafeMutableRawBufferPointer
        ) -> Void
    ) throws {
        // Lent to every call: the bundle has to give it up before it goes.
        var lent = DescriptorBundle(adopting: descriptor.map { [$0] } ?? [])
        defer { while let descriptor = lent.takeFirst() { _ = descriptor.take() } }
        var requests = Array(repeatElement(template, count: Self.batch).joined())
        var replies = Array(repeatElement(replyTemplate, count: Self.batch).joined())
        var owed = 0
        for first in stride(from: numbers.lowerBound, to: numbers.upperBound, by: Self.batch) {
            let batch = first..<min(first + Self.batch, numbers.upperBound)
            let expected = replies
            unsafe requests.withUnsafeMutableBytes { requests in
                unsafe replies.withUnsafeMutableBytes { replies in
                    for number in batch {
                        let request = unsafe requests.part(number - first, of: template.count)
                        let reply = unsafe replies.part(number - first, of: replyTemplate.count)
                        let id = UInt16(truncatingIfNeeded: number).littleEndian
                        unsafe request.storeBytes(of: id, as: UInt16.self)
                        unsafe reply.storeBytes(of: id, as: UInt16.self)
                        unsafe fill(number, request, reply)
                    }
                }
            }
            try send(requests, count: batch.count, lent)
            try receive(expected.prefix(owed * replyTemplate.count))
            owed = batch.count
        }
        try receive(replies.prefix(owed * replyTemplate.count))
    }

    /// Requests with a descriptor each leave by one call each, others together.
    private func send(_ requests: [UInt8], count: Int, _ lent: borrowing DescriptorBundle) throws {
        let piece = lent.isEmpty ? count * template.count : template.count
        var failure: (any Error)?
        unsafe requests.withUnsafeBytes { bytes in
            do {
                for first in stride(from: 0, to: count * template.count, by: piece) {
                    var rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[first..<first + piece])
                    var sent = unsafe try peer.socket.send(rest, descriptors: lent, waiting: true)
                    while sent < rest.count {
                        unsafe rest = UnsafeRawBufferPointer(rebasing: rest[sent...])
                        sent = unsafe try peer.socket.send(rest, descriptors: DescriptorBundle(), waiting: true)
                    }
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    private func receive(_ expected: ArraySlice<UInt8>) throws {
        var rest = expected
        while !rest.isEmpty {
            var descriptors: [HeldDescriptor] = []
            let part = try peer.receivePart(atMost: rest.count, &descriptors)
            guard !part.isEmpty else { throw PeerFailure.closed }
            guard descriptors.isEmpty, rest.starts(with: part) else {
                throw UnexpectedReplies(expected: Array(rest.prefix(part.count)), received: part)
            }
            rest = rest.dropFirst(part.count)
        }
    }
}

struct UnexpectedReplies: Error {
    let expected: [UInt8]
    let received: [UInt8]
}

extension UnsafeMutableRawBufferPointer {
    /// The part with this number of parts of `byteCount` bytes each.
    fileprivate func part(_ number: Int, of byteCount: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: self[number * byteCount..<(number + 1) * byteCount])
    }
}
