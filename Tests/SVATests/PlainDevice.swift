import DMA
import LinuxHost
import SVA

/// A device that reports page requests by hand and notes the answers: what makes requests, but no accesses.
final class PlainDevice: FaultingDevice {
    let faultState = FaultState()
    let canRespond: Bool
    let outstandingRequestLimit: Int
    let wantsPASIDInResponses: Bool
    private let routes = Shared<[PASID?: FaultRoute]>([:])
    private let list = Shared<[PageResponse]>([])
    private let onResponse: @Sendable (PageResponse) -> Void
    private let onLookup: @Sendable () -> Void

    /// - Parameter onLookup: called after each look at where a fault goes.
    init(
        canRespond: Bool = true, limit: Int = 64, wantsPASID: Bool = true,
        onResponse: @escaping @Sendable (PageResponse) -> Void = { _ in },
        onLookup: @escaping @Sendable () -> Void = {}
    ) {
        self.onLookup = onLookup
        self.canRespond = canRespond
        outstandingRequestLimit = limit
        wantsPASIDInResponses = wantsPASID
        self.onResponse = onResponse
    }

    func faultRoute(for pasid: PASID?) -> FaultRoute? {
        defer { onLookup() }
        return routes.value[pasid]
    }

    func route(_ pasid: PASID?, to handler: any PageFaultHandler, attachment: UInt64 = 1) {
        routes.update { $0[pasid] = FaultRoute(handler: handler, attachment: attachment) }
    }

    func respond(_ response: PageResponse) {
        onResponse(response)
        list.update { $0.append(response) }
    }

    var responses: [PageResponse] { list.value }

    func waitForResponses(_ count: Int) { list.wait { $0.count >= count } }

    /// Reports a request for a page, by number.
    func report(
        _ number: UInt64, group: UInt16 = 0, isLast: Bool = true, _ pasid: PASID? = PASID(rawValue: 1),
        rights: AccessRights = .read
    ) throws(DMAError) {
        try FaultQueue.report(
            PageRequest(
                pasid: pasid, address: IOVA(number * page), rights: rights, group: index(group), isLast: isLast),
            from: self)
    }
}

/// A handler that keeps the groups it takes, for the test to answer.
final class GroupKeeper: PageFaultHandler {
    private let list = Shared<[FaultGroup]>([])
    private let accepts: Bool
    private let onTake: @Sendable (FaultGroup) -> Void

    init(accepts: Bool = true, onTake: @escaping @Sendable (FaultGroup) -> Void = { _ in }) {
        self.accepts = accepts
        self.onTake = onTake
    }

    func take(_ group: FaultGroup) -> Bool {
        onTake(group)
        if accepts { list.update { $0.append(group) } }
        return accepts
    }

    var groups: [FaultGroup] { list.value }

    func wait(for count: Int) { list.wait { $0.count >= count } }

    func forget() { list.update { $0 = [] } }
}

/// A handler that hands groups on and knows which are still there.
final class GroupWatch: PageFaultHandler {
    private struct Place {
        weak var group: FaultGroup?
    }

    private let handler: any PageFaultHandler
    private let places = Monitor<[Place]>([])

    init(_ handler: any PageFaultHandler) { self.handler = handler }

    func take(_ group: FaultGroup) -> Bool {
        places.withLock { $0.append(Place(group: group)) }
        return handler.take(group)
    }

    var aliveCount: Int { places.withLock { places in places.count { $0.group != nil } } }
}

extension FaultGroup {
    /// The pages it asks for, by number.
    var pageNumbers: [UInt64] { requests.map { $0.page.rawValue / page } }
}

/// An answer with the PASID that `report` uses.
func answer(_ code: PageResponse.Code, group: UInt16 = 0, _ pasid: PASID? = PASID(rawValue: 1)) -> PageResponse {
    PageResponse(group: index(group), pasid: pasid, code: code)
}
