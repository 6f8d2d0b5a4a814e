import Glibc
import LinuxHost

/// The one player of a process, for a fuzzer that calls a function. A finding ends the process as a crash does.
public final class SharedPlayer: Sendable {
    private let player = Monitor<SessionPlayer?>(nil)

    public init() {}

    public func play(_ input: [UInt8]) {
        player.withLock { player in
            do {
                let made = try player ?? SessionPlayer()
                player = made
                try made.play(input)
            } catch {
                Crash.end(error)
            }
        }
    }
}

/// How a fuzzer hears of a finding.
public enum Crash {
    public static func end(_ error: any Error) -> Never {
        let text = Array("FOUND: \(error)\n".utf8)
        _ = unsafe write(2, text, text.count)
        abort()
    }
}

/// The same for rings.
public final class SharedVirtqueuePlayer: Sendable {
    private let player = Monitor<VirtqueuePlayer?>(nil)

    public init() {}

    public func play(_ input: [UInt8]) {
        player.withLock { player in
            do {
                let made = try player ?? VirtqueuePlayer()
                player = made
                try made.play(input)
            } catch {
                Crash.end(error)
            }
        }
    }
}
