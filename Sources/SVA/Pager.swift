public import DMA

/// Who decides whether a device may reach a page of a context, and puts it there.
///
/// Called on a thread of a fault queue, for several pages at once on several threads, with no lock held and the context
/// alive until it returns. It may map and unmap in the space, and take locks that nobody holds while its device accesses
/// memory. It must come to an end: the device is answered without it after the queue's time, but its thread is gone until
/// then. It must not end the context, and must not unbind, detach or remove a device whose fault this is: all three wait
/// for it.
public protocol Pager: Sendable {
    /// Makes a page accessible to devices, by mapping it, or tells that it is not to be.
    ///
    /// It may be accessible already: two devices may ask at the same time.
    func makeAccessible(_ page: IOVARange, for rights: AccessRights, in space: IOAddressSpace) -> PagingOutcome
}

public enum PagingOutcome: Hashable, Sendable {
    /// The page is mapped with the rights.
    case accessible
    /// There is nothing at the address, or not with these rights, or it cannot be brought.
    case refused
}
