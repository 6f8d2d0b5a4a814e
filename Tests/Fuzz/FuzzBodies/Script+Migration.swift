import VFIOUserCheck

/// What a client does that moves a device to another place, or tries to.
extension Script {
    private enum State {
        static let stop: UInt32 = 1
        static let running: UInt32 = 2
        static let stopCopy: UInt32 = 3
        static let resuming: UInt32 = 4
        static let preCopy: UInt32 = 6
    }

    /// More pieces than this no state needs that is read in pieces of a sensible size.
    private static let maximumPieces = 64

    mutating func migrate() throws(Finding) {
        let way = choices.byte()
        switch way {
        case 0..<160:
            guard try save(isInAdvance: way & 1 == 1) else { break }
            // A device takes what it has given.
            try require(try restore(savedState), "a state that was just saved is refused")
            peer.statistics.restoredStates += 1
        case 160..<224:
            // A state of another time, or of another device, or none at all.
            var state = savedState
            for _ in 0...choices.below(4) where !state.isEmpty { state[choices.below(state.count)] = choices.byte() }
            if choices.chance(64) { state.removeLast(min(state.count, choices.below(64))) }
            if choices.chance(64) { state += choices.raw(16) }
            _ = try restore(state)
        default:
            for _ in 0...choices.below(6) {
                try setState(UInt32(choices.below(9)))
                if choices.chance(128) { _ = try readPiece(64) }
                if choices.chance(64) { _ = try writePiece(choices.raw(8)) }
            }
        }
        // Most of what comes after wants a device at work.
        if choices.byte() < 224, try setState(State.running) != true { _ = try ask(Number.resetDevice, []) }
    }

    /// Reads the state to its end, and from its beginning: of a device that stands still some may have been read before.
    private mutating func save(isInAdvance: Bool) throws(Finding) -> Bool {
        guard try setState(State.running) else { return false }
        if isInAdvance { try setState(State.preCopy) }
        guard try setState(State.stopCopy) else { return false }
        var state: [UInt8] = []
        for _ in 0..<Self.maximumPieces {
            let count = min(peer.maximumTransferSize, 1 << 16)
            guard let piece = try readPiece(count) else { return false }
            state += piece
            if piece.count < count {
                savedState = state
                return true
            }
        }
        return false
    }

    /// - Returns: whether the device took it; `true` also when there is no telling.
    private mutating func restore(_ state: [UInt8]) throws(Finding) -> Bool {
        guard try setState(State.resuming) else { return true }
        let size = min(peer.maximumTransferSize, choices.pick([1 << 16, 4096, 100, 1 << 16]))
        guard state.count / size < 1000 else { return true }
        var rest = state[...]
        while !rest.isEmpty {
            guard try writePiece(Array(rest.prefix(size))) else { return !peer.canSend }
            rest = rest.dropFirst(size)
        }
        return try setState(State.stop) || !peer.canSend
    }

    @discardableResult
    private mutating func setState(_ state: UInt32) throws(Finding) -> Bool {
        try ask(Number.deviceFeature, bytes(.u32(16), .u32(2 | 1 << 17), .u32(state), .u32(0))) != nil
    }

    private mutating func readPiece(_ count: Int) throws(Finding) -> [UInt8]? {
        let request = bytes(.u32(UInt32(8 + count)), .u32(UInt32(count)))
        guard let answer = try ask(Number.readMigrationData, request) else { return nil }
        try require(answer.count >= 8, "a piece of a state without its head")
        let stated = Int(answer.u32(at: 4))
        try require(stated <= count && stated == answer.count - 8, "a piece of \(answer.count - 8), stated \(stated)")
        return Array(answer.dropFirst(8))
    }

    private mutating func writePiece(_ piece: [UInt8]) throws(Finding) -> Bool {
        let payload = bytes(.u32(UInt32(8 + piece.count)), .u32(UInt32(piece.count)), .raw(piece))
        return try ask(Number.writeMigrationData, payload) != nil
    }

    /// Sends a request and waits for its answer.
    ///
    /// - Returns: its payload; `nil` when it is refused, or cannot be sent.
    private mutating func ask(_ command: UInt16, _ payload: [UInt8]) throws(Finding) -> [UInt8]? {
        try peer.settle()
        guard peer.canSend, peer.isAtBoundary, peer.model.phase == .serving else { return nil }
        let id = newID()
        try peer.queue(message(command, id: id, payload))
        try peer.settle()
        let answer = peer.lastRead
        guard answer.count >= headerSize, answer.u16(at: 0) == id, answer.u16(at: 2) == command else { return nil }
        return Array(answer.dropFirst(headerSize))
    }

    /// Ends the second socket, or says something on it that ends the connection.
    mutating func spoilTwin() throws(Finding) {
        switch choices.below(4) {
        case 0: peer.spoilTwin(message(Number.getDeviceInfo, id: newID(), bytes(.u32(16), .zeros(12))))
        case 1: peer.spoilTwin(choices.raw(16))
        default: peer.closeTwin()
        }
    }
}
