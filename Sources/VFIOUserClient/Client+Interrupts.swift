public import LinuxHost
import VFIOUserNegotiation
public import VFIOUserWire

/// Interrupts, by the index of their kind; those of a PCI device are in `PCIInterrupt`.
extension Client {
    /// How many vectors a kind has, and what can be done with them. `VFIO_USER_DEVICE_GET_IRQ_INFO`
    public func interruptInfo(_ index: Int) throws(ClientError) -> InterruptInfo {
        let reply = try perform(.getInterruptInfo(InterruptInfoRequest(index: UInt32(index))))
        return try parse(reply) { (payload) throws(WireError) in try InterruptInfo(parsing: payload) }
    }

    /// Connects vectors `first`, `first + 1`, … to counters, in as many messages as it takes. The server has counters of
    /// its own; closing these does not disconnect anything.
    ///
    /// - Parameter action: what is connected: `.trigger` for counters that the server signals, `.mask` and `.unmask`
    ///   for those by which this side masks and unmasks INTx.
    public func connectInterrupts(
        _ index: Int, from first: Int = 0, to counters: [EventCounter], action: SetInterrupts.Action = .trigger
    ) throws(ClientError) {
        let limit = agreement.sending.maximumMessageDescriptors
        guard limit > 0 else { throw .notAgreed }
        var done = 0
        while done < counters.count {
            let part = counters[done..<min(done + limit, counters.count)]
            let request = SetInterrupts(
                action: action, data: .descriptors, index: UInt32(index), start: UInt32(first + done),
                count: UInt32(part.count))
            // The counters live until the message has been sent, and their descriptors with them.
            _ = try perform(.setInterrupts(request), descriptors: part.map(\.rawDescriptor))
            done += part.count
        }
    }

    /// Disconnects some vectors, or what masks or unmasks INTx.
    public func disconnectInterrupts(
        _ index: Int, vectors: Range<Int>, action: SetInterrupts.Action = .trigger
    ) throws(ClientError) {
        try setInterrupts(action, .descriptors, index, vectors)
    }

    /// Masks, unmasks or triggers some vectors now.
    public func setInterrupts(_ action: SetInterrupts.Action, _ index: Int, vectors: Range<Int>) throws(ClientError) {
        try setInterrupts(action, .none, index, vectors)
    }

    /// Disconnects all vectors of a kind.
    public func disableInterrupts(_ index: Int) throws(ClientError) {
        try setInterrupts(.trigger, .none, index, 0..<0)
    }

    private func setInterrupts(
        _ action: SetInterrupts.Action, _ data: SetInterrupts.Data, _ index: Int, _ vectors: Range<Int>
    ) throws(ClientError) {
        let request = SetInterrupts(
            action: action, data: data, index: UInt32(index), start: UInt32(vectors.lowerBound),
            count: UInt32(vectors.count))
        _ = try perform(.setInterrupts(request))
    }
}
