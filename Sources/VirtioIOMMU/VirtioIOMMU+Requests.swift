import LinuxHost
import Virtio

/// What the worker knows of requests.
struct RequestState {
    /// What the driver has accepted.
    var features: VirtioFeatures = []
    /// The number of the last request; they are counted over resets.
    fileprivate var count: UInt64 = 0
    fileprivate var rejections = RateLimit()
}

/// What is written for a request.
private enum Answer {
    /// Nothing: the driver has left no room for a status, or the device does not know the request.
    case none
    case status(IOMMUStatus)
    /// Properties, and the status behind them.
    case properties([UInt8], IOMMUStatus)
}

extension VirtioIOMMU {
    /// Carries out a batch of requests: those that are there, but no more than a queue holds, so that a reset finds its turn.
    ///
    /// What they unmap stays in the address spaces until the end of the batch, or until a request depends on its being gone.
    func processRequests(_ queue: inout Virtqueue) throws(VirtqueueError) {
        let patience = patience
        var failure: VirtqueueError?
        domains.work {
            domains.moveStragglers()
            do throws(VirtqueueError) {
                try processBatch(&queue, patience)
            } catch {
                failure = error
            }
            // Even of a batch that broke off: the driver knows what it asked for.
            domains.removeLeaving(patience)
        }
        if let failure { throw failure }
        // Nobody is to see that it is unmapped while a device may still reach it.
        if patience.isOver { return }
        try queue.publish()
    }

    private func processBatch(_ queue: inout Virtqueue, _ patience: Patience) throws(VirtqueueError) {
        var count = 0
        while let buffer = try queue.next() {
            try process(buffer, of: &queue, patience)
            count += 1
            if patience.isOver { return }
            if count == queue.size {
                port.schedule(Queue.requests)
                break
            }
        }
        if count > 0 { domains.state.withLock { $0.statistics.batchCount += 1 } }
    }

    private func process(
        _ buffer: VirtqueueBuffer, of queue: inout Virtqueue, _ patience: Patience
    ) throws(VirtqueueError) {
        var written = 0
        switch try answer(to: buffer, of: &queue, patience) {
        case .none: break
        case .status(let status):
            try queue.write(status.tail.span, to: buffer)
            written = IOMMUStatus.tailByteCount
        case .properties(let properties, let status):
            try queue.write(properties.span, to: buffer)
            try queue.write(status.tail.span, to: buffer, at: properties.count)
            written = properties.count + IOMMUStatus.tailByteCount
        }
        queue.complete(buffer, writtenByteCount: written)
    }

    private func answer(
        to buffer: VirtqueueBuffer, of queue: inout Virtqueue, _ patience: Patience
    ) throws(VirtqueueError) -> Answer {
        guard buffer.readableByteCount >= IOMMURequest.headByteCount,
            buffer.writableByteCount >= IOMMUStatus.tailByteCount
        else { return .none }
        // As large as the longest request; what follows in a buffer is ignored.
        var bytes = InlineArray<72, UInt8>(repeating: 0)
        let byteCount = min(buffer.readableByteCount, bytes.count)
        var space = bytes.mutableSpan
        var part = space._mutatingExtracting(0..<byteCount)
        try queue.read(buffer, into: &part)
        return answer(to: bytes.span.extracting(0..<byteCount), room: buffer.writableByteCount, patience)
    }

    private func answer(to bytes: Span<UInt8>, room: Int, _ patience: Patience) -> Answer {
        let features = requests.withLock { $0.features }
        guard let kind = IOMMURequest.Kind(rawValue: bytes[0]), kind.isOffered(by: features) else { return .none }
        if kind == .probe, room < options.probeByteCount + IOMMUStatus.tailByteCount { return .none }
        let number = requests.withLock { state in
            state.count += 1
            return state.count
        }
        var request: IOMMURequest?
        var properties: [UInt8]?
        var status: IOMMUStatus
        do throws(IOMMUStatus) {
            let parsed = try IOMMURequest(kind, parsing: bytes)
            request = parsed
            (status, properties) = carryOut(parsed, number: number, features, patience)
        } catch {
            status = error
        }
        count(number, request, status)
        guard kind == .probe else { return .status(status) }
        return .properties(properties ?? [UInt8](repeating: 0, count: options.probeByteCount), status)
    }

    private func carryOut(
        _ request: IOMMURequest, number: UInt64, _ features: VirtioFeatures, _ patience: Patience
    ) -> (IOMMUStatus, [UInt8]?) {
        switch request {
        case .attach(let request):
            if request.isBypass, !features.contains(.bypassConfiguration) { return (.invalid, nil) }
            return (domains.attach(request, patience), nil)
        case .detach(let request):
            return (domains.detach(request, patience), nil)
        case .map(let request):
            if request.flags.contains(.mmio), !features.contains(.mmio) { return (.invalid, nil) }
            return (domains.map(request, number: number, at: .now, patience), nil)
        case .unmap(let request):
            return (domains.unmap(request, number: number, at: .now), nil)
        case .probe(let request):
            guard let endpoint = domains.endpoint(request.endpoint) else { return (.notFound, nil) }
            let properties = ProbeProperties.bytes(endpoint.reserved, byteCount: options.probeByteCount)
            return (properties == nil ? .invalid : .ok, properties)
        }
    }

    private func count(_ number: UInt64, _ request: IOMMURequest?, _ status: IOMMUStatus) {
        domains.state.withLock { state in
            state.statistics.requestCount += 1
            if status != .ok { state.statistics.rejectedCount += 1 }
        }
        guard status != .ok, let suppressed = requests.withLock({ $0.rejections.admit(at: .now) }) else { return }
        let rejected = RejectedRequest(number: number, request: request, status: status, suppressedCount: suppressed)
        domains.report(.rejected(rejected))
    }
}

extension IOMMURequest.Kind {
    /// Whether the driver has accepted what the request belongs to; one that it has not is as unknown as any other number.
    fileprivate func isOffered(by features: VirtioFeatures) -> Bool {
        switch self {
        case .attach, .detach: true
        case .map, .unmap: features.contains(.mapUnmap)
        case .probe: features.contains(.probe)
        }
    }
}
