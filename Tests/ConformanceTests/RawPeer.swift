import Glibc
import LinuxHost
import VFIOUserCheck

/// A client that knows nothing but bytes and descriptors.
///
/// It reads as QEMU does: the header, and with it the descriptors, in one call, then the payload.
final class RawPeer: Sendable {
    let socket: UNIXSocket
    private let lastID = Monitor<UInt16>(100)

    /// How long to wait for a message before the test is given up. Only a broken server comes near it.
    private static let patienceSeconds = 120

    init(_ socket: UNIXSocket) {
        self.socket = socket
        var time = timeval(tv_sec: Self.patienceSeconds, tv_usec: 0)
        unsafe setsockopt(
            socket.descriptor.rawValue, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Sends all bytes, the descriptors with the first of them. The caller keeps its descriptors.
    func send(_ bytes: [UInt8], _ descriptors: [Int32] = []) throws {
        var sent = try sendOnce(bytes, descriptors, waiting: true)
        while sent < bytes.count { sent += try sendOnce(Array(bytes[sent...]), [], waiting: true) }
    }

    /// Sends what the socket takes at once.
    func sendOnce(_ bytes: [UInt8], _ descriptors: [Int32] = [], waiting: Bool) throws -> Int {
        // Lent for the call: the bundle has to give them up before it goes.
        var bundle = DescriptorBundle(adopting: descriptors)
        defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
        var failure: Errno?
        var count = 0
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                count = unsafe try socket.send(buffer, descriptors: bundle, waiting: waiting)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return count
    }

    /// The next message, whatever it is.
    func receive() throws -> RawMessage {
        var descriptors: [HeldDescriptor] = []
        let header = try receivePart(atMost: 16, &descriptors)
        guard !header.isEmpty else { throw PeerFailure.closed }
        guard header.count == 16 else { throw PeerFailure.headerInPieces(header.count) }
        var strays: [HeldDescriptor] = []
        var payload: [UInt8] = []
        let payloadCount = Int(header.u32(at: 4)) - 16
        while payload.count < payloadCount {
            let part = try receivePart(atMost: payloadCount - payload.count, &strays)
            guard !part.isEmpty else { throw PeerFailure.closed }
            payload += part
        }
        return RawMessage(header: header, payload: payload, descriptors: descriptors, strays: strays)
    }

    /// What one call reads, and the descriptors that come with it.
    func receivePart(atMost count: Int, _ descriptors: inout [HeldDescriptor]) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var received = 0
        var failure: Errno?
        var held: [HeldDescriptor] = []
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(Errno) {
                var part = unsafe try socket.receive(into: buffer, waiting: true)
                received = part.count
                while let descriptor = part.descriptors.takeFirst() { held.append(HeldDescriptor(descriptor)) }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        descriptors += held
        return Array(bytes.prefix(received))
    }

    /// Whether the server has closed, with nothing more to read before.
    func isClosed() throws -> Bool {
        do {
            var descriptors: [HeldDescriptor] = []
            return try receivePart(atMost: 1, &descriptors).isEmpty
        } catch let error as Errno where error == .connectionReset {
            // The server closed with bytes of ours unread.
            return true
        }
    }

    func close() { socket.shutdown() }

    /// Sends a command and returns its reply, which must be the very next message.
    @discardableResult
    func call(
        _ command: UInt16, _ payload: [UInt8] = [], _ descriptors: [Int32] = []
    ) throws -> RawMessage {
        let id = newID()
        try send(message(command, id: id, payload), descriptors)
        let reply = try receive()
        guard reply.isReply, reply.id == id, reply.command == command else { throw PeerFailure.notTheReply(reply) }
        return reply
    }

    /// As `call`, for a command that must succeed.
    @discardableResult
    func succeed(
        _ command: UInt16, _ payload: [UInt8] = [], _ descriptors: [Int32] = []
    ) throws -> RawMessage {
        let reply = try call(command, payload, descriptors)
        guard reply.error == nil else { throw PeerFailure.refused(reply) }
        return reply
    }

    func newID() -> UInt16 {
        lastID.withLock { id in
            id &+= 1
            return id
        }
    }
}

/// What clients do all the time.
extension RawPeer {
    @discardableResult
    func negotiate(_ json: String? = Payload.qemuCapabilities) throws -> RawMessage {
        try succeed(Number.version, Payload.version(json))
    }

    func read(_ region: UInt32, at offset: UInt64, count: UInt32) throws -> [UInt8] {
        Array(try succeed(Number.readRegion, Payload.read(region, at: offset, count: count)).payload[16...])
    }

    func write(_ region: UInt32, at offset: UInt64, _ data: [UInt8]) throws {
        try succeed(Number.writeRegion, Payload.write(region, at: offset, data))
    }

    /// Sets the command register: memory space, bus master, and `more`.
    func enableBusMaster(_ more: UInt16 = 0) throws {
        try write(Region.configuration, at: 4, bytes(.u16(0x0006 | more)))
    }

    func setInterrupts(
        _ flags: UInt32, index: UInt32, start: UInt32 = 0, count: UInt32, _ counters: [EventCounter] = [],
        data: [UInt8] = []
    ) throws {
        try succeed(
            Number.setInterrupts, Payload.setInterrupts(flags, index: index, start: start, count: count, data),
            counters.map(\.rawDescriptor))
    }

    func connect(_ index: UInt32, start: UInt32 = 0, to counters: [EventCounter]) throws {
        try setInterrupts(
            SetFlags.descriptors | SetFlags.trigger, index: index, start: start, count: UInt32(counters.count), counters
        )
    }
}

enum PeerFailure: Error {
    case closed
    case headerInPieces(Int)
    case notTheReply(RawMessage)
    case refused(RawMessage)
    case tookTooLong
}

/// A descriptor that came with a message.
final class HeldDescriptor: Sendable {
    let owned: OwnedDescriptor

    init(_ owned: consuming OwnedDescriptor) { self.owned = owned }

    var number: Int32 { owned.rawValue }
}

struct RawMessage: Sendable, CustomStringConvertible {
    let header: [UInt8]
    let payload: [UInt8]
    /// Those that came in the call that read the header.
    let descriptors: [HeldDescriptor]
    /// Those that came later, which QEMU would lose.
    let strays: [HeldDescriptor]

    var id: UInt16 { header.u16(at: 0) }
    var command: UInt16 { header.u16(at: 2) }
    var size: Int { Int(header.u32(at: 4)) }
    var flags: UInt32 { header.u32(at: 8) }
    var isReply: Bool { flags & 0xf == HeaderFlags.reply }
    /// The error number of an error reply, which is a header alone.
    var error: UInt32? { flags & HeaderFlags.error != 0 ? header.u32(at: 12) : nil }
    var bytes: [UInt8] { header + payload }

    var description: String {
        "message \(id) command \(command) size \(size) flags \(flags) error \(header.u32(at: 12)) "
            + "payload \(payload.prefix(64))"
    }
}
