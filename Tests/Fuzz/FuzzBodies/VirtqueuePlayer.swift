import DMA
import DeviceModel
import Glibc
import LinuxHost
import PCI
import Virtio
import VirtioEcho
import VirtioEntropy

/// Plays rings against real virtio functions, one script after another, and holds what they do against the model.
///
/// An input is a script: which device, how large the queue is and what is agreed on, and then descriptors, tables, entries and
/// kicks, good ones and bad; or a storm of accesses to the registers. Whatever it says, the device does what the model says
/// and writes nowhere else, ends its work with the right error, can be reset, and then works.
public final class VirtqueuePlayer {
    public private(set) var statistics = VirtqueueStatistics()
    private let failures = Monitor<[VirtioFailure]>([])
    private let machines: [VirtioMachine]

    public init() throws {
        let failures = failures
        let report = { @Sendable (failure: VirtioFailure) in failures.withLock { $0.append(failure) } }
        machines = [
            try VirtioMachine(.echo, try EchoDevice.makeFunction(report: report)),
            try VirtioMachine(.entropy, try Entropy.makeFunction(report: report)),
        ]
    }

    public func play(_ input: [UInt8]) throws(Finding) {
        var choices = Choices(input)
        let machine = machines[choices.below(machines.count)]
        statistics.scripts += 1
        if choices.chance(16) {
            try storm(machine, &choices)
        } else {
            try rings(machine, &choices)
        }
        try machine.meet()
        failures.withLock { $0 = [] }
    }

    private func rings(_ machine: VirtioMachine, _ choices: inout Choices) throws(Finding) {
        var script = VirtqueueScript(machine, &choices)
        try script.begin()
        var expected: String?
        while expected == nil, !choices.isAtEnd, !script.model.isSpoiled {
            do throws(Finding) {
                expected = try script.step(&choices)
            } catch {
                throw Finding("\(error); it says: \(failures.withLock { $0 })")
            }
            statistics.steps += 1
        }
        try machine.reset()
        let found = failures.withLock { $0 }
        guard !script.model.isSpoiled else { return }
        try script.compare()
        statistics.buffers += script.model.used.count
        let names = found.map(Self.name)
        try require(
            names == (expected.map { [$0] } ?? []), "the device says \(found), the model \(expected ?? "nothing")")
        if let expected { statistics.errors[expected, default: 0] += 1 }
    }

    /// Accesses of every kind to every place, and the function's reset at their end.
    private func storm(_ machine: VirtioMachine, _ choices: inout Choices) throws(Finding) {
        statistics.storms += 1
        while !choices.isAtEnd {
            let byteCount = 1 << choices.below(4)
            let place = UInt64(choices.below(0x1000 / byteCount) * byteCount)
            let page = UInt64(choices.below(4)) << 12
            switch choices.below(4) {
            case 0: _ = machine.read(4, page | place, byteCount)
            case 1: _ = machine.read(PCIRegion.configuration, place, byteCount)
            case 2: machine.write(4, page | place % 64, byteCount, choices.edge())
            default:
                let region = choices.pick([4, PCIRegion.configuration])
                let place = UInt64(choices.below((region == 4 ? 64 : 256) / byteCount) * byteCount)
                machine.write(region, place, byteCount, choices.number(byteCount: byteCount))
            }
        }
        machine.resetFunction()
        let isSlow = failures.withLock { $0.contains(.slowReset) }
        try require(!isSlow, "the device is not reset in time")
    }

    /// The name of the case behind a failure.
    private static func name(_ failure: VirtioFailure) -> String {
        guard case .queue(_, let error) = failure else { return failure.description }
        return switch error {
        case .misplacedRing: "misplacedRing"
        case .overlappingRings: "overlappingRings"
        case .availableIndexTooFar: "availableIndexTooFar"
        case .noSuchDescriptor: "noSuchDescriptor"
        case .descriptorInUse: "descriptorInUse"
        case .endlessChain: "endlessChain"
        case .emptyDescriptor: "emptyDescriptor"
        case .addressOverflow: "addressOverflow"
        case .bufferTooLarge: "bufferTooLarge"
        case .readableAfterWritable: "readableAfterWritable"
        case .readableOverlapsWritable: "readableOverlapsWritable"
        case .misplacedIndirectTable: "misplacedIndirectTable"
        case .indirectTableSize: "indirectTableSize"
        case .memory: "memory"
        }
    }
}

/// What a player has reached.
public struct VirtqueueStatistics: Sendable {
    public var scripts = 0
    public var storms = 0
    public var steps = 0
    public var buffers = 0
    /// By the name of the error.
    public var errors: [String: Int] = [:]

    /// Every error that a script is to reach.
    public static let errorNames = [
        "availableIndexTooFar", "noSuchDescriptor", "endlessChain", "emptyDescriptor", "addressOverflow",
        "bufferTooLarge", "readableAfterWritable", "readableOverlapsWritable", "misplacedIndirectTable",
        "indirectTableSize", "memory",
    ]
}
