import Configuration
import PCITopology
import SchemaExamples
import Testing

@Suite struct `Topology files` {
    private func parse(_ text: String) throws -> TopologyConfiguration {
        guard case .topology(let topology) = try ConfigurationFile(parsing: Array(text.utf8)) else {
            Issue.record("read as a device")
            throw CancellationError()
        }
        return topology
    }

    @Test(arguments: SchemaExample.all(of: "topology"))
    func `are accepted and rejected as their schema does`(_ example: SchemaExample) {
        do throws(ConfigurationError) {
            let file = try ConfigurationFile(parsing: example.text)
            #expect(example.isAccepted)
            if case .device = file { Issue.record("read as a device") }
        } catch {
            #expect(!example.isAccepted, "\(error)")
            #expect(!error.description.contains("\n"))
        }
    }

    @Test func `a topology with everything`() throws {
        let topology = try parse(
            """
            {"iommu": {"name": "translator", "address": "00:02.0", "socketPath": "i.sock",
              "options": {"bootBypass": false, "granule": 16384, "addressBits": 39, "maxMappings": 1000}},
             "devices": [
              {"name": "disk", "device": "nvme", "address": "0000:00:03.0", "socketPath": "n.sock",
               "options": {"image": "disk.img", "queues": 4},
               "reservedRegions": [{"first": "0x8000000", "last": 135266303}]},
              {"device": "edu", "address": "01:1f.7", "socketPath": "e.sock", "options": {"dmaMask": 40},
               "behindIOMMU": false}]}
            """)
        var options = IOMMUOptions()
        options.bootBypass = false
        options.granule = 16384
        options.addressBits = 39
        options.maxMappings = 1000
        var iommu = TopologyConfiguration.IOMMU(
            address: PCIAddress(requesterID: 0x10), socketPath: "i.sock", options: options)
        iommu.name = "translator"
        var image = NVMeOptions(image: "disk.img")
        image.queues = 4
        var disk = TopologyConfiguration.Member(
            address: PCIAddress(requesterID: 0x18), socketPath: "n.sock", device: .nvme(image))
        disk.name = "disk"
        disk.reservedRegions = [.init(first: 0x800_0000, last: 0x80f_ffff)]
        var mask = EduOptions()
        mask.dmaMask = 40
        var edu = TopologyConfiguration.Member(
            address: PCIAddress(requesterID: 0x1ff), socketPath: "e.sock", device: .edu(mask))
        edu.isBehindIOMMU = false
        #expect(topology == TopologyConfiguration(iommu: iommu, devices: [disk, edu]))
        #expect(topology.endpoints == [PCIAddress(requesterID: 0x18)])
    }

    @Test func `what has no name is called by what it is and where`() throws {
        let topology = try parse(
            """
            {"iommu": {"address": "00:02.0", "socketPath": "i"},
             "devices": [{"device": "edu", "address": "0000:0A:04.1", "socketPath": "e"}]}
            """)
        #expect(topology.iommu.name == "iommu")
        #expect(topology.devices.map(\.name) == ["edu-0a:04.1"])
        #expect(topology.iommu.options == IOMMUOptions())
        #expect(topology.devices[0].isBehindIOMMU && topology.devices[0].reservedRegions.isEmpty)
    }

    /// A topology in which one thing can be wrong.
    private func text(iommu: String = "", first: String = "", second: String = "") -> String {
        """
        {"iommu": {"address": "00:02.0", "socketPath": "i"\(iommu)},
         "devices": [{"device": "edu"\(first.isEmpty ? #", "address": "00:03.0", "socketPath": "e""# : first)}
                     \(second.isEmpty ? "" : ", {\(second)}")]}
        """
    }

