import LinuxHost
import VFIOUserCheck

/// One session as an input tells it: each step is a byte for what is done and further ones for how.
struct Script {
    enum Ending: Int, CaseIterable {
        /// Nothing more is sent, and every answer is taken.
        case orderly
        /// Both directions end at once, answers or not.
        case abrupt
        /// The server is told to stop.
        case interrupted
        /// The last message is not finished.
        case halfMessage
    }

    let peer: Peer
    let device: ServedDevice
    var choices: Choices
    private(set) var ending = Ending.orderly
    private var lastID: UInt16 = 0
    /// How far the driver has filled its two submission queues.
    var tails: [UInt32] = [0, 0]
    /// The device's state, when it was last read to its end.
    var savedState: [UInt8] = []

    /// More steps than this no input needs to show anything.
    private static let maximumSteps = 400

    init(peer: Peer, device: ServedDevice, choices: Choices) {
        self.peer = peer
        self.device = device
        self.choices = choices
    }

    mutating func run() throws(Finding) {
        let way = choices.byte()
        ending = way < 192 ? .orderly : Ending.allCases[Int(way) % Ending.allCases.count]
        try open()
        var steps = 0
        while peer.canSend, !choices.isAtEnd, steps < Self.maximumSteps {
            try step()
            steps += 1
        }
    }

    /// Ends the connection. What is owed must have come before.
    func end() throws(Finding) {
        switch ending {
        case .orderly:
            try peer.settle()
        case .halfMessage:
            try peer.settle()
            if peer.canSend { try peer.sendNow(Array(message(4, id: 1).prefix(9)), [], joined: true) }
        case .abrupt:
            try peer.flush()
            peer.socket.shutdown()
            return
        case .interrupted:
            // The server leaves when it comes to it, with or without answers.
            try peer.flush()
            try peer.receiveToEnd()
            return
        }
        peer.socket.finishSending()
        try peer.receiveToEnd()
        try require(peer.mayEnd(), "the server left without an answer to \(peer.model.unanswered)")
    }

    mutating func newID() -> UInt16 {
        lastID &+= 1
        return lastID
    }
}

