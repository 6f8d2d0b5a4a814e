import CLinuxShims
import Glibc

extension UNIXSocket {
    /// Whether the peer has closed its end, or either side has ended both directions; what it sent before may still be
    /// there to read. `POLLHUP`
    public var isHungUp: Bool {
        var request = pollfd(fd: descriptor.rawValue, events: 0, revents: 0)
        return unsafe poll(&request, 1, 0) == 1 && request.revents & Int16(POLLHUP) != 0
    }
}
