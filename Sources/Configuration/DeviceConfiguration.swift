/// One device to serve and where, as a configuration file describes it.
///
/// Says what the command line of `outboard serve` can say, by the same names in camel case. What a file leaves out is
/// nil; the defaults are the tool's and the devices'. The text is JSON as `schemas/device-options.schema.json` has it.
/// This module must not know devices or open anything: whether the image exists is found out later.
public struct DeviceConfiguration: Hashable, Sendable {
    /// Where clients find the server.
    public enum Listener: Hashable, Sendable {
        case socketPath(String)
        /// A listening or connected socket that was inherited.
        case descriptor(Int32)
    }

    public enum Device: Hashable, Sendable {
        case nvme(NVMeOptions)
        case edu(EduOptions)
        case copyEngine(CopyEngineOptions)
        /// Has no options.
        case virtioRNG

        /// The name the command line knows the device by.
        public var name: String {
            switch self {
            case .nvme: "nvme"
            case .edu: "edu"
            case .copyEngine: "copy-engine"
            case .virtioRNG: "virtio-rng"
            }
        }
    }

    public var device: Device
    public var listener: Listener?
    /// How many clients are served at once.
    public var maxClients: Int?

    public static let clientCounts = 1...64

    public init(device: Device, listener: Listener? = nil) {
        self.device = device
        self.listener = listener
    }
}

/// The options of `outboard serve nvme`.
public struct NVMeOptions: Hashable, Sendable {
    public var image: String
    /// Bytes an absent image is created with; a multiple of the block size.
    public var size: UInt64?
    public var readOnly: Bool?
    public var serial: String?
    /// Pairs of I/O queues.
    public var queues: Int?
    /// Bytes.
    public var blockSize: Int?

    public static let queueCounts = 1...64
    public static let blockSizes = [512, 4096]
    /// Characters of a serial number: the field of the Identify data is that long.
    public static let maximumSerialLength = 20

    public init(image: String) {
        self.image = image
    }
}

/// The options of `outboard serve edu`.
public struct EduOptions: Hashable, Sendable {
    /// Bits of the addresses the DMA engine can reach.
    public var dmaMask: Int?

    public static let dmaMasks = 12...64

    public init() {}
}

/// The options of `outboard serve copy-engine`.
public struct CopyEngineOptions: Hashable, Sendable {
    /// PASIDs are below this.
    public var pasids: Int?
    /// How many pieces of work are under way at a time.
    public var workers: Int?
    /// Seconds that a page request waits for its answer.
    public var pageTimeout: Int?
    /// How many mappings all address spaces have together.
    public var maxMappings: Int?

    public static let pasidCounts = 2...(1 << 20)
    public static let workerCounts = 1...64
    public static let pageTimeouts = 1...3600
    public static let mappingCounts = 1...(1 << 24)

    public init() {}
}
