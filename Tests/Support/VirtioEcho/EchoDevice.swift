public import LinuxHost
public import PCI
public import Virtio

/// A virtio device for tests of the transport: it sends back what it gets, and events when a test wants one.
public final class EchoDevice: VirtioDevice {
    /// Buffers of it come back with their readable bytes in their writable part, as far as those have room.
    public static let echoQueue = 0
    /// Buffers of it are filled by `send`, one for each event that fits.
    public static let eventQueue = 1
    /// As the echo queue, but each buffer waits until the gate is open.
    public static let gatedQueue = 2
    /// Buffers of it are taken one call after the other and come back in the opposite order.
    public static let reversingQueue = 3
    /// The device's own features: one that it offers, and one that it does not.
    public static let offered = VirtioFeatures(rawValue: 1 << 0)
    public static let notOffered = VirtioFeatures(rawValue: 1 << 1)
    public static let configurationByteCount = 12
    /// What `process` reads at most of one buffer.
    public static let maximumByteCount = 1 << 16

    public static let description = VirtioDescription(
        deviceType: 0x3f, classCode: PCIClassCode(baseClass: 0xff, subclass: 0), features: [offered, .accessPlatform],
        queueSizes: [256, 64, 8, 16], configurationByteCount: configurationByteCount)

    /// What happened to it.
    public struct Record: Sendable {
        public var starts: [VirtioFeatures] = []
        public var resets: [VirtioReset] = []
        public var queueResets: [Int] = []
        public var processCalls = 0
        public var completed = 0
        public var isGateOpen = true
        public var isAtGate = false
        /// Whether two calls ever came at the same time.
        public var overlapped = false
        /// Whether it is in a call of the worker's.
        public internal(set) var isWorking = false
        var configuration = [UInt8](repeating: 0, count: EchoDevice.configurationByteCount)
        var events: [[UInt8]] = []
        /// Refuses to be reset until this is true.
        public var mayReset = true
    }

    public let record = Monitor(Record())
    public let port: VirtioPort

    public init(port: VirtioPort) { self.port = port }

    public static func makeFunction(
        route: any DMARoute = DirectRoute(), report: @escaping @Sendable (VirtioFailure) -> Void = { _ in }
    ) throws(Errno) -> PCIFunction<VirtioFunction<EchoDevice>> {
        try VirtioFunction.make(description, route: route, report: report) { EchoDevice(port: $0) }
    }

    public func readConfiguration(at offset: Int, byteCount: Int) -> UInt64 {
        record.withLock { record in
            record.configuration[offset..<offset + byteCount].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
    }

    public func writeConfiguration(_ value: UInt64, at offset: Int, byteCount: Int) {
        record.update { record in
            for byte in 0..<byteCount {
                record.configuration[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))
            }
        }
    }

    public func start(features: VirtioFeatures) {
        working { record.update { $0.starts.append(features) } }
    }

    public func reset(_ kind: VirtioReset) {
        working {
            record.wait { $0.mayReset ? () : nil }
            record.update { record in
                record.resets.append(kind)
                record.events = []
                if kind == .function {
                    record.configuration = [UInt8](repeating: 0, count: Self.configurationByteCount)
                }
            }
        }
    }

    public func resetQueue(_ number: Int) {
        working { record.update { $0.queueResets.append(number) } }
    }

    /// Sends an event as soon as the driver has a buffer for it.
    public func send(_ event: [UInt8]) {
        record.update { $0.events.append(event) }
        port.schedule(Self.eventQueue)
    }

    public func process(_ queue: inout Virtqueue, number: Int) throws(VirtqueueError) {
        record.update { record in
            if record.isWorking { record.overlapped = true }
            record.isWorking = true
            record.processCalls += 1
        }
        defer { record.update { $0.isWorking = false } }
        switch number {
        case Self.eventQueue: try deliver(to: &queue)
        case Self.reversingQueue: try reverse(&queue)
        default:
            while let buffer = try queue.next() {
                if number == Self.gatedQueue { passGate() }
                try echo(buffer, &queue)
            }
        }
    }

    private func echo(_ buffer: VirtqueueBuffer, _ queue: inout Virtqueue) throws(VirtqueueError) {
        let count = min(buffer.readableByteCount, Self.maximumByteCount)
        var bytes = [UInt8](repeating: 0, count: count)
        // In two pieces, for the seams of descriptors to be crossed in every way.
        let half = count / 2
        var span = bytes.mutableSpan
        if count > 0 {
            var second = [UInt8](repeating: 0, count: count - half)
            try queue.read(buffer, into: &span)
            var other = second.mutableSpan
            try queue.read(buffer, at: half, into: &other)
            for place in second.indices { bytes[half + place] = second[place] }
        }
        let written = min(count, buffer.writableByteCount)
        let first = written / 3
        try queue.write(bytes.span.extracting(0..<first), to: buffer)
        try queue.write(bytes.span.extracting(first..<written), to: buffer, at: first)
        queue.complete(buffer, writtenByteCount: written)
        record.update { $0.completed += 1 }
    }

    /// One event into one buffer; a buffer that is too small stays where it is, and the event is lost.
    private func deliver(to queue: inout Virtqueue) throws(VirtqueueError) {
        while let event = record.withLock({ $0.events.first }) {
            guard let buffer = try queue.next() else { return }
            record.update { _ = $0.events.isEmpty ? nil : $0.events.removeFirst() }
            guard buffer.writableByteCount >= event.count else {
                queue.putBack(buffer)
                continue
            }
            try queue.write(event.span, to: buffer)
            queue.complete(buffer, writtenByteCount: event.count)
        }
    }

    private func reverse(_ queue: inout Virtqueue) throws(VirtqueueError) {
        var buffers: [VirtqueueBuffer] = []
        while let buffer = try queue.next() { buffers.append(buffer) }
        for buffer in buffers.reversed() { try echo(buffer, &queue) }
    }

    private func passGate() {
        record.update { $0.isAtGate = true }
        record.wait { $0.isGateOpen ? () : nil }
        record.update { $0.isAtGate = false }
    }

    private func working(_ body: () -> Void) {
        record.update { record in
            if record.isWorking { record.overlapped = true }
            record.isWorking = true
        }
        body()
        record.update { $0.isWorking = false }
    }
}
