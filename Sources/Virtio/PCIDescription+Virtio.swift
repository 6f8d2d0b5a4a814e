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
            vendorCapabilities: VendorCapability.ofVirtio, doorbells: doorbells)
    }
}

extension VendorCapability {
    /// Where the structures are, in the order in which drivers are to prefer them, and the way to them through configuration
    /// space. Virtio 1.2, 4.1.4
    fileprivate static var ofVirtio: [VendorCapability] {
        [
            VendorCapability("Virtio Common Configuration", of: StructureLayout.common),
            VendorCapability("Virtio Interrupt Status", of: StructureLayout.interruptStatus),
            VendorCapability("Virtio Device Configuration", of: StructureLayout.device),
            VendorCapability(
                "Virtio Notifications", of: StructureLayout.notify, StructureLayout.notifyMultiplier.littleEndianBytes),
            .window("Virtio Configuration Access", type: 5),
        ]
    }

    /// `struct virtio_pci_cap` from its type on: base address register, identifier, padding, offset, length, and then what
    /// the type adds.
    private init(_ name: String, of structure: StructureLayout.Structure, _ more: [UInt8] = []) {
        let place = UInt32(structure.offset).littleEndianBytes + UInt32(structure.byteCount).littleEndianBytes
        self.init(name, body: [structure.type, UInt8(StructureLayout.bar), 0, 0, 0] + place + more)
    }
}

extension UInt32 {
    fileprivate var littleEndianBytes: [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: self >> ($0 * 8)) } }
}
