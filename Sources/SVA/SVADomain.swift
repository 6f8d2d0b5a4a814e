import DMA
import LinuxHost

/// What the devices behind one fault queue share of a context: the handling of their faults.
///
/// Its users are devices, not binds; they are counted with the bindings. It keeps the context, not its life. Counterpart
/// of an `iommu_domain` of type `IOMMU_DOMAIN_SVA`.
final class SVADomain: PageFaultHandler {
    let context: AddressSpaceContext
    /// `nil` for devices that cannot ask for pages.
    let queue: FaultQueueCore?

    init(of context: AddressSpaceContext, behind queue: FaultQueueCore?) {
        self.context = context
        self.queue = queue
    }

    func take(_ group: FaultGroup) -> Bool {
        group.enqueue { self.handle(group) }
        return true
    }

    /// Brings the pages in the order in which they were asked for. The first that cannot be brought decides the answer.
    private func handle(_ group: FaultGroup) {
        for request in group.requests {
            // Who was answered meanwhile, by a removal or because it took too long, needs no more pages.
            guard group.isPending else { return }
            LockChecker.callsBack()
            let outcome = context.withLease {
                context.pager.makeAccessible(request.range, for: request.rights, in: context.space)
            }
            guard outcome == .accessible else {
                group.respond(.invalid)
                return
            }
        }
        group.respond(.success)
    }
}
