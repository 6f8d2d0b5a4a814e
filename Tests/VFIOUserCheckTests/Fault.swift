import LinuxHost

/// What a server does wrong.
enum Fault: Equatable, Sendable {
    case none
    /// Replies carry another ID, but for the version's.
    case answersUnderAnotherID
    case givesErrorsAPayload
    /// What it refuses it says that it has done.
    case neverRefuses
    /// Vectors that the client fires are not.
    case forgetsToFire
    /// Four bytes that are written to configuration space go to a register that is read-only.
    case losesWrites
    case answersWhatWantsNoReply
    /// The header and what follows it leave one by one.
    case sendsInPieces
    case padsTheVersion
    case leavesOutTheNUL
    case namesWhatNobodyNamed
    case takesTooManyDescriptors
    case answersUnmapsWithAHeader
    case forgetsToAnswerResets
    case callsOverlapsInvalid
    case keepsDescriptors
    case hasARegionOfThreeQuarters
    case sendsTwoDescriptors
    case sendsNoDescriptor
    /// The second area begins where the first one does.
    case overlapsAreas
    /// The second area ends a page past its region.
    case passesTheEnd
    /// The descriptor is one of other memory.
    case showsOtherBytes
    /// Ends for good at a command.
    case dies(at: UInt16)
}

private enum Command {
    static let version: UInt16 = 1
    static let unmap: UInt16 = 3
    static let regionInfo: UInt16 = 5
    static let reset: UInt16 = 13
}

extension Fault {
    /// What becomes of a message of the server's; `nil` when it is lost.
    func spoil(_ original: Message) -> Message? {
        var message = original
        switch self {
        case .answersUnderAnotherID:
            if message.command != Command.version, message.bytes[8] & 1 != 0 { message.bytes[0] ^= 0x55 }
        case .givesErrorsAPayload:
            if message.isError { message.bytes += [1, 2, 3, 4] }
        case .neverRefuses:
            if message.isError { message.bytes.replaceSubrange(8..<16, with: [1, 0, 0, 0, 0, 0, 0, 0]) }
        case .padsTheVersion, .leavesOutTheNUL, .namesWhatNobodyNamed, .takesTooManyDescriptors:
            if message.command == Command.version, !message.isError { spoilVersion(&message) }
        case .answersUnmapsWithAHeader:
            if message.command == Command.unmap { message.bytes = Array(message.bytes[..<16]) }
        case .forgetsToAnswerResets:
            if message.command == Command.reset { return nil }
        case .callsOverlapsInvalid:
            if message.isError, message.number(at: 12, 4) == 17 { message.set(22, at: 12, 4) }
        case .hasARegionOfThreeQuarters:
            if let region = message.describedRegion, region == 0 { message.set(0xc_0000, at: 32, 8) }
        case .sendsTwoDescriptors: message.descriptors += message.descriptors
        case .sendsNoDescriptor: message.descriptors = []
        case .overlapsAreas: message.setSecondArea(offset: 0x1000, size: 0x1000)
        case .passesTheEnd: message.setSecondArea(offset: 0x3000, size: 0x2000)
        case .showsOtherBytes:
            if !message.descriptors.isEmpty,
                let other = try? OwnedDescriptor.anonymousMemory(name: "other", byteCount: 1 << 20)
            {
                message.descriptors = [HeldDescriptor(other)]
            }
        case .none, .forgetsToFire, .losesWrites, .answersWhatWantsNoReply, .sendsInPieces, .keepsDescriptors, .dies:
            break
        }
        message.finish()
        return message
    }

    /// What becomes of a command that comes in one piece.
    func spoilCommand(_ bytes: inout [UInt8]) {
        switch self {
        case .forgetsToFire:
            // A change of interrupts that fires all vectors of a range becomes one that unmasks none that is masked.
            if bytes.count == 36, bytes[2] == 8, bytes[20] == 0x21, bytes[32] != 0 { bytes[20] = 0x11 }
        case .losesWrites:
            // Offset 0x28 is of CardBus, which this device is not.
            if bytes.count == 36, bytes[2] == 10, bytes[24] == 7 {
                bytes.replaceSubrange(16..<24, with: [0x28] + [UInt8](repeating: 0, count: 7))
            }
        default: break
        }
    }

    private func spoilVersion(_ message: inout Message) {
        var text = String(decoding: message.bytes[20...].dropLast(), as: UTF8.self)
        var end: [UInt8] = [0]
        switch self {
        case .padsTheVersion: text += String(repeating: " ", count: 250)
        case .leavesOutTheNUL: end = []
        case .namesWhatNobodyNamed:
            if text == #"{"capabilities":{}}"# { text = #"{"capabilities":{"write_multiple":false}}"# }
        case .takesTooManyDescriptors:
            let parts = text.split(separator: #""max_msg_fds":16"#, omittingEmptySubsequences: false)
            text = parts.joined(separator: #""max_msg_fds":64"#)
        default: break
        }
        message.bytes = message.bytes[..<20] + Array(text.utf8) + end
    }
}

extension Message {
    /// Which region a reply describes.
    var describedRegion: UInt64? {
        command == Command.regionInfo && !isError && bytes.count >= 48 ? number(at: 24, 4) : nil
    }

    /// Says something else of the second area that can be mapped, where there is one.
    fileprivate mutating func setSecondArea(offset: UInt64, size: UInt64) {
        guard describedRegion == 0, bytes.count >= 96 else { return }
        set(offset, at: 80, 8)
        set(size, at: 88, 8)
    }
}
