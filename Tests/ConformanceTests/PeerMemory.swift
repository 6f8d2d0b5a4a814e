import LinuxHost
import VFIOUserCheck

/// Memory that a client shares by no descriptor: it answers the server's reads and writes by messages, in the standard's
/// layout or in the one of QEMU before 11.1.
final class PeerMemory {
    enum Layout {
        case standard, legacy
    }

    /// A request as it came.
    struct Request {
        let id: UInt16
        let isWrite: Bool
        let address: UInt64
        let count: Int
        let message: RawMessage
    }

    enum Goal {
        /// So many reads have been answered; writes of nothing, by which the server finds out about the client, do not
        /// count.
        case reads(Int)
        case writes(Int)
    }

    let base: UInt64
    let layout: Layout
    var bytes: [UInt8]

    init(byteCount: Int, at base: UInt64, layout: Layout = .standard) {
        self.base = base
        self.layout = layout
        bytes = pattern(byteCount, seed: 9)
    }

    /// Answers requests until the goal is reached.
    ///
    /// - Returns: the requests that count towards it.
    func serve(_ peer: RawPeer, until goal: Goal) throws -> [Request] {
        var counted: [Request] = []
        while true {
            let request = try nextRequest(peer)
            try answer(request, peer)
            guard request.count > 0 else { continue }
            switch goal {
            case .reads(let count):
                if !request.isWrite { counted.append(request) }
                if counted.count == count { return counted }
            case .writes(let count):
                if request.isWrite { counted.append(request) }
                if counted.count == count { return counted }
            }
        }
    }

    /// The next message, which must be a request.
    func nextRequest(_ peer: RawPeer) throws -> Request { try parse(try peer.receive()) }

    func parse(_ message: RawMessage) throws -> Request {
        let isWrite = message.command == Number.writeClientMemory
        guard !message.isReply, isWrite || message.command == Number.readClientMemory, message.payload.count >= 16
        else {
            throw PeerFailure.notTheReply(message)
        }
        let count = layout == .legacy ? Int(message.payload.u32(at: 8)) : Int(message.payload.u64(at: 8))
        return Request(
            id: message.id, isWrite: isWrite, address: message.payload.u64(at: 0), count: count, message: message)
    }

    /// Carries a request out and answers it.
    func answer(_ request: Request, _ peer: RawPeer) throws {
        let first = Int(request.address - base)
        let place = first..<first + request.count
        if request.isWrite {
            let start = layout == .legacy ? 12 : 16
            bytes.replaceSubrange(place, with: request.message.payload[start..<start + request.count])
            try reply(to: request, layout == .legacy ? [] : fixedPart(of: request), peer)
        } else if layout == .legacy {
            let data = Array(bytes[place])
            try reply(
                to: request,
                VFIOUserCheck.bytes(.u64(request.address), .u32(UInt32(request.count)), .raw(data), .zeros(4)), peer)
        } else {
            try reply(to: request, fixedPart(of: request) + bytes[place], peer)
        }
    }

    private func fixedPart(of request: Request) -> [UInt8] {
        VFIOUserCheck.bytes(.u64(request.address), .u64(UInt64(request.count)))
    }

    func reply(to request: Request, _ payload: [UInt8], _ peer: RawPeer) throws {
        try peer.send(message(request.message.command, id: request.id, flags: HeaderFlags.reply, payload))
    }

    func refuse(_ request: Request, _ error: UInt32, _ peer: RawPeer) throws {
        let flags = HeaderFlags.reply | HeaderFlags.error
        try peer.send(message(request.message.command, id: request.id, flags: flags, error: error))
    }
}
