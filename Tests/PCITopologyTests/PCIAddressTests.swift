import PCITopology
import Testing

@Suite struct `PCI addresses` {
    @Test(
        arguments: [
            ("00:00.0", 0), ("00:04.0", 0x20), ("0000:00:04.0", 0x20), ("00:1f.7", 0xff), ("00:1F.7", 0xff),
            ("01:00.0", 0x100), ("ff:1f.7", 0xffff), ("0000:Ab:0c.3", 0xab63),
        ] as [(String, UInt16)])
    func `are read as lspci prints them`(text: String, requesterID: UInt16) {
        #expect(PCIAddress(text)?.requesterID == requesterID)
    }

    @Test(arguments: [
        "", "4", "00:04", "04.0", "00:04.", "00:4.0", "0:04.0", "000:04.0", "00:04.8", "00:20.0", "00:04.0.0",
        "0001:00:04.0", "000:00:04.0", ":00:04.0", "0000:0000:00:04.0", "+0:04.0", "-0:04.0", "00:+4.0", "00:04.+0",
        "0x:04.0", "00:0g.0", " 00:04.0", "00:04.0 ", "00:04.0\n", "٠٠:٠٤.٠", "００:04.0",
    ])
    func `are nothing else`(text: String) {
        #expect(PCIAddress(text) == nil)
    }

    @Test func `are written as they are read`() {
        for requesterID in UInt16.min...UInt16.max {
            let address = PCIAddress(requesterID: requesterID)
            #expect(PCIAddress(address.description) == address)
        }
        #expect(PCIAddress(requesterID: 0xab63).description == "ab:0c.3")
        let parts = PCIAddress(requesterID: 0xab63)
        #expect((parts.bus, parts.device, parts.function) == (0xab, 0x0c, 3))
    }
}
