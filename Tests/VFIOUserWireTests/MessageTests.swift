import Randomness
import Testing
import VFIOUserWire

@Suite struct `Every message` {
    @Test(arguments: MessageCase.all)
    func `is written as it was read`(_ message: MessageCase) throws {
        #expect(try message.rewrite(message.payload.span) == message.payload)
    }

    /// S15, S38, S53 and their like.
    @Test(arguments: MessageCase.all)
    func `shorter than its layout is refused`(_ message: MessageCase) {
        for length in 0..<message.minimum {
            let error = refusal(of: Array(message.payload.prefix(length)), by: message)
            switch error {
            case .payloadTooShort(_, let actual): #expect(actual == length)
            case .sizeMismatch, .countTooLarge: break
            default: Issue.record("\(length) bytes: \(String(describing: error))")
            }
        }
    }

    @Test(arguments: MessageCase.all.filter { $0.minimum < $0.payload.count })
    func `cut inside its data says so`(_ message: MessageCase) {
        for length in message.minimum..<message.payload.count {
            let cut = Array(message.payload.prefix(length))
            #expect(throws: Never.self) { try message.rewrite(cut.span).count < message.payload.count }
        }
    }

    @Test(arguments: MessageCase.all)
    func `with bytes after it is refused unless its layout has room for them`(_ message: MessageCase) {
        for extra in [1, 3, 4, 8, 24] {
            let error = refusal(of: message.payload + Array(repeating: 0xa5, count: extra), by: message)
            switch (message.trailing, error) {
            case (.accepted, nil), (.refused, .trailingBytes), (.refused, .sizeMismatch): break
            default: Issue.record("\(extra) bytes: \(String(describing: error))")
            }
        }
    }

    @Test(arguments: MessageCase.all.filter { !$0.reservedBits.isEmpty })
    func `with a reserved bit is refused`(_ message: MessageCase) {
        for (offset, mask) in message.reservedBits {
            for bit in 0..<8 where mask & (1 << bit) != 0 {
                var payload = message.payload
                payload[offset] |= 1 << bit
                guard case .reservedBits = refusal(of: payload, by: message) else {
                    Issue.record("bit \(bit) of byte \(offset) passes")
                    continue
                }
            }
        }
    }

    /// Seeded, so that a failure repeats: the decoders see random bytes and valid messages with a few bytes changed.
    @Test(arguments: MessageCase.all)
    func `made of random bytes never traps, and what is read reads the same when written`(_ message: MessageCase) {
        var random = SeededNumbers(seed: 0x0b0a_2d00 &+ UInt64(message.payload.count))
        for round in 0..<3000 {
            var payload = message.payload
            if round.isMultiple(of: 2) {
                payload = (0..<Int.random(in: 0...112, using: &random)).map { _ in
                    // Mostly small bytes, or no count would ever match.
                    Bool.random(using: &random) ? 0 : UInt8.random(in: .min ... .max, using: &random)
                }
            } else {
                for _ in 0..<Int.random(in: 1...4, using: &random) where !payload.isEmpty {
                    let offset = Int.random(in: 0..<payload.count, using: &random)
                    payload[offset] = [0, 1, 2, 0x7f, 0x80, 0xff].randomElement(using: &random) ?? 0
                }
                payload = Array(payload.prefix(Int.random(in: 0...(payload.count + 8), using: &random)))
            }
            guard let first = try? message.rewrite(payload.span) else { continue }
            #expect((try? message.rewrite(first.span)) == first, "\(payload)")
        }
    }

    private func refusal(of payload: [UInt8], by message: MessageCase) -> WireError? {
        do throws(WireError) {
            _ = try message.rewrite(payload.span)
            return nil
        } catch {
            #expect(error.errno == 22)
            #expect(!error.losesFraming)
            return error
        }
    }
}
