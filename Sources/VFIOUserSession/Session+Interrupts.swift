import DeviceModel
import LinuxHost
import VFIOUserWire

extension Session {
    func describeInterrupt(
        _ request: InterruptInfoRequest, _ header: MessageHeader, _ reply: inout SessionReply
    ) throws(RequestRefusal) {
        let kind = try interruptKind(request.index)
        let flags: InterruptInfo.Flags =
            switch kind {
            case .intx: [.eventDescriptors, .maskable, .masksItself]
            case .msi: [.eventDescriptors, .cannotGrow]
            case .msix: [.eventDescriptors]
            case .error, .request: [.eventDescriptors, .cannotGrow]
            }
        let info = InterruptInfo(index: request.index, flags: flags, vectorCount: device.interrupts.count(kind))
        reply.answer(header) { info.write(to: &$0) }
    }

    func setInterrupts(
        _ request: SetInterrupts, _ payload: Span<UInt8>, _ descriptors: inout DescriptorBundle
    ) throws(RequestRefusal) {
        let kind = try interruptKind(request.index)
        if request.disablesIndex {
            device.interrupts.disable(kind)
            return
        }
        let count = device.interrupts.count(kind)
        guard request.vectors.upperBound <= UInt32(count) else { throw .noSuchInterrupt(request.index) }
        // A device's errors and requests to let go of it are told, and that is all.
        if kind == .error || kind == .request, request.action != .trigger { throw .unsupportedInterruptChange }
        let vectors = Int(request.vectors.lowerBound)..<Int(request.vectors.upperBound)
        switch request.data {
        case .descriptors:
            try connect(kind, request.action, vectors, &descriptors)
        case .none:
            for vector in vectors { apply(request.action, kind, vector) }
        case .booleans:
            for (number, vector) in vectors.enumerated()
            where payload[SetInterrupts.booleansOffset + number] != 0 {
                apply(request.action, kind, vector)
            }
        }
    }

    private func apply(_ action: SetInterrupts.Action, _ kind: InterruptKind, _ vector: Int) {
        switch action {
        case .mask: device.interrupts.mask(kind, vector)
        case .unmask: device.interrupts.unmask(kind, vector)
        case .trigger: device.interrupts.trigger(kind, vector)
        }
    }

    /// Connects as many counters as there are vectors, or disconnects the vectors when there are none. Nothing changes
    /// unless every descriptor is an event counter.
    private func connect(
        _ kind: InterruptKind, _ action: SetInterrupts.Action, _ vectors: Range<Int>,
        _ descriptors: inout DescriptorBundle
    ) throws(RequestRefusal) {
        var counters = [EventCounter?](repeating: nil, count: vectors.count)
        for number in counters.indices {
            guard let descriptor = descriptors.takeFirst() else { break }
            do throws(Errno) {
                counters[number] = try EventCounter(adopting: descriptor)
            } catch {
                throw .descriptor(error)
            }
        }
        switch action {
        case .trigger: device.interrupts.connect(kind, from: vectors.lowerBound, to: counters)
        case .mask where kind == .intx: device.interrupts.controls.mask = counters[0]
        case .unmask where kind == .intx: device.interrupts.controls.unmask = counters[0]
        case .mask, .unmask: throw .unsupportedInterruptChange
        }
    }

    private func interruptKind(_ index: UInt32) throws(RequestRefusal) -> InterruptKind {
        guard let number = Int(exactly: index), let kind = InterruptKind(rawValue: number) else {
            throw .noSuchInterrupt(index)
        }
        return kind
    }
}
