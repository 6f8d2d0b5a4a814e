import DMA
import LinuxHost

/// What happens to an access that misses.
extension SVADevice {
    /// Tries an access until it succeeds, or the pages that it misses cannot be had.
    ///
    /// - Parameter range: what is left to be accessed, whenever it is asked for.
    func withFaults<Result: ~Copyable>(
        _ pasid: PASID?, _ range: @autoclosure () -> IOVARange, _ rights: AccessRights, at place: SourcePlace,
        _ attempt: (PASIDSlot) throws(DMAError) -> Result
    ) throws(AccessFailure) -> Result {
        // A request for no rights is a stop marker, and nobody would answer it.
        guard !rights.isEmpty else { throw .memory(.invalid) }
        if LockChecker.isOn { tellAccess(pasid, at: place) }
        var progress = FaultProgress(limit: configuration.faultRetries)
        while true {
            guard isRunning else { throw .stopped }
            let slot = table.slot(of: pasid)
            let moveCount = slot?.moveCount ?? 0
            let error: DMAError
            do throws(DMAError) {
                guard let slot else { throw .notFound }
                return try attempt(slot)
            } catch let refusal {
                error = refusal
            }
            switch error {
            // A mapping that is just being unmapped is `invalid`: it is about to be missing.
            case .notFound, .notPermitted, .invalid: break
            default: throw .memory(error)
            }
            if let slot {
                guard let hasMoved = slot.hasMoved(since: moveCount, patience: configuration.requestPatience) else {
                    throw .timedOut
                }
                if hasMoved { continue }
            }
            guard faultRoute(for: pasid) != nil else { throw unrecoverable(error, pasid, range(), rights) }
            let missing = missingPages(of: range(), rights, in: slot?.space, from: progress.scanStart)
            try progress.note(missing.first, after: error)
            if !missing.isEmpty { try ask(for: missing, rights, pasid, error, range()) }
        }
    }

    private func ask(
        for pages: [IOVA], _ rights: AccessRights, _ pasid: PASID?, _ error: DMAError, _ range: IOVARange
    ) throws(AccessFailure) {
        let outcome = pageRequests.ask(
            for: pages, rights: rights, pasid: pasid, patience: configuration.requestPatience
        ) { request in
            trace(.requested(request))
            do throws(DMAError) {
                try FaultQueue.report(request, from: self)
            } catch {
                // The device is answered all the same: this tells only who reports why.
            }
        }
        switch outcome {
        case .answered(.success): return
        case .answered(.invalid): throw isRunning ? .refused : .stopped
        case .answered(.failure): throw .failed
        case .timedOut: throw .timedOut
        case .notEnabled(.failed): throw .failed
        // A device that can be answered has page requests enabled whenever it runs.
        case .notEnabled: throw canRespond ? .stopped : unrecoverable(error, pasid, range, rights)
        }
    }

    /// Tells that an access begins, which waits for replacements and the handling of faults if it misses, though it may not
    /// this time.
    @inline(never)
    private func tellAccess(_ pasid: PASID?, at place: SourcePlace) {
        if let slot = table.slot(of: pasid) {
            LockChecker.passes(
                through: .replacing, instance: ObjectIdentifier(slot), file: place.file, line: place.line)
        }
        guard pageRequests.standing == .enabled, faultRoute(for: pasid) != nil else { return }
        LockChecker.passes(
            through: .faultHandling, instance: ObjectIdentifier(self), file: place.file, line: place.line)
    }

    /// An access failed whose page nobody can be asked for, unless that is because the device was stopped meanwhile.
    private func unrecoverable(
        _ error: DMAError, _ pasid: PASID?, _ range: IOVARange, _ rights: AccessRights
    ) -> AccessFailure {
        guard isRunning else { return .stopped }
        trace(.unrecoverable(pasid, range, rights))
        return .memory(error)
    }

    /// An address in each of the first pages of a range that an access would miss, as many as one group asks for. A page
    /// that is there but cannot be pinned, because it is reached by messages, is not missing.
    ///
    /// However long the range, it costs no more than what is mapped there.
    ///
    /// - Parameter space: what the range is in; in none everything is missing.
    private func missingPages(
        of range: IOVARange, _ rights: AccessRights, in space: IOAddressSpace?, from start: IOVA?
    ) -> [IOVA] {
        let limit = min(configuration.requestsPerGroup, configuration.outstandingRequests)
        var pages: [IOVA] = []
        var next: UInt64? = max(start ?? range.first, range.first).rawValue
        while pages.count < limit, let first = next, first <= range.last.rawValue {
            var missing = IOVA(first)
            if let space {
                let rest = IOVARange(first: missing, last: range.last)
                guard let fault = space.firstFault(in: rest, for: rights) else { break }
                missing = fault.address
            }
            pages.append(missing)
            let lastOfPage = missing.rawValue | (PageRequest.pageSize - 1)
            next = lastOfPage == .max ? nil : lastOfPage + 1
        }
        return pages
    }
}

/// How far an access has come by asking for pages, so that it ends.
struct FaultProgress {
    /// Where it is known that nothing was missing below.
    private(set) var scanStart: IOVA?
    private var farthest: IOVA?
    private var retries = 0
    /// Those of them that found nothing to ask for.
    private var idleRetries = 0
    private let limit: Int

    init(limit: Int) { self.limit = limit }

    /// Notes the first page that is missing; `nil` when none was found, though the access had missed.
    ///
    /// - Throws: when as many tries in a row as the limit says have come no further, `tooManyFaults`; but the memory's own
    ///   refusal if no page of it was missing at any of them, as for a pin of memory that is reached by messages.
    mutating func note(_ first: IOVA?, after error: DMAError) throws(AccessFailure) {
        if let first, farthest.map({ first > $0 }) ?? true {
            farthest = first
            scanStart = first
            retries = 0
            idleRetries = 0
            return
        }
        // It is back, or what is missing lies below where it was looked for.
        scanStart = nil
        retries += 1
        if first == nil { idleRetries += 1 }
        guard retries >= limit else { return }
        throw idleRetries == retries ? .memory(error) : .tooManyFaults
    }
}
