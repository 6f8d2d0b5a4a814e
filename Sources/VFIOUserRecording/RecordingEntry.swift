/// One thing that a recording says happened.
///
/// A recording is the conversations of a server with its clients, in a file: every message as it crossed the socket, with
/// its time and with what its descriptors stood for. This module writes recordings, reads them back, says in words and in
/// other formats what is in them, and plays a client's half again. It must not know any device. The file's layout is in
/// the article "The format of recordings".
public struct RecordingEntry: Hashable, Sendable {
    /// In nanoseconds since the recording began.
    public var time: UInt64
    /// Which connection it belongs to, counted from one; zero for none.
    public var conversation: UInt16
    public var event: RecordedEvent

    public init(time: UInt64, conversation: UInt16, event: RecordedEvent) {
        self.time = time
        self.conversation = conversation
        self.event = event
    }
}

/// What can happen in a recording.
public enum RecordedEvent: Hashable, Sendable {
    /// The recording begins: what is served, and when by the clock on the wall, in nanoseconds since 1970.
    case served(String, wallClock: UInt64)
    /// A client is there.
    case connected
    case message(RecordedMessage)
    /// The last bytes of a direction that make no whole message.
    case fragment(RecordedMessage)
    /// What a part of a client's memory holds from the next message on.
    case memory(RecordedMemory)
    case disconnected(RecordedEnding)
    /// The recording ends as it should.
    case finished
}

public enum RecordedDirection: UInt8, Hashable, Sendable {
    case toServer = 0
    case toClient = 1
}

public enum RecordedSocket: UInt8, Hashable, Sendable {
    case main = 0
    /// The second one, for the server's requests alone.
    case twin = 1
}

/// A message, or a part of one, as it crossed the socket.
public struct RecordedMessage: Hashable, Sendable {
    public var direction: RecordedDirection
    public var socket: RecordedSocket
    public var descriptors: [RecordedDescriptor]
    /// Whether the kernel had to drop descriptors.
    public var lostDescriptors: Bool
    public var bytes: [UInt8]

    public init(
        direction: RecordedDirection, socket: RecordedSocket = .main, descriptors: [RecordedDescriptor] = [],
        lostDescriptors: Bool = false, bytes: [UInt8]
    ) {
        self.direction = direction
        self.socket = socket
        self.descriptors = descriptors
        self.lostDescriptors = lostDescriptors
        self.bytes = bytes
    }
}

/// What a descriptor stood for that came with a message.
public struct RecordedDescriptor: Hashable, Sendable {
    public enum Kind: UInt8, Hashable, Sendable {
        /// A file that can be mapped.
        case memory = 1
        case eventCounter = 2
        case socket = 3
        case other = 4
    }

    public var kind: Kind
    public var isWritable: Bool
    /// Counted from one within the recording. One file keeps its number however often it is sent; of anything else
    /// nobody can tell, and it gets a new one each time.
    public var number: UInt32
    /// Of memory.
    public var byteCount: UInt64

    public init(kind: Kind, isWritable: Bool, number: UInt32, byteCount: UInt64 = 0) {
        self.kind = kind
        self.isWritable = isWritable
        self.number = number
        self.byteCount = byteCount
    }
}

/// What a part of a file of client memory held.
public struct RecordedMemory: Hashable, Sendable {
    /// The file's `RecordedDescriptor.number`.
    public var number: UInt32
    public var offset: UInt64
    public var bytes: [UInt8]

    public init(number: UInt32, offset: UInt64, bytes: [UInt8]) {
        self.number = number
        self.offset = offset
        self.bytes = bytes
    }
}

/// Why a connection ended, as its socket tells it.
public enum RecordedEnding: Hashable, Sendable {
    case clientLeft
    case serverClosed
    /// By an error of the socket's, whose Linux number this is.
    case failed(Int32)
}
