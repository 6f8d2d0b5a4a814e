extension NVMeController {
    /// What a user may choose about an NVMe controller, beside the store behind it.
    public struct Options: Sendable {
        /// How many I/O queue pairs a controller may offer. The base specification allows 65 535; each needs an interrupt
        /// vector, and a guest uses one per processor.
        public static let queuePairLimits = 1...64
        /// How many threads may execute commands.
        public static let workerLimits = 1...64

        public var serial: SerialNumber
        /// At most 40 printable ASCII characters.
        public var model = "Outboard NVMe Disk"
        public var queuePairs = 64
        /// How many I/O commands are executed at the same time. Admin commands have a thread more, so that the slowest disk
        /// does not hold them up.
        public var workers = 4

        public init(serial: SerialNumber) {
            self.serial = serial
        }
    }

    /// A controller's serial number: 1 to 20 printable ASCII characters without spaces at either end.
    ///
    /// Everything by which a guest recognises the disk comes from it, so disks that one guest sees need different ones.
    public struct SerialNumber: Hashable, Sendable {
        public let text: String

        public static let maximumByteCount = 20

        /// `nil` for a text that no serial number can be.
        public init?(_ text: String) {
            let space = UInt8(ascii: " ")
            guard (1...SerialNumber.maximumByteCount).contains(text.utf8.count),
                text.utf8.allSatisfy({ (0x20...0x7e).contains($0) }),
                text.utf8.first != space, text.utf8.last != space
            else { return nil }
            self.text = text
        }

        /// The same serial number for the same `name`, such as the path of an image, and most likely another for another.
        public init(derivedFrom name: String) {
            let digits = String(StableHash(name.utf8).value, radix: 16)
            text = "OB" + String(repeating: "0", count: 16 - digits.count) + digits
        }
    }
}
