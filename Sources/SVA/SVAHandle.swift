public import DMA

/// A device's binding to a context: as long as it lasts, accesses with its PASID reach the context's memory.
///
/// Binding the same two again returns the same handle with one user more. Each bind is undone by one `unbind`; a removal
/// of the device undoes all. Counterpart of `struct iommu_sva`.
public final class SVAHandle: Sendable {
    public let device: SVADevice
    public var context: AddressSpaceContext { domain.context }
    let domain: SVADomain
    let number: PASID

    init(of device: SVADevice, in domain: SVADomain, as number: PASID) {
        self.device = device
        self.domain = domain
        self.number = number
    }

    var key: Bindings.Key { Bindings.Key(device, domain.context) }

    /// The number of binds that are not undone.
    public var users: Int { device.pasids.users(of: self) }

    /// What the device's accesses carry; `nil` once it is unbound, when the number may be another context's.
    public var pasid: PASID? { users > 0 ? number : nil }

    /// Undoes one bind. With the last one the PASID is detached from the device, but not from others.
    ///
    /// The device must use the PASID no more by then: what it still accesses fails. Waits for the faults that are being
    /// handled, no longer than the device's configuration says; whoever still waits for an answer gets `invalid`.
    ///
    /// - Precondition: a bind is left, or the device was removed.
    /// - Throws: `EDEADLOCK` when the device keeps pins though told for as long as an unmap would. Then it is still bound.
    public func unbind() throws(DMAError) { try device.pasids.unbind(self) }
}
