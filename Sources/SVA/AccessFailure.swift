public import DMA

/// Why a device's access did not come to pass. None of them says anything about other accesses but `failed`, after which
/// no page is asked for, and `stopped`.
public enum AccessFailure: Error, Hashable, Sendable {
    /// The memory refused it, and nobody was to be asked for a page, or no page was missing.
    case memory(DMAError)
    /// The page was asked for and will not be there. `IOMMU_PAGE_RESP_INVALID`
    case refused
    /// The page was asked for and nobody can answer; page requests are off from now on. `IOMMU_PAGE_RESP_FAILURE`
    case failed
    /// The page was asked for, answered with success, and was gone, as often as is borne.
    case tooManyFaults
    /// No page could be asked for, because those asked for earlier were not answered in time; or the address space was being
    /// replaced for as long.
    case timedOut
    /// The device does not run: it was not started, is reset or removed.
    case stopped
}
