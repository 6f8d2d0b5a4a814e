import JSONText
import LinuxHost

extension CheckItem {
    /// S21 to S35: the first message and what it agrees on.
    static let version: [CheckItem] = [
        CheckItem(
            21, "A connection that does not begin with the version ends.", in: "VFIO_USER_VERSION",
            for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.open()
            try connection.expectEnd(
                after: "DEVICE_GET_INFO first", message(Number.getDeviceInfo, id: 1, Payload.deviceInfo()))
        },
        CheckItem(
            22, "A major version that the server does not speak ends the connection.", in: "VFIO_USER_VERSION",
            for: [.specification]
        ) { (server) throws(Outcome) in
            for major in [1, 0xffff] as [UInt16] {
                let connection = try server.open()
                try connection.expectEnd(
                    after: "VERSION \(major).0",
                    message(Number.version, id: 1, Payload.version(Payload.qemuCapabilities, major: major)))
            }
        },
        CheckItem(
            23, "The minor version of the reply is the smaller of the two sides'.", in: "VFIO_USER_VERSION",
            for: [.specification, .qemu]
        ) { (server) throws(Outcome) in
            for minor in [0, 1, 2, 0xffff] as [UInt16] {
                let (connection, reply) = try server.beAccepted(
                    Payload.version(Payload.qemuCapabilities, minor: minor), because: "version 0.\(minor)")
                guard reply.payload.count >= 4, reply.payload.u16(at: 0) == 0,
                    reply.payload.u16(at: 2) <= minor
                else { throw connection.fails("version 0, minor at most \(minor)", "\(reply)") }
            }
        },
        CheckItem(
            24, "A version message with descriptors is refused and they are closed.", in: "libvfio-user",
            for: [.robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.open()
            let pipe = try PipeWitness()
            let reply = try connection.exchange(
                Number.version, Payload.version(Payload.qemuCapabilities), pipe.descriptors)
            if let reply, reply.error == nil { throw connection.fails("an error reply, or the end", "\(reply)") }
            guard try pipe.isReleased(within: server.patience) else {
                throw connection.fails("its descriptor to be closed", "an open one")
            }
        },
        CheckItem(
            25, "A version message without capabilities is accepted, and the defaults hold.", in: "VFIO_USER_VERSION",
            for: [.specification]
        ) { (server) throws(Outcome) in
            for json in [nil, "{}", #"{"capabilities":{}}"#] as [String?] {
                let (connection, _) = try server.beAccepted(
                    Payload.version(json), because: "absent capabilities")
                try connection.goOn(after: "a version message without capabilities")
            }
        },
        CheckItem(
            26, "Capabilities that are no JSON, end without NUL, or make no sense end the connection.",
            in: "libvfio-user", for: [.robustness], mayEndServer: true
        ) { (server) throws(Outcome) in
            let texts: [[UInt8]] = [
                Array(#"{"capabilities":{}}"#.utf8),
                bytes(.text("not JSON"), .u8(0)), bytes(.text(#"{"capabilities":"#), .u8(0)),
                bytes(.text(#"{"capabilities":[]}"#), .u8(0)),
                bytes(.text(#"{"capabilities":{"max_msg_fds":"many"}}"#), .u8(0)),
                bytes(.text(#"{"capabilities":{"max_data_xfer_size":-1}}"#), .u8(0)),
                bytes(.text(#"{"capabilities":{"pgsizes":true}}"#), .u8(0)), [0xff, 0xfe, 0],
            ]
            for text in texts {
                let connection = try server.open()
                try connection.expectEnd(
                    after: "VERSION with \(String(decoding: text, as: UTF8.self))",
                    message(Number.version, id: 1, bytes(.u16(0), .u16(0), .raw(text))))
            }
        },
        CheckItem(
            27, "Capabilities of unknown names are ignored.", in: "VFIO_USER_VERSION", for: [.specification]
        ) { (server) throws(Outcome) in
            let json = #"{"capabilities":{"max_msg_fds":8,"x_unheard_of":{"a":[1,null]}},"x_other":"y"}"#
            let (connection, _) = try server.beAccepted(
                Payload.version(json), because: "names that it need not know")
            try connection.goOn(after: "unknown capabilities")
        },
        CheckItem(
            28, "The reply names no capability that the client has not named.", in: "VFIO_USER_VERSION",
            for: [.specification]
        ) { (server) throws(Outcome) in
            let proposals: [String?] = [
                nil, #"{"capabilities":{}}"#, #"{"capabilities":{"max_msg_fds":8}}"#,
                #"{"capabilities":{"write_multiple":true}}"#, Payload.cloudHypervisorCapabilities,
                Payload.qemuCapabilities,
            ]
            for proposal in proposals {
                let (connection, reply) = try server.sessionAndReply(proposal)
                let proposed = (proposal.map { Array($0.utf8) }).flatMap { try? JSONValue(parsing: $0) }
                let named = proposed?.members?["capabilities"]?.members?.map(\.name) ?? []
                let extra = Survey.capabilities(in: reply).map(\.name).filter { !named.contains($0) }
                guard extra.isEmpty else {
                    throw connection.fails("no capability but \(named)", extra.joined(separator: ", "))
                }
            }
        },
        CheckItem(
            29, "The reply is no longer than the request, for QEMU reads it into the request's buffer.",
            in: "what QEMU reads, hw/vfio-user/proxy.c", for: [.qemu]
        ) { (server) throws(Outcome) in
            let payload = Payload.version(Payload.qemuCapabilities)
            let (connection, reply) = try server.sessionAndReply()
            guard reply.size <= 16 + payload.count else {
                throw connection.fails("at most \(16 + payload.count) bytes", "\(reply.size)")
            }
        },
        CheckItem(
            30, "The reply's capabilities are an object named so, with a NUL after it.", in: "VFIO_USER_VERSION",
            for: [.qemu, .cloudHypervisor]
        ) { (server) throws(Outcome) in
            for proposal in [Payload.qemuCapabilities, Payload.cloudHypervisorCapabilities] {
                let (connection, reply) = try server.sessionAndReply(proposal)
                let text = Array(reply.payload.dropFirst(4))
                guard text.last == 0, text.firstIndex(of: 0) == text.count - 1 else {
                    throw connection.fails("JSON and one NUL after it", text.hexadecimal(atMost: 240))
                }
                let document = try? JSONValue(parsing: Array(text.dropLast()))
                guard document?.members?["capabilities"]?.members != nil else {
                    throw connection.fails(
                        "an object capabilities", String(decoding: text.dropLast(), as: UTF8.self))
                }
            }
        },
        CheckItem(
            31, "The reply's numbers are such that QEMU accepts them.", in: "what QEMU demands, hw/vfio-user/proxy.c",
            for: [.qemu]
        ) { (server) throws(Outcome) in
            let (connection, reply) = try server.sessionAndReply()
            try CheckItem.judgeNumbers(Survey.capabilities(in: reply), connection)
        },
        CheckItem(
            32, "A reply that names migration gives its page size, without which cloud-hypervisor fails.",
            in: "what cloud-hypervisor parses", for: [.cloudHypervisor]
        ) { (server) throws(Outcome) in
            let (connection, reply) = try server.sessionAndReply(Payload.cloudHypervisorCapabilities)
            guard let migration = Survey.capabilities(in: reply)["migration"] else {
                throw .notApplicable("the server does not name migration")
            }
            guard migration.members?["pgsize"]?.wholeNumber != nil else {
                throw connection.fails("an integer pgsize in migration", "\(migration)")
            }
        },
        CheckItem(
            33, "A second version message is refused, and the session goes on.", in: "robustness", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try connection.refuse(
                Number.version, Payload.version(Payload.qemuCapabilities), because: "a second version message")
            try connection.goOn(after: "a second version message")
        },
        CheckItem(
            34, "A second socket is made only for a client that offers one, and then carries the server's requests.",
            in: "VFIO_USER_VERSION, twin socket", for: [.specification]
        ) { (server) throws(Outcome) in try CheckItem.checkTwinSocket(server) },
        CheckItem(
            35, "What the server sends keeps to the client's limits.", in: "VFIO_USER_VERSION", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session(#"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":512}}"#)
            for index in server.survey.regions.keys.sorted() {
                let reply = try connection.call(Number.getRegionInfo, Payload.regionInfo(index, argsz: 65536))
                guard reply.descriptors.count <= 1 else {
                    throw connection.fails("at most one descriptor", "\(reply.descriptors.count)")
                }
            }
            guard server.survey.isEdu else { return }
            let base: UInt64 = 0x20_0000
            try connection.succeed(Number.mapDMA, Payload.map(at: base, size: 8192))
            let edu = try EduDriver(server, connection)
            try edu.setCommand()
            var memory = MessageResponder(connection, at: base, byteCount: 8192)
            for isFetch in [true, false] {
                if isFetch {
                    try edu.beginFetch(from: base, count: 4096)
                } else {
                    try edu.beginStore(to: base, count: 4096)
                }
                let requests = try memory.serve(edu)
                guard !requests.isEmpty, requests.allSatisfy({ $0.count <= 512 }) else {
                    throw connection.fails(
                        "requests of at most 512 bytes", "counts \(requests.map(\.count))")
                }
            }
        },
    ]

    private static func judgeNumbers(
        _ capabilities: [JSONValue.Member], _ connection: RawConnection
    ) throws(Outcome) {
        func demand(_ name: String, _ value: JSONValue?, _ rule: String, _ holds: (Int128) -> Bool) throws(Outcome) {
            guard let value else { return }
            guard let number = value.wholeNumber, holds(number) else {
                throw connection.fails("\(name) \(rule)", "\(value)")
            }
        }
        try demand("max_msg_fds", capabilities["max_msg_fds"], "at most 16") { (0...16).contains($0) }
        try demand("max_data_xfer_size", capabilities["max_data_xfer_size"], "at most 64 MiB") {
            (1...64 << 20).contains($0)
        }
        try demand("max_dma_maps", capabilities["max_dma_maps"], "at most 65535") { (1...65535).contains($0) }
        try demand("pgsizes", capabilities["pgsizes"], "of 4096 and above") { $0 >= 4096 && $0 % 4096 == 0 }
        let migration = capabilities["migration"]?.members ?? []
        try demand("migration.pgsize", migration["pgsize"], "a multiple of 4096") { $0 >= 4096 && $0 % 4096 == 0 }
        try demand("migration.max_bitmap_size", migration["max_bitmap_size"], "at most 256 MiB") {
            (0...256 << 20).contains($0)
        }
        if let value = capabilities["write_multiple"], value.boolean == nil {
            throw connection.fails("a boolean write_multiple", "\(value)")
        }
    }

    private static func checkTwinSocket(_ server: CheckedServer) throws(Outcome) {
        let (plain, refusal) = try server.sessionAndReply()
        guard Survey.capabilities(in: refusal)["twin_socket"] == nil, refusal.descriptors.isEmpty else {
            throw plain.fails("no second socket, for none was offered", "\(refusal)")
        }
        plain.close()
        let (connection, reply) = try server.sessionAndReply(Payload.twinSocketCapabilities)
        let twin = Survey.capabilities(in: reply)["twin_socket"]?.members
        guard twin?["supported"]?.boolean == true else {
            guard reply.descriptors.isEmpty else {
                throw connection.fails("no descriptor without twin_socket.supported", "\(reply)")
            }
            throw .notApplicable("the server makes no second socket")
        }
        guard twin?["fd_index"]?.wholeNumber == 0, reply.descriptors.count == 1 else {
            throw connection.fails("one descriptor and fd_index 0", "\(reply)")
        }
        guard server.survey.isEdu else { return }
        let second = try onThisMachine { () throws(Errno) in
            try RawConnection(
                UNIXSocket(adopting: try reply.descriptors[0].owned.duplicate()), patience: server.patience)
        }
        try connection.succeed(Number.mapDMA, Payload.map(at: 0x20_0000, size: 4096))
        let edu = try EduDriver(server, connection)
        try edu.setCommand()
        try edu.beginFetch(from: 0x20_0000, count: 64)
        second.note("a transfer by messages with a second socket")
        var memory = MessageResponder(second, at: 0x20_0000, byteCount: 4096)
        let request = try memory.nextForBytes()
        try memory.answer(request)
        try edu.waitUntilIdle()
        guard connection.requests.isEmpty else {
            throw connection.fails("requests on the second socket only", "\(connection.requests[0])")
        }
    }
}
