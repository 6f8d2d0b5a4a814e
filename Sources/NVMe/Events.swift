import DeviceModel

/// Events that a host wants to be told of, and its requests to be told.
struct Events {
    /// Requests that wait for an event, longest waiting first.
    var requests: [CommandID] = []
    /// Events that wait for a request or for their type to be unmasked. At most one of each kind, which bounds it.
    private var pending: [AsynchronousEvent] = []
    /// Counts events; the number of each kind's last one is what a reading of its log page is compared with.
    private(set) var count = 0
    private var lastNumbers: [AsynchronousEvent: Int] = [:]
    /// Types that were told of and whose log page has not been read since.
    private var maskedTypes: Set<UInt8> = []

    mutating func raise(_ event: AsynchronousEvent) {
        count += 1
        lastNumbers[event] = count
        if !pending.contains(event) { pending.append(event) }
    }

    var hasDeliverable: Bool { pending.contains { !maskedTypes.contains($0.type) } }

    /// The next event to tell, which masks its type.
    mutating func takeDeliverable() -> AsynchronousEvent? {
        guard let index = pending.firstIndex(where: { !maskedTypes.contains($0.type) }) else { return nil }
        let event = pending.remove(at: index)
        maskedTypes.insert(event.type)
        return event
    }

    /// Takes note that the host has read a log page, made when there were `count` events: it knows of what led there by
    /// then and wants to hear of what came next.
    mutating func didRead(_ page: LogPage, madeAfter count: Int) {
        pending.removeAll { $0.logPage == page && lastNumbers[$0, default: 0] <= count }
        switch page {
        case .errorInformation: maskedTypes.remove(AsynchronousEvent.invalidDoorbellValue.type)
        case .health: maskedTypes.remove(AsynchronousEvent.temperatureThreshold.type)
        case .supportedLogPages, .firmwareSlot, .commandEffects, .featureEffects, .managementCommandEffects: break
        }
    }
}

extension Events {
    func save(into writer: inout StateWriter) {
        writer.append(count: requests.count)
        for request in requests { writer.append(request.rawValue) }
        writer.append(UInt64(count))
        for event in AsynchronousEvent.allCases {
            writer.append(UInt64(lastNumbers[event, default: 0]))
            writer.append(maskedTypes.contains(event.type))
        }
        writer.append(count: pending.count)
        for event in pending { writer.append(event.rawValue) }
    }

    init(from reader: inout StateReader) throws(StateError) {
        for _ in 0..<(try reader.count(atMost: ControllerIdentity.eventRequestLimit, "event requests")) {
            requests.append(CommandID(rawValue: try reader.integer()))
        }
        count = try Self.number(from: &reader)
        for event in AsynchronousEvent.allCases {
            lastNumbers[event] = try Self.number(from: &reader)
            if try reader.flag("event type") { maskedTypes.insert(event.type) }
        }
        for _ in 0..<(try reader.count(atMost: AsynchronousEvent.allCases.count, "events")) {
            guard let event = AsynchronousEvent(rawValue: try reader.integer()), !pending.contains(event) else {
                throw .impossible("event")
            }
            pending.append(event)
        }
    }

    /// A number of events, with room to count on.
    private static func number(from reader: inout StateReader) throws(StateError) -> Int {
        let number = try reader.integer(UInt64.self)
        guard number < 1 << 48 else { throw .impossible("number of events") }
        return Int(number)
    }
}
