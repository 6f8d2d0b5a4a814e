import LinuxHost
import VFIOUserSession

/// The doorbells of a connection that have been rung and wait for their place among the messages.
///
/// A counter does not tell between which messages it was signalled. A ring is carried out before any message with a reply
/// that was sent after it, and after all messages that the client sent before it if it was waiting for no reply then: so a
/// driver that posts writes to registers, rings, and then reads, finds what it would have found with a message. A client
/// that does not wait for replies finds its ring before or after the messages they belong to and what it posted since, and
/// one that posts a write after a ring may find the write carried out first.
struct PendingRings: Sendable {
    /// Tokens of the poller from here on are doorbells, in the order in which the session gave them.
    private static let firstToken: UInt64 = 1 << 32

    private var watchedCount = 0
    private var rung: Set<Int> = []

    var isEmpty: Bool { rung.isEmpty }
    var count: Int { rung.count }

    /// Whether there are any doorbells.
    var areExpected: Bool { watchedCount > 0 }

    /// Watches the doorbells that the client has been given since the last time.
    mutating func watch(_ given: [Session.GivenDoorbell], with poller: borrowing Poller) throws(Errno) {
        while watchedCount < given.count {
            try poller.add(
                given[watchedCount].counter.rawDescriptor, token: Self.firstToken + UInt64(watchedCount),
                interest: .readable)
            watchedCount += 1
        }
    }

    /// Notes a ring.
    ///
    /// - Returns: `false` for an event of something else.
    mutating func note(_ event: Poller.Event, of given: [Session.GivenDoorbell]) -> Bool {
        guard event.token >= Self.firstToken else { return false }
        let number = Int(event.token - Self.firstToken)
        // The client may have emptied the counter itself. However high it has driven it, it is one ring.
        if given[number].counter.drain() > 0 { rung.insert(number) }
        return true
    }

    /// Takes the rings, in the order of the doorbells.
    mutating func take() -> [Int] {
        defer { rung.removeAll() }
        return rung.sorted()
    }
}
