import Configuration
import SchemaExamples
import Testing

@Suite struct `Configuration files` {
    private func parse(_ text: String) throws -> DeviceConfiguration {
        let file = try ConfigurationFile(parsing: Array(text.utf8))
        guard case .device(let configuration) = file else {
            Issue.record("read as a topology")
            throw CancellationError()
        }
        return configuration
    }

    @Test(arguments: SchemaExample.all(of: "device-options"))
    func `are accepted and rejected as their schema does`(_ example: SchemaExample) {
        do throws(ConfigurationError) {
            let file = try ConfigurationFile(parsing: example.text)
            #expect(example.isAccepted)
            if case .topology = file { Issue.record("read as a topology") }
        } catch {
            #expect(!example.isAccepted, "\(error)")
            #expect(!error.description.contains("\n"))
        }
    }

    @Test func `an NVMe disk with everything`() throws {
        let configuration = try parse(
            """
            {"device": "nvme", "socketPath": "/run/nvme.sock", "options": {"image": "disk.img", "size": "2GiB",
             "readOnly": true, "serial": "S1", "queues": 8, "blockSize": 4096}}
            """)
        var options = NVMeOptions(image: "disk.img")
        options.size = 2 << 30
        options.readOnly = true
        options.serial = "S1"
        options.queues = 8
        options.blockSize = 4096
        #expect(configuration == .init(device: .nvme(options), listener: .socketPath("/run/nvme.sock")))
        #expect(configuration.device.name == "nvme")
    }

    @Test func `several clients are a matter of the server, not of the device`() throws {
        let configuration = try parse(#"{"device": "edu", "maxClients": 8}"#)
        #expect(configuration.maxClients == 8 && configuration.device == .edu(EduOptions()))
        #expect(try parse(#"{"device": "edu"}"#).maxClients == nil)
    }

    @Test func `what a file leaves out is left to the tool`() throws {
        #expect(
            try parse(#"{"device": "edu", "fd": 3}"#) == .init(device: .edu(EduOptions()), listener: .descriptor(3)))
        #expect(
            try parse(#"{"device": "nvme", "options": {"image": "a"}}"#) == .init(device: .nvme(.init(image: "a"))))
    }

    @Test(arguments: [
        (#"{"device":"nvme","options":{"image":"a","queues":65}}"#, "options.queues: must be 1 to 64"),
        (#"{"device":"nvme","options":{"image":"a","queue":1}}"#, "options.queue: is not known here"),
        (#"{"device":"nvme","options":{}}"#, "options.image: is missing"),
        (#"{"device":"nvme"}"#, "options.image: is missing"),
        (#"{"device":"nvme","options":7}"#, "options: must be an object"),
        (#"{"device":"nvme","options":{"image":"a","blockSize":1024}}"#, "options.blockSize: must be 512 or 4096"),
        (
            #"{"device":"nvme","options":{"image":"a","size":512,"blockSize":4096}}"#,
            "options.size: must be a multiple of the block size"
        ),
        (#"{"device":"edu","options":{"dmaMask":65}}"#, "options.dmaMask: must be 12 to 64 bits"),
        (#"{"device":"edu","maxClients":65}"#, "maxClients: must be 1 to 64"),
        (#"{"device":"disk"}"#, "device: must be nvme, edu, copy-engine or virtio-rng"),
        (#"{"device":"copy-engine","options":{"pageTimeout":0}}"#, "options.pageTimeout: must be 1 to 3600 seconds"),
        (#"{"device":"copy-engine","options":{"dmaMask":40}}"#, "options.dmaMask: is not known here"),
        (#"{"options":{}}"#, "device: is missing"),
        (#"{"device":"edu","socketPath":"a","fd":3}"#, "fd: cannot be given together with socketPath"),
        ("[]", "must be an object"),
        ("", "not JSON: ends too early"),
        ("{\n  \"device\": 'edu'\n}", "not JSON: unexpected character in line 2, column 13"),
        (#"{"device":"edu","device":"edu"}"#, "not JSON: a name is given twice in one object"),
    ])
    func `say in one line what is wrong`(text: String, expected: String) {
        #expect(complaint(text) == expected)
    }

    @Test func `a socket path is measured in bytes`() {
        let path = String(repeating: "ü", count: 54)
        let text = #"{"device":"edu","socketPath":"\#(path)"}"#
        #expect(complaint(text) == "socketPath: must be a path of 1 to 107 bytes")
    }
}

/// What is wrong with a file; `nil` for one that is right.
func complaint(_ text: String) -> String? {
    do throws(ConfigurationError) {
        _ = try ConfigurationFile(parsing: Array(text.utf8))
        return nil
    } catch {
        return error.description
    }
}

@Suite struct `Storage sizes` {
    @Test(
        arguments: [
            ("512", 512), ("1048576", 1 << 20), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("1G", 1 << 30),
            ("20M", 20 << 20),
            ("3T", 3 << 40), ("1TiB", 1 << 40),
            ("999999TiB", 999_999 << 40), ("1152921504606846976", 1 << 60),
        ] as [(String, UInt64)])
    func `are read`(text: String, byteCount: UInt64) {
        #expect(StorageSize(text)?.byteCount == byteCount)
    }

    @Test(arguments: [
        "", "0", "0GiB", "01GiB", "1", "513", "-1GiB", "+1GiB", "1 GiB", "1GB", "1gib", "1KiB", "GiB", "1.5GiB",
        "1000000MiB", "1152921504606847488", "18446744073709551616", "99999999999999999999GiB", "1GiB ", "0x200", "٥١٢",
    ])
    func `are refused`(text: String) {
        #expect(StorageSize(text) == nil)
    }
}
