public import LinuxHost
import VFIOUserWire

/// A transport that makes the faults of a plan in what passes over another.
///
/// What is harmful for one side is so in the direction that it happens in: a bit that flips on the way in is the peer's
/// word to this side. Delays hold up the thread that reads or writes.
public final class FaultyTransport: Transport {
    private let inner: any Transport
    private let state: Monitor<State>

    private struct State {
        var receiving: FaultStream
        var sending: FaultStream
        /// Whether the last write left part of a message for the next.
        var isInsideMessage = false
        var isShut = false
    }

    /// - Parameter number: sets transports with the same plan apart, such as the two of one connection.
    public init(_ inner: any Transport, _ plan: FaultPlan, number: UInt64 = 0) {
        self.inner = inner
        state = Monitor(
            State(
                receiving: FaultStream(plan, number: number &* 2 &+ 1, splits: plan.shortReads),
                sending: FaultStream(plan, number: number &* 2 &+ 2, splits: plan.shortWrites)))
    }

    public var pollDescriptor: Int32 { inner.pollDescriptor }

    public func receive(into buffer: UnsafeMutableRawBufferPointer, waiting: Bool) throws(Errno) -> ReceivedBytes {
        let step = state.withLock { $0.receiving.begin(count: buffer.count, minimum: 1) }
        guard let limit = try carryOut(step, waiting) else {
            return ReceivedBytes(count: 0, descriptors: DescriptorBundle(), lostDescriptors: false)
        }
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<limit])
        var received = unsafe try inner.receive(into: room, waiting: waiting)
        var descriptors = received.descriptors.takeFirst(received.descriptors.count)
        let (count, descriptorCount) = (received.count, descriptors.count)
        let stream = state.withLock { state in
            defer { state.receiving.advance(by: count, descriptors: descriptorCount) }
            return state.receiving
        }
        for flip in stream.flips(count: count) { unsafe room[flip.index] ^= flip.mask }
        let hasLost = stream.disturb(&descriptors)
        return ReceivedBytes(
            count: count, descriptors: descriptors, lostDescriptors: received.lostDescriptors || hasLost)
    }

    public func send(
        _ bytes: UnsafeRawBufferPointer, descriptors: borrowing DescriptorBundle, waiting: Bool
    ) throws(Errno) -> Int {
        let (step, stream) = state.withLock { state in
            let minimum = state.isInsideMessage ? 1 : MessageHeader.byteCount
            let step = state.sending.begin(count: bytes.count, minimum: minimum)
            return (step, state.sending)
        }
        guard let limit = try carryOut(step, waiting) else { throw .brokenPipe }
        let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<limit])
        let sent: Int
        if stream.changesDescriptors, !descriptors.isEmpty {
            var disturbed = try descriptors.duplicate()
            _ = stream.disturb(&disturbed)
            sent = unsafe try send(part, stream.flips(count: limit), disturbed, waiting)
        } else {
            sent = unsafe try send(part, stream.flips(count: limit), descriptors, waiting)
        }
        let descriptorCount = sent > 0 ? descriptors.count : 0
        state.withLock { state in
            state.sending.advance(by: sent, descriptors: descriptorCount)
            state.isInsideMessage = sent < bytes.count
        }
        return sent
    }

    private func send(
        _ bytes: UnsafeRawBufferPointer, _ flips: [(index: Int, mask: UInt8)],
        _ descriptors: borrowing DescriptorBundle, _ waiting: Bool
    ) throws(Errno) -> Int {
        guard !flips.isEmpty else { return unsafe try inner.send(bytes, descriptors: descriptors, waiting: waiting) }
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        defer { unsafe copy.deallocate() }
        unsafe copy.copyMemory(from: bytes)
        for flip in flips { unsafe copy[flip.index] ^= flip.mask }
        return unsafe try inner.send(UnsafeRawBufferPointer(copy), descriptors: descriptors, waiting: waiting)
    }

    public func shutdown() {
        state.update { $0.isShut = true }
        inner.shutdown()
    }

    /// How many bytes may pass now; `nil` when the connection ends here.
    private func carryOut(_ step: FaultStream.Step, _ waiting: Bool) throws(Errno) -> Int? {
        switch step {
        case .cut:
            inner.shutdown()
            return nil
        // Whoever waits is not told to come again.
        case .fail(let error): throw waiting && error == .wouldBlock ? .interrupted : error
        case .transfer(let limit, let delay):
            if delay > .zero { _ = state.wait(until: .after(delay)) { $0.isShut ? true : nil } }
            return limit
        }
    }
}
