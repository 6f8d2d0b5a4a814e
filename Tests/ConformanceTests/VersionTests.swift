import Edu
import LinuxHost
import Testing
import VFIOUserCheck

@Suite struct Version {
    @Test(arguments: [
        (Number.getDeviceInfo, Payload.deviceInfo()), (Number.mapDMA, Payload.map(at: 0, size: 4096)),
        (Number.resetDevice, []), (Number.dirtyPages, pattern(8)),
    ])
    func `S21 a first message that is not the version is refused and the connection closed`(
        command: UInt16, payload: [UInt8]
    ) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.call(command, payload)
            #expect(reply.error == invalid)
            #expect(try peer.isClosed())
        }
    }

    @Test(arguments: [1, 2, 0xffff] as [UInt16])
    func `S22 another major version is refused and the connection closed`(major: UInt16) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.call(Number.version, Payload.version(Payload.qemuCapabilities, major: major))
            #expect(reply.error == invalid)
            #expect(try peer.isClosed())
        }
    }

    @Test(arguments: [(0, 0), (1, 1), (2, 2), (3, 2), (0xffff, 2)] as [(UInt16, UInt16)])
    func `S23 the minor version is the smaller of the two sides'`(proposed: UInt16, answered: UInt16) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.succeed(Number.version, Payload.version(Payload.qemuCapabilities, minor: proposed))
            #expect(reply.payload.u16(at: 0) == 0)
            #expect(reply.payload.u16(at: 2) == answered)
        }
    }

    @Test func `S24 a version message with descriptors is refused and they are closed`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let counter = try EventCounter()
            let reply = try peer.call(
                Number.version, Payload.version(Payload.qemuCapabilities), [counter.rawDescriptor])
            #expect(reply.error == invalid)
            #expect(try peer.isClosed())
            #expect(try Open.count(like: counter.rawDescriptor) == 1)
        }
    }

    @Test(arguments: [nil, "{}", #"{"capabilities":{}}"#, #"{"other":1}"#])
    func `S25 without capabilities the defaults hold`(json: String?) throws {
        try withPeer(of: Edu.makeFunction(dmaMaskBits: 32), negotiated: false) { peer in
            let reply = try peer.negotiate(json)
            #expect(!reply.capabilities.contains("max_"))
            // The default of a megabyte: the largest transfer that edu has goes out in one message.
            try peer.succeed(Number.mapDMA, Payload.map(at: 0x10000, size: 0x2000))
            try peer.enableBusMaster()
            try peer.startEduRead(from: 0x10000, count: 4096)
            let memory = PeerMemory(byteCount: 0x2000, at: 0x10000)
            #expect(try memory.serve(peer, until: .reads(1)).map(\.count) == [4096])
            // And a megabyte in one access is what we take.
            #expect(try peer.read(0, at: 0, count: 1 << 20).count == 1 << 20)
        }
    }

    @Test(arguments: [
        "[1]", "7", "null", "{", "", "}", #"{"capabilities":1}"#, #"{"capabilities":[]}"#,
        #"{"capabilities":{"max_msg_fds":"16"}}"#, #"{"capabilities":{"max_msg_fds":-1}}"#,
        #"{"capabilities":{"max_msg_fds":1e99}}"#, #"{"capabilities":{"max_data_xfer_size":0}}"#,
        #"{"capabilities":{"max_data_xfer_size":18446744073709551616}}"#, #"{"capabilities":{"pgsizes":1.5}}"#,
        #"{"capabilities":{"pgsizes":0}}"#, #"{"capabilities":{"write_multiple":1}}"#,
        #"{"capabilities":{"twin_socket":true}}"#, #"{"capabilities":{"migration":[]}}"#,
        #"{"capabilities":{}} x"#, "{\"capabilities\":{}}\u{0}{}",
    ])
    func `S26 capabilities that make no sense are refused and the connection closed`(json: String) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.call(Number.version, Payload.version(json))
            #expect(reply.error == invalid)
            #expect(try peer.isClosed())
        }
    }

    @Test func `S26 capabilities without their NUL are refused and the connection closed`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.call(Number.version, Payload.version(Payload.qemuCapabilities).dropLast())
            #expect(reply.error == invalid)
            #expect(try peer.isClosed())
        }
    }

    @Test(arguments: 0..<4)
    func `S26 a version message that ends early is refused and the connection closed`(byteCount: Int) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.call(Number.version, [UInt8](repeating: 0, count: byteCount))
            #expect(reply.error == invalid)
            #expect(try peer.isClosed())
        }
    }

    @Test func `S27 S28 unknown keys are ignored and not repeated`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let reply = try peer.negotiate(
                #"{"extra":{"a":[1,2]},"capabilities":{"sparse_mmap_fds":true,"max_msg_fds":3,"future":null}}"#)
            #expect(reply.capabilities == #"{"capabilities":{"max_msg_fds":16}}"#)
        }
    }

    @Test(arguments: ["max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"])
    func `S28 a reply names no capability that the client has not named`(key: String) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            // Room enough for more.
            let json = #"{"capabilities":{"\#(key)":8192,"padding":"\#(String(repeating: "x", count: 300))"}}"#
            let reply = try peer.negotiate(json)
            let keys = reply.capabilities.split(separator: "\"").filter { $0.contains("_") || $0.contains("pgsizes") }
            #expect(keys.map(String.init) == [key])
        }
    }

    @Test(arguments: [
        Payload.qemuCapabilities, Payload.cloudHypervisorCapabilities, #"{"capabilities":{}}"#,
        #"{"capabilities":{"max_msg_fds":1}}"#, #"{"capabilities":{"max_msg_fds":1,"pgsizes":4096}}"#,
        #"{"capabilities":{"max_dma_maps":1,"max_data_xfer_size":1}}"#,
    ])
    func `S29 S30 the reply is an object of capabilities with its NUL and no longer than the request`(
        json: String
    ) throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let request = message(Number.version, Payload.version(json))
            try peer.send(request)
            let reply = try peer.receive()
            #expect(reply.error == nil)
            #expect(reply.size <= request.count)
            #expect(reply.payload.last == 0 && reply.payload[4...].dropLast().allSatisfy { $0 != 0 })
            #expect(reply.capabilities.hasPrefix(#"{"capabilities":{"#) && reply.capabilities.hasSuffix("}}"))
            #expect(reply.descriptors.isEmpty && reply.strays.isEmpty)
        }
    }

    @Test func `S29 QEMU's request of 214 bytes has room for the whole reply`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let request = message(Number.version, Payload.version(Payload.qemuCapabilities))
            #expect(request.count == 214)
            try peer.send(request)
            #expect(try peer.receive().size <= 214)
        }
    }

    @Test func `S31 S32 QEMU gets numbers that it accepts`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let text = try peer.negotiate().capabilities
            #expect(text.contains(#""max_msg_fds":16"#))
            #expect(text.contains(#""max_data_xfer_size":1048576"#))
            #expect(text.contains(#""max_dma_maps":65535"#))
            #expect(text.contains(#""pgsizes":4096"#))
            #expect(text.contains(#""write_multiple":true"#))
            // One client cannot read it without a page size, QEMU takes a bitmap of 256 MiB at most.
            #expect(text.contains(#""migration":{"pgsize":4096,"max_bitmap_size":1048576}"#))
        }
    }

    @Test func `S31 S32 migration is in the answer when the device can and the client has named it`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            #expect(try !peer.negotiate(#"{"capabilities":{"max_msg_fds":16}}"#).capabilities.contains("migration"))
            // The standard knows the features without the capability.
            try peer.succeed(
                Number.deviceFeature, Payload.feature(1, Payload.FeatureOperation.get, argsz: 16, bytes(.zeros(8))))
        }
        try withPeer(of: VectorDevice.makeFunction(), negotiated: false) { (peer) throws in
            #expect(try !peer.negotiate().capabilities.contains("migration"))
        }
    }

    @Test func `S31 limits stay within what QEMU takes whatever a client asks for`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let json = """
                {"capabilities":{"max_msg_fds":1000,"max_data_xfer_size":4294967295,"max_dma_maps":4294967295,\
                "pgsizes":9223372036854771712}}
                """
            let text = try peer.negotiate(json).capabilities
            #expect(text.contains(#""max_msg_fds":16"#))
            #expect(text.contains(#""max_data_xfer_size":1048576"#))
            #expect(text.contains(#""max_dma_maps":65535"#))
            #expect(text.contains(#""pgsizes":9223372036854771712"#))
        }
    }

    @Test func `S33 a second version message is refused and the session goes on`() throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(Number.version, Payload.version(Payload.qemuCapabilities))
            #expect(reply.error == invalid)
            #expect(try peer.call(Number.getDeviceInfo, Payload.deviceInfo()).error == nil)
        }
    }

    @Test func `S34 a second socket is not offered, and requests come over the one there is`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let json = #"{"capabilities":{"twin_socket":{"supported":true},"max_msg_fds":1}}"#
            let reply = try peer.negotiate(json)
            #expect(!reply.capabilities.contains("twin_socket"))
            #expect(reply.descriptors.isEmpty)
            try peer.succeed(Number.mapDMA, Payload.map(at: 0x10000, size: 0x1000))
            try peer.enableBusMaster()
            try peer.startEduRead(from: 0x10000, count: 16)
            let memory = PeerMemory(byteCount: 0x1000, at: 0x10000)
            #expect(try memory.serve(peer, until: .reads(1)).count == 1)
        }
    }

    @Test func `S35 a client that takes no descriptors is sent none, and not told that it could map a region`() throws {
        try withPeer(of: WindowDevice(), negotiated: false) { peer in
            try peer.negotiate(#"{"capabilities":{"max_msg_fds":0}}"#)
            let reply = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(0, argsz: 4096))
            #expect(reply.descriptors.isEmpty && reply.strays.isEmpty)
            #expect(reply.size == 48)
            #expect(reply.payload.u32(at: 4) == 3)
        }
    }
}

extension RawMessage {
    /// The text of a version reply without its NUL.
    var capabilities: String { String(decoding: payload.dropFirst(4).dropLast(), as: UTF8.self) }
}
