import LinuxHost

/// What the lock checker knows this module's locks by, and what counts as locks.
///
/// They are hardly ever held together. While pending faults are locked the device is answered, which may take locks of its
/// own; and while bindings are locked a device is entered at its fault queue. Nothing else is called under a lock but a
/// trace.
extension LockClass {
    static let pendingFaults = LockClass("the lock of a device's pending faults")
    static let bindings = LockClass("the lock of a PASID space's bindings", .forbidsCallbacks)
    static let context = LockClass("an address space context's lock", .forbidsCallbacks)
    static let slot = LockClass("a PASID slot's lock", .forbidsCallbacks)
    static let slotList = LockClass("the lock of a PASID table's list", .forbidsCallbacks)
    static let faultState = LockClass("the lock of a device's place at a fault queue", .forbidsCallbacks)
    static let faultWork = LockClass("the lock of a fault queue's work", .forbidsCallbacks)
    static let faultDeadlines = LockClass("the lock of a fault queue's deadlines", .forbidsCallbacks)
    static let faultThreads = LockClass("the lock of a fault queue's threads", .forbidsCallbacks)
    static let faultChannel = LockClass("a fault channel's lock", .forbidsCallbacks)
    static let pageRequests = LockClass("a page request interface's lock", .forbidsCallbacks)
    static let translationCache = LockClass("a translation cache's lock", .forbidsCallbacks)

    /// Shared by the threads that handle a device's faults. A flush waits for it, and so does an access that faults.
    static let faultHandling = LockClass("the handling of a device's faults")
    /// Shared by the threads that report requests of a device to their handlers. A reset or removal waits for it.
    static let requestSending = LockClass("the sending of page requests")
    /// Held by whoever moves an attachment to another address space. An access that misses meanwhile waits for it.
    static let replacing = LockClass("the replacement of a PASID's address space")
    /// Shared by the threads that handle a fault of a context. The end of the context waits for it.
    static let lease = LockClass("a lease of an address space context")
    /// Shared by the threads that use a cached translation. An invalidation of all waits for it.
    static let translationUse = LockClass("the use of a cached translation")
}