    @Test(arguments: [
        (#", "address": "00:02.0", "socketPath": "e""#, "devices[0].address: 00:02.0 is taken already"),
        (#", "address": "0000:00:02.0", "socketPath": "e""#, "devices[0].address: 00:02.0 is taken already"),
        (#", "address": "00:03.0", "socketPath": "i""#, "devices[0].socketPath: is taken already"),
        (#", "address": "00:03.0", "socketPath": "e", "name": "iommu""#, "devices[0].name: is taken already"),
        (
            #", "address": "3", "socketPath": "e""#,
            "devices[0].address: must be a PCI address such as 00:04.0, in segment 0"
        ),
        (
            #", "address": "00:04.0\n", "socketPath": "e""#,
            "devices[0].address: must be a PCI address such as 00:04.0, in segment 0"
        ),
        (
            #", "address": "00:03.0", "socketPath": "e", "options": {"dmaMask": 65}"#,
            "devices[0].options.dmaMask: must be 12 to 64 bits"
        ),
        (#", "address": "00:03.0", "socketPath": "e", "slot": 3"#, "devices[0].slot: is not known here"),
        (
            #", "address": "00:03.0", "socketPath": "e", "reservedRegions": [{"first": 2, "last": 1}]"#,
            "devices[0].reservedRegions[0].last: must not be before first"
        ),
        (
            #"""
            , "address": "00:03.0", "socketPath": "e",
            "reservedRegions": [{"first": 0, "last": "0xfff"}, {"first": "0xfff", "last": 8000}]
            """#,
            "devices[0].reservedRegions[1]: overlaps one before it"
        ),
        (
            #", "address": "00:03.0", "socketPath": "e", "reservedRegions": [{"first": "0xfeefffff", "last": "0xfff00000"}]"#,
            "devices[0].reservedRegions[0]: overlaps that of interrupts, 0xfee00000 to 0xfeefffff, which always is"
        ),
        (
            #"""
            , "address": "00:03.0", "socketPath": "e", "behindIOMMU": false,
            "reservedRegions": [{"first": 0, "last": 1}]
            """#,
            "devices[0].reservedRegions: is for devices behind the IOMMU"
        ),
    ])
    func `say in one line what is wrong with a device`(members: String, expected: String) {
        #expect(complaint(text(first: members)) == expected)
    }

    @Test(arguments: [
        (#""device": "edu", "address": "00:03.0", "socketPath": "f""#, "devices[1].address: 00:03.0 is taken already"),
        (#""device": "edu", "address": "00:04.0", "socketPath": "e""#, "devices[1].socketPath: is taken already"),
        (
            #""device": "edu", "address": "00:04.0", "socketPath": "f", "name": "iommu""#,
            "devices[1].name: is taken already"
        ),
        (#""device": "nvme", "address": "00:04.0", "socketPath": "f""#, "devices[1].options.image: is missing"),
        (
            #""device": "nvme", "address": "00:04.0", "socketPath": "f", "#
                + #""options": {"image": "a", "size": 512, "blockSize": 4096}"#,
            "devices[1].options.size: must be a multiple of the block size"
        ),
        (#""address": "00:04.0", "socketPath": "f""#, "devices[1].device: is missing"),
        (
            #""device": "floppy", "address": "00:04.0", "socketPath": "f""#,
            "devices[1].device: must be nvme, edu, copy-engine or virtio-rng"
        ),
    ])
    func `say in one line what is wrong with another device`(members: String, expected: String) {
        #expect(complaint(text(second: members)) == expected)
    }

    @Test(arguments: [
        (#"{"devices": []}"#, "iommu: is missing"),
        (#"{"iommu": {}}"#, "iommu.address: is missing"),
        (#"{"iommu": {"address": "00:02.0", "socketPath": "i"}}"#, "devices: is missing"),
        (
            #"{"iommu": {"address": "00:02.0", "socketPath": "i"}, "devices": []}"#,
            "devices: must be an array of 1 to 64 devices"
        ),
        (
            #"{"iommu": {"address": "00:02.0", "socketPath": "i"}, "devices": ["edu"]}"#,
            "devices[0]: must be an object"
        ),
        (
            #"{"iommu": {"address": "00:02.0", "socketPath": "i"}, "devices": 1}"#,
            "devices: must be an array of 1 to 64 devices"
        ),
    ])
    func `say in one line what is wrong with the whole`(text: String, expected: String) {
        #expect(complaint(text) == expected)
    }

    @Test(arguments: [
        (#""granule": 2048"#, "iommu.options.granule: must be 4096, 8192, 16384 or 65536 bytes"),
        (#""addressBits": 65"#, "iommu.options.addressBits: must be 32 to 64 bits"),
        (#""maxMappings": 0"#, "iommu.options.maxMappings: must be 1 to 16777216"),
        (#""bootBypass": "on""#, "iommu.options.bootBypass: must be true or false"),
        (#""bypass": true"#, "iommu.options.bypass: is not known here"),
    ])
    func `say in one line what is wrong with the IOMMU's options`(option: String, expected: String) {
        #expect(complaint(text(iommu: #", "options": {\#(option)}"#)) == expected)
    }
}
