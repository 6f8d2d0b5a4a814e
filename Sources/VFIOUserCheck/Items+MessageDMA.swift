import LinuxHost

extension CheckItem {
    /// S57 to S63: what the server asks of the client's memory.
    static let messageDMA: [CheckItem] = [
        CheckItem(
            57, "Memory without a descriptor is read and written by messages; short answers and errors are dealt with.",
            in: "VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE", for: [.specification]
        ) { (server) throws(Outcome) in
            let (connection, edu, start) = try CheckItem.withMessages(server)
            var memory = start
            try edu.beginFetch(from: Place.first, count: 300)
            let reads = try memory.serve(edu)
            guard reads.map(\.count).reduce(0, +) == 300, reads.allSatisfy({ !$0.isWrite }) else {
                throw connection.fails("reads of 300 bytes", "\(reads.map(\.count)) bytes")
            }
            try edu.beginStore(to: Place.first + 0x1001, count: 300)
            _ = try memory.serve(edu)
            guard memory.bytes[0x1001..<0x1001 + 300] == memory.bytes[0..<300] else {
                throw connection.fails("the same 300 bytes written", "others")
            }
            try CheckItem.answerShort(connection, edu, &memory)
            try CheckItem.answerWithError(connection, edu, &memory)
        },
        CheckItem(
            58, "The header alone by which QEMU up to 11.0 answers a write is tolerated.",
            in: "what QEMU up to 11.0 sends", for: [.qemu]
        ) { (server) throws(Outcome) in
            let (connection, edu, memory) = try CheckItem.withMessages(server)
            try edu.beginStore(to: Place.first, count: 64)
            let request = try memory.next()
            guard request.isWrite else { throw connection.fails("DMA_WRITE", "\(request.message)") }
            try memory.reply(to: request, [])
            try CheckItem.answerAsLegacy(memory, edu)
            try connection.goOn(after: "a legacy client's answer")
        },
        CheckItem(
            59, "Data of QEMU up to 11.0, four bytes off, are not taken for the standard's.",
            in: "what QEMU up to 11.0 sends", for: [.qemu]
        ) { (server) throws(Outcome) in
            let (connection, edu, memory) = try CheckItem.withMessages(server)
            let shared = try LocalMemory(byteCount: 0x1000)
            let known = pattern(64, seed: 77)
            shared.write(known, at: 0)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.second, size: 0x1000), [shared.rawDescriptor])
            try edu.fetch(from: Place.second, count: 64)
            try edu.beginFetch(from: Place.first, count: 64)
            try CheckItem.answerAsLegacy(memory, edu)
            try edu.store(to: Place.second + 0x100, count: 64)
            let stored = shared.read(0x100..<0x140)
            guard stored == known || stored == Array(memory.bytes[0..<64]) else {
                throw connection.fails("the data as they are, or a transfer that fails", stored.hexadecimal())
            }
        },
        CheckItem(
            60, "No command waits for memory that the client has yet to give.", in: "what QEMU does while it waits",
            for: [.qemu]
        ) { (server) throws(Outcome) in
            let (connection, edu, start) = try CheckItem.withMessages(server)
            var memory = start
            // Every call in here waits for its reply and answers no request; the first starts the transfer.
            try edu.beginFetch(from: Place.first, count: 64)
            try connection.goOn(after: "a request that is not answered")
            try connection.succeed(Number.mapDMA, Payload.map(at: Place.second, size: 0x1000))
            try connection.succeed(Number.unmapDMA, Payload.unmap(at: Place.second, size: 0x1000))
            guard try !memory.serve(edu).isEmpty else {
                throw connection.fails("a request for memory", "a transfer without any")
            }
        },
        CheckItem(
            61, "Nothing is asked of a client that gave a descriptor for all its memory.",
            in: "what cloud-hypervisor understands", for: [.cloudHypervisor]
        ) { (server) throws(Outcome) in
            let connection = try server.session(Payload.cloudHypervisorCapabilities)
            let memory = try LocalMemory(byteCount: 0x1000)
            try connection.succeed(
                Number.mapDMA, Payload.map(at: Place.first, size: 0x1000), [memory.rawDescriptor])
            let edu = try EduDriver(server, connection)
            try edu.setCommand()
            for address in [Place.first, Place.first + 0xfc0, Place.first + 0xff0, Place.first + 0x1000, 0] {
                try edu.fetch(from: address, count: 64)
                try edu.store(to: address, count: 64)
            }
            guard connection.requests.isEmpty else { throw connection.fails("no request", "\(connection.requests[0])") }
        },
        CheckItem(
            62, "A late answer to a request that has ended is ignored, and a client may leave with one open.",
            in: "robustness", for: [.robustness]
        ) { (server) throws(Outcome) in
            for isReset in [false, true] {
                let (connection, edu, memory) = try CheckItem.withMessages(server)
                try edu.beginFetch(from: Place.first, count: 64)
                let request = try memory.next()
                if isReset {
                    try connection.succeed(Number.resetDevice)
                } else {
                    try connection.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
                }
                var late = memory
                try late.answer(request)
                try connection.goOn(after: "a late answer")
            }
            let (_, edu, memory) = try CheckItem.withMessages(server)
            try edu.beginFetch(from: Place.first, count: 64)
            _ = try memory.next()
        },
        CheckItem(
            63, "The two directions number their messages without regard to each other.", in: "Header",
            for: [.specification, .robustness]
        ) { (server) throws(Outcome) in
            let (connection, edu, start) = try CheckItem.withMessages(server)
            var memory = start
            try edu.beginFetch(from: Place.first, count: 64)
            let request = try memory.next()
            let reply = try connection.call(Number.getDeviceInfo, Payload.deviceInfo(), id: request.message.id)
            guard reply.error == nil, reply.payload.count == 16 else {
                throw connection.fails("the reply to DEVICE_GET_INFO", "\(reply)")
            }
            guard try edu.isBusy() else { throw connection.fails("a transfer still under way", "its end") }
            try memory.answer(request)
            _ = try memory.serve(edu)
        },
    ]

    /// A session with edu, and memory at `Place.first` that only messages reach.
    private static func withMessages(
        _ server: CheckedServer
    ) throws(Outcome) -> (RawConnection, EduDriver, MessageResponder) {
        let connection = try server.session()
        let edu = try EduDriver(server, connection)
        try edu.setCommand()
        try connection.succeed(Number.mapDMA, Payload.map(at: Place.first, size: 0x4000))
        return (connection, edu, MessageResponder(connection, at: Place.first, byteCount: 0x4000))
    }

    /// Answers a read with fewer bytes than asked for: the server asks for the rest, or gives up, and takes no bytes
    /// for data that were none.
    private static func answerShort(
        _ connection: RawConnection, _ edu: EduDriver, _ memory: inout MessageResponder
    ) throws(Outcome) {
        try edu.beginFetch(from: Place.first + 0x200, count: 100)
        let request = try memory.nextForBytes()
        try memory.answer(request, atMost: 30)
        _ = try memory.serve(edu)
        try edu.beginStore(to: Place.first + 0x3000, count: 100)
        _ = try memory.serve(edu)
        let stored = Array(memory.bytes[0x3000..<0x3064])
        let (new, old) = (memory.bytes[0x200..<0x264], memory.bytes[0..<100])
        guard [Array(new), Array(old), Array(new.prefix(30) + old.dropFirst(30))].contains(stored) else {
            throw connection.fails("after 30 of 100 bytes all of them, those 30, or none", stored.hexadecimal())
        }
    }

    private static func answerWithError(
        _ connection: RawConnection, _ edu: EduDriver, _ memory: inout MessageResponder
    ) throws(Outcome) {
        try edu.beginFetch(from: Place.first, count: 64)
        let request = try memory.nextForBytes()
        try memory.reply(to: request, [], error: 14)
        _ = try memory.serve(edu)
        try connection.goOn(after: "an error reply to DMA_READ")
    }

    /// Answers what the device asks in the layout of QEMU before 11.1, until it asks no more.
    private static func answerAsLegacy(_ memory: MessageResponder, _ edu: EduDriver) throws(Outcome) {
        let deadline = MonotonicInstant.after(edu.connection.patience)
        while true {
            let isBusy = try edu.isBusy()
            while !edu.connection.requests.isEmpty {
                let message = edu.connection.requests.removeFirst()
                let address = message.payload.u64(at: 0)
                let count = Int(message.payload.u32(at: 8))
                let request = MessageResponder.Request(
                    message: message, isWrite: message.command == Number.writeClientMemory, address: address,
                    count: count)
                guard address >= memory.base, address - memory.base <= 0x1000, count <= 0x1000 else {
                    throw edu.connection.fails("a request within what was mapped", "\(message)")
                }
                let first = Int(address - memory.base)
                let data = Array(memory.bytes[first..<first + count])
                try memory.reply(
                    to: request,
                    request.isWrite ? [] : bytes(.u64(address), .u32(UInt32(count)), .raw(data), .zeros(4)))
            }
            guard isBusy else { return }
            guard MonotonicInstant.now < deadline else {
                throw edu.connection.fails("the transfer to end", "a busy device")
            }
        }
    }
}
