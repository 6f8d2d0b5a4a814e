public import DeviceModel
public import LinuxHost
public import VFIOUserClient
public import VFIOUserNegotiation
import VFIOUserServer

/// Runs `body` with a client of a device, which a server serves over a socket pair on a thread of its own.
public func withClient(
    of device: any Device, proposal: ClientProposal = ClientProposal(), _ body: (Client) throws -> Void
) throws {
    try withServedSocket(of: device) { socket in
        let client = try Client(socket, proposal: proposal)
        client.replyTimeout = .seconds(120)
        try body(client)
    }
}

/// Runs `body` with a socket over which a device is served.
public func withServedSocket(of device: any Device, _ body: (UNIXSocket) throws -> Void) throws {
    let (ours, theirs) = try UNIXSocket.pair()
    let stop = try EventCounter()
    let thread = try OSThread(name: "server") { Server(device: device).serve(theirs, until: stop) }
    defer {
        stop.signal()
        thread.join()
    }
    try body(ours)
}
