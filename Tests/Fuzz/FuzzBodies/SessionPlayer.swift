import Glibc
import LinuxHost
import VFIOUserCheck

/// Plays sessions against real servers of real devices, one after another, and looks after each whether anything is left.
///
/// An input is a script: which device, how the session opens and ends, and in between messages, good ones and bad, with
/// descriptors of every kind, whole, in pieces or joined, and the client's answers to what the server asks of it. The
/// rules, whatever the script says: a command is answered once and in order, unless it wants no answer; error replies
/// are a header; a server closes only for what the protocol does not allow to go on; it reaches for no memory that is
/// not mapped; a client that is gone leaves no descriptor and no mapping behind; and the device serves the next client.
public final class SessionPlayer {
    public private(set) var statistics = Statistics()
    private let devices: [ServedDevice]
    private let server: ServingThread
    private let files: GuestFiles
    private let traces: ProcessTraces

    public init() throws {
        devices = try ServedDevice.all()
        server = try ServingThread()
        files = try GuestFiles()
        traces = try ProcessTraces()
        // What the first sessions make once, each for itself, is no leak.
        for _ in 0..<3 {
            for device in devices { try meet(device) }
        }
        try traces.begin()
    }

    /// Plays one session and checks what it leaves.
    public func play(_ input: [UInt8]) throws(Finding) {
        try playOnly(input)
        try traces.check()
    }

    /// Returns when the client's end of the socket is closed, too.
    @inline(never)
    private func playOnly(_ input: [UInt8]) throws(Finding) {
        var choices = Choices(input)
        let device = devices[choices.below(devices.count)]
        let ours = try connect(to: device)
        let peer = Peer(ours, files, statistics)
        var script = Script(peer: peer, device: device, choices: choices)
        do throws(Finding) {
            try script.run()
            if script.ending == .interrupted {
                peer.mayBeCutOff = true
                server.interrupt()
            }
            try script.end()
        } catch {
            ours.shutdown()
            let account = try? server.waitUntilIdle()
            throw Finding("\(error); the server says: \(String(describing: account))")
        }
        statistics = peer.statistics
        statistics.sessions += 1
        statistics.messages += peer.model.messageCount
        try conclude(peer)
        try meet(device)
        files.end()
    }

    /// A client's end of a socket; the other is the server's alone.
    @inline(never)
    private func connect(to device: ServedDevice) throws(Finding) -> UNIXSocket {
        do throws(Errno) {
            let (ours, theirs) = try UNIXSocket.pair()
            server.serve(device.device, theirs)
            return ours
        } catch {
            throw Finding("no sockets for a session: \(error)")
        }
    }

    /// The server has let go of the client; so has its device.
    private func conclude(_ peer: Peer) throws(Finding) {
        let account = try server.waitUntilIdle()
        if let failure = account.failure { throw Finding("a client was not served: \(failure)") }
        for refusal in account.refusals { statistics.refusals[Self.name(refusal), default: 0] += 1 }
        if let ending = account.ending { statistics.endings[Self.name(ending), default: 0] += 1 }
        try files.verify(except: peer.touched)
    }

    /// The name of an enum's case without what it carries.
    private static func name(_ value: Any) -> String {
        String(String(describing: value).prefix { $0 != "(" })
    }

    /// A client as it should be, whose few wishes must be granted. Leaves the device reset.
    private func meet(_ device: ServedDevice) throws(Finding) {
        let ours = try connect(to: device)
        let peer = Peer(ours, files, Statistics())
        try peer.queue(message(Number.version, id: 1, versionPayload(qemuCapabilities)))
        try peer.queue(message(Number.resetDevice, id: 2))
        let sign = bytes(.u64(device.sign.offset), .u32(device.sign.region), .u32(UInt32(device.sign.bytes.count)))
        try peer.queue(message(Number.readRegion, id: 3, sign))
        try peer.flush()
        ours.finishSending()
        try peer.receiveToEnd()
        let answers = peer.statistics
        try require(answers.replies == 3 && answers.errors.isEmpty, "the next client is not served: \(answers)")
        try require(
            Array(peer.lastRead.dropFirst(headerSize + 16)) == device.sign.bytes,
            "the next client finds \(peer.lastRead)")
        let account = try server.waitUntilIdle()
        if let failure = account.failure { throw Finding("the next client was not served: \(failure)") }
    }
}

extension UNIXSocket {
    /// Says that nothing more will come.
    func finishSending() { _ = Glibc.shutdown(descriptor.rawValue, Int32(SHUT_WR)) }
}
