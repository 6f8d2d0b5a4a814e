public import LinuxHost
public import PCI
public import Virtio

/// The virtio entropy device: fills what the driver gives it with random bytes of the kernel's. Virtio 1.2, 5.4
///
/// It has no features, no configuration and no state, so that a reset has nothing to do.
public final class Entropy: VirtioDevice {
    /// One queue, in which every buffer is writable.
    private static let description = VirtioDescription(
        deviceType: 4, classCode: PCIClassCode(baseClass: 0x00, subclass: 0xff), features: .accessPlatform,
        queueSizes: [64])

    /// How much of a buffer is filled at most: the driver may offer up to 4 GiB, and needs a byte at least.
    public static let maximumByteCount = 1 << 16
    /// How much is made at a time.
    private static let stepByteCount = 4096

    /// A function with the device behind it.
    ///
    /// - Parameters:
    ///   - route: where its accesses to memory go.
    ///   - report: told when the driver has broken a rule, on any thread.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public static func makeFunction(
        route: any DMARoute = DirectRoute(), report: @escaping @Sendable (VirtioFailure) -> Void = { _ in }
    ) throws(Errno) -> PCIFunction<VirtioFunction<Entropy>> {
        try VirtioFunction.make(description, route: route, report: report) { _ in Entropy() }
    }

    private init() {}

    public func readConfiguration(at offset: Int, byteCount: Int) -> UInt64 { 0 }

    public func writeConfiguration(_ value: UInt64, at offset: Int, byteCount: Int) {}

    public func start(features: VirtioFeatures) {}

    public func reset(_ kind: VirtioReset) {}

    /// What a driver gives to be read is ignored; a buffer without room comes back empty.
    public func process(_ queue: inout Virtqueue, number: Int) throws(VirtqueueError) {
        var bytes = [UInt8](repeating: 0, count: Self.stepByteCount)
        while let buffer = try queue.next() {
            let count = min(buffer.writableByteCount, Self.maximumByteCount)
            for start in stride(from: 0, to: count, by: Self.stepByteCount) {
                var span = bytes.mutableSpan
                RandomBytes.fill(&span)
                try queue.write(
                    bytes.span.extracting(first: min(Self.stepByteCount, count - start)), to: buffer, at: start)
            }
            queue.complete(buffer, writtenByteCount: count)
            try queue.publish()
        }
    }
}
