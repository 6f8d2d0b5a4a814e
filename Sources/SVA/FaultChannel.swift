public import DMA
import LinuxHost

/// A handler that hands faults to a user, who answers when it likes: a driver, a client, another process.
///
/// Each group is delivered whole, with a cookie by which it is answered once. A group that was answered otherwise
/// meanwhile, because its time was over or its attachment or device went, is not delivered, and its cookie is unknown.
/// Serves any number of attachments and devices. Groups that were answered otherwise it lets go of when the next one comes
/// or is received, and their devices with them. Threads: any method on any thread. Counterpart of `struct iommufd_fault`.
public final class FaultChannel: PageFaultHandler {
    /// What the user answers by. It is used again only after four thousand million others.
    public struct Cookie: RawRepresentable, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) { self.rawValue = rawValue }
    }

    /// A group as the user sees it.
    public struct Message: Sendable {
        public let cookie: Cookie
        public let group: FaultGroup
    }

    /// What the user may answer. That nobody can answer is not for one user to say.
    public enum Verdict: Hashable, Sendable {
        /// The pages are accessible: `PageResponse.Code.success`.
        case accessible
        /// They are not and will not be: `PageResponse.Code.invalid`.
        case refused
    }

    public struct Answer: Hashable, Sendable {
        public let cookie: Cookie
        public let verdict: Verdict

        public init(_ cookie: Cookie, _ verdict: Verdict) {
            self.cookie = cookie
            self.verdict = verdict
        }
    }

    private struct State {
        var undelivered: [FaultGroup] = []
        var delivered: [Cookie: FaultGroup] = [:]
        var lastCookie: UInt32 = 0
        var isClosed = false

        /// Strikes out the groups that nobody has to answer any more. There are no more others than devices may have
        /// requests outstanding. The caller lets go of them without the lock: it may be the last to know their device.
        mutating func sweep() -> [FaultGroup] {
            // Each is asked once: what is answered in between must not be let go of here.
            var settled: [FaultGroup] = []
            var pending: [FaultGroup] = []
            for group in undelivered { if group.isPending { pending.append(group) } else { settled.append(group) } }
            undelivered = pending
            for (cookie, group) in delivered where !group.isPending {
                delivered[cookie] = nil
                settled.append(group)
            }
            return settled
        }

        /// Gives the next group a cookie, by which it can be answered as soon as it is seen; `nil` when there is none, or no
        /// more room.
        mutating func deliverNext(room: Int, isFirst: Bool) -> Result<Message, DMAError>? {
            guard let group = undelivered.first else { return nil }
            guard group.requests.count <= room else { return isFirst ? .failure(.invalid) : nil }
            undelivered.removeFirst()
            repeat { lastCookie &+= 1 } while delivered[Cookie(rawValue: lastCookie)] != nil
            let cookie = Cookie(rawValue: lastCookie)
            delivered[cookie] = group
            return .success(Message(cookie: cookie, group: group))
        }
    }

    private let state = Monitor(State(), as: .faultChannel)
    private let onArrival: @Sendable () -> Void

    /// - Parameter onArrival: called on the thread of the device for each group that has come, with no lock held; as for any
    ///   handler, the device's reset and removal wait for it. The group may be received, or answered, before.
    public init(onArrival: @escaping @Sendable () -> Void = {}) { self.onArrival = onArrival }

    /// Whether there is a group to be received. What `poll` of a fault descriptor tells.
    public var isReadable: Bool { state.withLock { $0.undelivered.contains { $0.isPending } } }

    public func take(_ group: FaultGroup) -> Bool {
        let settled = state.withLock { state -> [FaultGroup]? in
            guard !state.isClosed else { return nil }
            state.undelivered.append(group)
            return state.sweep()
        }
        guard settled != nil else { return false }
        LockChecker.callsBack()
        onArrival()
        return true
    }

    /// Delivers groups in the order in which they came, each whole.
    ///
    /// - Parameters:
    ///   - limit: how many requests there is room for.
    ///   - deliver: called for each group with no lock held. When it returns `false`, as when the user's memory could not be
    ///     written, the group stays the first to be delivered, under another cookie, and nothing more is.
    /// - Returns: the number of groups that were delivered.
    /// - Throws: `EINVAL` when the first group has more requests than there is room for, which stays; `EFAULT` when the
    ///   first one could not be delivered.
    @discardableResult
    public func receive(
        maximumRequests limit: Int = .max, _ deliver: (Message) -> Bool
    ) throws(DMAError) -> Int {
        var room = limit
        var count = 0
        while true {
            let (_, next) = state.withLock { ($0.sweep(), $0.deliverNext(room: room, isFirst: count == 0)) }
            guard let message = try next?.get() else { return count }
            LockChecker.callsBack()
            guard deliver(message) else {
                state.withLock { state in
                    guard let group = state.delivered.removeValue(forKey: message.cookie) else { return }
                    state.undelivered.insert(group, at: 0)
                }
                if count == 0 { throw .badAddress }
                return count
            }
            room -= message.group.requests.count
            count += 1
        }
    }

    /// Answers groups, in order, up to the first answer that is no good.
    ///
    /// - Returns: how many were good.
    /// - Throws: `EINVAL` when the first one names a cookie that is not known or was used.
    @discardableResult
    public func respond(_ answers: [Answer]) throws(DMAError) -> Int {
        for (number, answer) in answers.enumerated() {
            let group = state.withLock { $0.delivered.removeValue(forKey: answer.cookie) }
            if group?.respond(answer.verdict == .accessible ? .success : .invalid) == true { continue }
            if number == 0 { throw .invalid }
            return number
        }
        return answers.count
    }

    public func respond(_ cookie: Cookie, _ verdict: Verdict) throws(DMAError) {
        try respond([Answer(cookie, verdict)])
    }

    /// Answers everything that is left `invalid`, and takes nothing more: devices get `failure` from now on.
    public func close() {
        let left = state.withLock { state in
            let delivered = state.delivered.sorted { $0.key.rawValue < $1.key.rawValue }.map(\.value)
            let left = delivered + state.undelivered
            state.delivered = [:]
            state.undelivered = []
            state.isClosed = true
            return left
        }
        for group in left { group.respond(.invalid) }
    }
}
