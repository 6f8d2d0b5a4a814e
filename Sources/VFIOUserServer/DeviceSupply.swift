public import DeviceModel
public import LinuxHost

/// Which device a client gets, and how many clients there can be.
public enum DeviceSupply: Sendable {
    /// One device that has one client at a time and keeps its state from one to the next.
    case exclusive(any Device)

    /// A new device for each client, gone when the client is, for up to `maximum` clients at a time.
    ///
    /// `make` is called on the client's thread, for several clients at once. What it throws is reported, and the client's
    /// connection closed.
    case forEachClient(maximum: Int, make: @Sendable () throws(Errno) -> any Device)

    /// How many clients can be served at a time.
    public var maximumClients: Int {
        switch self {
        case .exclusive: 1
        case .forEachClient(let maximum, _): maximum
        }
    }

    func device() throws(Errno) -> any Device {
        switch self {
        case .exclusive(let device): device
        case .forEachClient(_, let make): try make()
        }
    }
}
