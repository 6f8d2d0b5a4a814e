/// The regions of a PCI device by what they are; base address registers are regions 0 to 5. `VFIO_PCI_*_REGION_INDEX`
public enum PCIRegion {
    public static let expansionROM = 6
    public static let configuration = 7
    public static let vga = 8
}

/// The kinds of interrupts of a PCI device. `VFIO_PCI_*_IRQ_INDEX`
public enum PCIInterrupt {
    public static let intx = 0
    public static let msi = 1
    public static let msix = 2
    /// The device has failed.
    public static let error = 3
    /// The device is wanted back.
    public static let request = 4
}
