public import DMA

/// The number by which a device and whoever answers it know a group of page requests. 9 bits
public struct PageRequestGroupIndex: RawRepresentable, Hashable, Sendable {
    /// How many a function has; all of them may be outstanding at once.
    public static let count: UInt16 = 512

    public let rawValue: UInt16

    /// `nil` for what does not fit 9 bits.
    public init?(rawValue: UInt16) {
        guard rawValue < PageRequestGroupIndex.count else { return nil }
        self.rawValue = rawValue
    }
}

/// A device's message that it wants to reach a page. PCI Express, "Page Request Message"; `struct iommu_fault_page_request`
public struct PageRequest: Hashable, Sendable {
    /// What a request asks for, in bytes: the unit of the message, whatever the pages of the address space are.
    public static let pageSize: UInt64 = 4096

    public let pasid: PASID?
    /// The first address of the page.
    public let page: IOVA
    /// What it wants to do there; empty in a stop marker.
    public let rights: AccessRights
    public let group: PageRequestGroupIndex
    /// Whether it completes its group, which is answered only then.
    public let isLast: Bool

    /// - Parameter address: any address of the page.
    public init(pasid: PASID?, address: IOVA, rights: AccessRights, group: PageRequestGroupIndex, isLast: Bool) {
        self.pasid = pasid
        page = IOVA(address.rawValue & ~(PageRequest.pageSize - 1))
        self.rights = rights
        self.group = group
        self.isLast = isLast
    }

    /// The bytes of the page.
    public var range: IOVARange {
        IOVARange(first: page, last: IOVA(page.rawValue | (PageRequest.pageSize - 1)))
    }

    /// Whether it only says that no earlier request is still on its way. Nobody answers it.
    public var isStopMarker: Bool { isLast && rights.isEmpty }
}

/// The one answer to a group of page requests. PCI Express, "PRG Response Message"; `struct iommu_page_response`
public struct PageResponse: Hashable, Sendable {
    public enum Code: Hashable, Sendable, CaseIterable {
        /// The pages are there: access them now. They may be gone again by then. `IOMMU_PAGE_RESP_SUCCESS`
        case success
        /// This access will never be allowed: give it up. `IOMMU_PAGE_RESP_INVALID`
        case invalid
        /// Nobody can answer page requests any more: send none. `IOMMU_PAGE_RESP_FAILURE`
        case failure
    }

    public let group: PageRequestGroupIndex
    /// The PASID of the group's last request, for a device that wants it.
    public let pasid: PASID?
    public let code: Code

    public init(group: PageRequestGroupIndex, pasid: PASID?, code: Code) {
        self.group = group
        self.pasid = pasid
        self.code = code
    }
}
