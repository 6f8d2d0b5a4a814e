import DeviceModel
import PCI

extension VirtioDescription {
    /// One vector for the configuration and one for each queue.
    var vectorCount: Int { queueSizes.count + 1 }
}

extension PCIDescription {
    /// The function that a virtio device is. Virtio 1.2, 4.1.2
    init(_ device: VirtioDescription) {
        let doorbells = device.queueSizes.indices.map { number in
            Doorbell(
                region: StructureLayout.bar,
                offset: StructureLayout.notify.offset + UInt64(number) * UInt64(StructureLayout.notifyMultiplier),
                value: UInt64(number), byteCount: 2, rungBy: [.value(UInt64(number), byteCount: 2)])
        }
        self.init(
            vendorID: 0x1af4, deviceID: 0x1040 + device.deviceType, subsystemVendorID: 0x1af4, subsystemID: 0x1100,
            revision: 1, classCode: device.classCode,
            bars: [
                BaseAddressRegister(
                    StructureLayout.vectorBar, .memory32, byteCount: StructureLayout.vectorBarByteCount),
                BaseAddressRegister(
                    StructureLayout.bar, .memory64, byteCount: StructureLayout.barByteCount, isPrefetchable: true),
            ],
            msix: MSIXDescription(
                vectorCount: device.vectorCount, bar: StructureLayout.vectorBar, tableOffset: 0,
                pendingOffset: StructureLayout.pendingOffset),
            doorbells: doorbells)
    }
}