/// The first message.
extension Script {
    private static let proposals: [(text: String?, transferSize: Int)] = [
        (qemuCapabilities, 1 << 20), (cloudHypervisorCapabilities, 1 << 20), (nil, 1 << 20), ("{}", 1 << 20),
        (#"{"capabilities":{"max_data_xfer_size":64,"max_msg_fds":16}}"#, 64),
        (#"{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":false}}}"#, 1 << 20),
        (#"{"capabilities":{"max_msg_fds":16,"migration":{"pgsize":4096}},"x":[1,2.5,null,"y"]}"#, 1 << 20),
        (#"{"capabilities":{"max_msg_fds":16,"twin_socket":{"supported":true}}}"#, 1 << 20),
        (#"{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":64,"twin_socket":{"supported":true}}}"#, 64),
        (#"{"capabilities":{"max_data_xfer_size":1,"pgsizes":4294963200,"write_multiple":false}}"#, 1),
    ]

    private mutating func open() throws(Finding) {
        let way = choices.byte()
        switch way {
        case 0..<200:
            try greet(Int(way))
            if way & 8 != 0 { try introduceMemory() }
        case 200..<206: return
        case 206..<212: try dispatch(Wish(Number.version, versionPayload("{}", major: UInt16(way - 205))))
        case 212..<218: try dispatch(Wish(Number.version, versionPayload("{}", minor: UInt16(way - 211))))
        case 218..<236:
            peer.maximumTransferSize = .max
            var payload = versionPayload(Self.proposals[Int(way) % Self.proposals.count].text)
            for _ in 0...choices.below(4) {
                payload[choices.below(payload.count)] = choices.byte()
            }
            try dispatch(Wish(Number.version, payload))
        case 236..<246:
            peer.maximumTransferSize = .max
            try dispatch(Wish(Number.version, choices.raw(choices.below(64))))
        default:
            try greet(Int(way))
            // The first one holds.
            let agreed = peer.maximumTransferSize
            try greet(Int(way) + 1)
            peer.maximumTransferSize = agreed
        }
    }

    /// A proposal that the server has to agree to.
    private mutating func greet(_ number: Int) throws(Finding) {
        let proposal = Self.proposals[number % Self.proposals.count]
        peer.maximumTransferSize = proposal.transferSize
        try peer.queue(message(Number.version, id: newID(), versionPayload(proposal.text)))
    }
}

/// A message to be sent, before anything is done to it.
struct Wish {
    var command: UInt16
    var payload: [UInt8]
    var descriptors: [GuestFiles.Kind]

    init(_ command: UInt16, _ payload: [UInt8], _ descriptors: [GuestFiles.Kind] = []) {
        self.command = command
        self.payload = payload
        self.descriptors = descriptors
    }
}

/// How messages go out.
extension Script {
    /// Sends a message as it is, or with something wrong with it.
    mutating func dispatch(_ wish: Wish) throws(Finding) {
        var wish = wish
        var flags: UInt32 = 0
        var statedSize: UInt32?
        let twist = choices.byte()
        switch twist {
        case 0..<176: break
        case 176..<200: flags = HeaderFlags.noReply
        case 200..<216: corrupt(&wish.payload)
        case 216..<224: wish.payload.removeLast(min(wish.payload.count, 1 + choices.below(24)))
        case 224..<231: wish.payload += choices.raw(1 + choices.below(24))
        case 231..<239:
            for _ in 0...choices.below(3) { wish.descriptors.append(choices.pick(GuestFiles.Kind.allCases)) }
        case 239..<243: flags = 1 << UInt32(4 + choices.below(28))
        case 243..<246: flags = HeaderFlags.reply | UInt32(choices.byte() & 0x30)
        case 246..<248: statedSize = UInt32(max(0, headerSize + wish.payload.count + choices.below(64) - 32))
        case 248..<249: statedSize = UInt32(truncatingIfNeeded: choices.edge())
        case 249..<250: flags = UInt32(choices.byte())
        case 250..<252: wish.descriptors = Array(repeating: .counter, count: 14 + choices.below(24))
        case 252..<254:
            flags = HeaderFlags.noReply
            corrupt(&wish.payload)
        default: wish.descriptors = []
        }
        var bytes = message(wish.command, id: newID(), flags: flags, wish.payload)
        if let statedSize { bytes.put(UInt64(statedSize), at: 4, byteCount: 4) }
        try deliver(bytes, wish.descriptors)
    }

    private mutating func corrupt(_ payload: inout [UInt8]) {
        guard payload.count >= 4 else { return }
        let place = choices.below(payload.count / 4) * 4
        payload.put(choices.edge(), at: place, byteCount: 4)
    }

    /// Sends bytes in one piece or in several, alone or joined to others, with the descriptors on one of the pieces.
    mutating func deliver(_ bytes: [UInt8], _ kinds: [GuestFiles.Kind]) throws(Finding) {
        var descriptors: [Int32] = []
        for kind in kinds { descriptors.append(try peer.files.number(of: kind)) }
        let way = choices.byte()
        switch way {
        case 0..<208 where descriptors.isEmpty: try peer.queue(bytes)
        case 0..<208: try peer.sendNow(bytes, descriptors, joined: way >= 176)
        case 208..<240:
            let first = choices.below(bytes.count + 1)
            let withFirst = way < 224
            if first > 0 { try peer.sendNow(Array(bytes[..<first]), withFirst ? descriptors : [], joined: false) }
            if first < bytes.count {
                let rest = first == 0 || !withFirst ? descriptors : []
                try peer.sendNow(Array(bytes[first...]), rest, joined: true)
            }
        default:
            let size = 1 + Int(way & 7)
            for start in stride(from: 0, to: min(bytes.count, 64), by: size) {
                try peer.sendNow(
                    Array(bytes[start..<min(start + size, bytes.count, 64)]), start == 0 ? descriptors : [],
                    joined: true)
            }
            if bytes.count > 64 { try peer.sendNow(Array(bytes[64...]), [], joined: true) }
        }
        try peer.sendAnswers()
    }
}
