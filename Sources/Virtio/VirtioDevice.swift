/// A device behind the virtio transport: what is left when registers, features, queues and resets are the transport's.
///
/// `start`, `process` and `reset` come on the function's worker, one at a time; they may take as long as guest memory takes,
/// but while a reset waits for one of them they should come to an end, which they do by themselves where they go on only as
/// long as the queue gives them buffers. The calls for the configuration come on the connection's thread, at any time, and
/// must not wait for guest memory.
public protocol VirtioDevice: AnyObject, Sendable {
    /// Reads 1, 2, 4 or 8 bytes, naturally aligned, of the device's configuration. They lie within its size.
    func readConfiguration(at offset: Int, byteCount: Int) -> UInt64

    /// Writes the 1, 2, 4 or 8 low bytes of `value`, naturally aligned, to the device's configuration; it decides what of
    /// them can be written.
    func writeConfiguration(_ value: UInt64, at offset: Int, byteCount: Int)

    /// The driver has finished setting the device up. Every queue that it has enabled is processed next, whether or not
    /// there is something in it. `DRIVER_OK`
    ///
    /// On the worker.
    ///
    /// - Parameter features: what the driver has accepted of what was offered.
    func start(features: VirtioFeatures)

    /// The driver has told of new buffers in a queue, or the device has asked for the call by `VirtioPort.schedule`.
    ///
    /// The driver tells of further buffers only after `Virtqueue.next` has returned `nil`: a device that stops before has to
    /// ask for the next call itself. What was completed and not published is published when this returns. On the worker.
    ///
    /// - Throws: what the queue has thrown. The driver is told that the device needs a reset.
    func process(_ queue: inout Virtqueue, number: Int) throws(VirtqueueError)

    /// The device's work is over, and with it every buffer that it holds: none of them is completed any more. After this,
    /// it waits for `start`.
    ///
    /// On the worker. Without a `start` since the last one there is no call for `.driver`.
    func reset(_ kind: VirtioReset)

    /// The driver takes one queue away, perhaps to give it back with another size: every buffer of it that the device holds
    /// is void. `VIRTIO_F_RING_RESET`
    ///
    /// On the worker, between `start` and `reset`. Devices that hold no buffers between calls need not implement it.
    func resetQueue(_ number: Int)
}

extension VirtioDevice {
    public func resetQueue(_ number: Int) {}
}

/// Who resets a device.
public enum VirtioReset: Sendable, Hashable {
    /// The driver, by the device status. What the device's standard lets survive this survives.
    case driver
    /// The function or the machine: everything is as after power-on, the configuration too.
    case function
}
