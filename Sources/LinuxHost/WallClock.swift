import CLinuxShims
import Glibc

/// The time of day, for what is written down to be read later; it can jump.
public enum WallClock {
    /// Nanoseconds since 1970, UTC. `CLOCK_REALTIME`
    public static var nanoseconds: UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(max(0, time.tv_sec)) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
