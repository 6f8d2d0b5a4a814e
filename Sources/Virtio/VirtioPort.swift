import LinuxHost

/// What the transport gives the device inside it. Any thread may use it at any time.
public final class VirtioPort: Sendable {
    let transport: VirtioTransport

    init(_ transport: VirtioTransport) {
        self.transport = transport
    }

    /// Has `VirtioDevice.process` called for a queue soon, if the driver has enabled it.
    public func schedule(_ queue: Int) { transport.schedule(queue) }

    /// Whether a reset, or the function's end, waits for the worker to come back from the device.
    public var isResetWanted: Bool { transport.state.withLock { $0.work.reset != nil || $0.work.isEnding } }

    /// What the driver and the transport have agreed on, or nothing yet: known before the device is started.
    public var features: VirtioFeatures {
        transport.state.withLock { $0.registers.status.contains(.featuresOK) ? $0.features : [] }
    }

    /// Tells the driver that something in the device's configuration has changed. Called right after the change.
    public func configurationDidChange() { transport.configurationDidChange() }

    /// Tells the driver that the device cannot go on without a reset, and does nothing more until then; nothing unless the
    /// driver has the device run.
    public func fail(_ reason: String) { transport.fail(.device(reason)) }
}
