/// The first message of a connection, and its reply: the version a side speaks and what it can do.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 2 | major version |
/// | 2 | 2 | minor version |
/// | 4 | … | capabilities: JSON text and a NUL, or nothing |
///
/// `VFIO_USER_VERSION`
public struct VersionMessage: Hashable, Sendable {
    /// Where in the payload the capabilities lie, up to its end.
    public static let capabilitiesOffset = 4

    public var major: UInt16
    public var minor: UInt16

    public init(major: UInt16, minor: UInt16) {
        self.major = major
        self.minor = minor
    }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: VersionMessage.capabilitiesOffset)
        major = payload.integer(at: 0)
        minor = payload.integer(at: 2)
    }

    /// Writes the fixed part; the capabilities follow.
    public func write(to writer: inout MessageWriter) {
        writer.append(major)
        writer.append(minor)
    }
}
