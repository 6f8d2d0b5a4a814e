import LinuxHost
import VFIOUserWire

/// The faults of one direction of a conversation, as a function of the place in it.
struct FaultStream: Sendable {
    private static let blockByteCount: UInt64 = 64
    /// How far ahead faults are looked for, which bounds one read.
    private static let maximumStep = 16 << 10

    enum Step {
        case fail(Errno)
        /// The connection ends here.
        case cut
        /// At most so many bytes, after a delay.
        case transfer(Int, after: Duration)
    }

    private enum Kind: UInt64 {
        case split, interruption, refusal, delay, loss, swap, flip, cut
    }

    private let plan: FaultPlan
    private let splits: FaultPlan.Rate
    private let salt: UInt64
    /// How many bytes have passed.
    private var position: UInt64 = 0
    private var descriptorCount: UInt64 = 0
    /// The block whose hindrances have been met, at least in part, and how many of them are left.
    private var hinderedBlock: UInt64?
    private var interruptionsLeft: UInt64 = 0
    private var refusalsLeft: UInt64 = 0
    private var delayLeft = Duration.zero

    /// - Parameter number: sets this direction apart from others with the same plan.
    init(_ plan: FaultPlan, number: UInt64, splits: FaultPlan.Rate) {
        self.plan = plan
        self.splits = splits
        salt = plan.seed ^ number &* 0xd6e8_feb8_6659_fd93
    }

    /// What becomes of the next attempt to move up to `count` bytes.
    ///
    /// - Parameter minimum: so many bytes are not taken apart.
    mutating func begin(count: Int, minimum: Int) -> Step {
        if let cut = nextCut(in: position...position), cut == position { return .cut }
        let block = position / Self.blockByteCount
        if hinderedBlock != block {
            hinderedBlock = block
            interruptionsLeft = hits(.interruption, block, plan.interruptions) ? 1 + draw(.interruption, ~block) % 3 : 0
            refusalsLeft = hits(.refusal, block, plan.refusals) ? 1 + draw(.refusal, ~block) % 3 : 0
            delayLeft = hits(.delay, block, plan.delays) ? plan.delay / 1000 * Int(draw(.delay, ~block) % 1001) : .zero
        }
        if interruptionsLeft > 0 {
            interruptionsLeft -= 1
            return .fail(.interrupted)
        }
        if refusalsLeft > 0 {
            refusalsLeft -= 1
            return .fail(.wouldBlock)
        }
        let delay = delayLeft
        delayLeft = .zero
        return .transfer(limit(count, minimum), after: delay)
    }

    mutating func advance(by count: Int, descriptors: Int) {
        position += UInt64(count)
        descriptorCount += UInt64(descriptors)
    }

    /// How many of the next bytes go before something happens to them.
    private func limit(_ count: Int, _ minimum: Int) -> Int {
        let wanted = min(count, Self.maximumStep)
        guard wanted > 0 else { return 0 }
        let end = position + UInt64(wanted)
        let least = position + UInt64(min(max(minimum, 1), wanted))
        var stop = end
        var block = position / Self.blockByteCount
        while block * Self.blockByteCount < end, stop == end {
            let start = block * Self.blockByteCount
            if start >= least, isHindered(block) { stop = start }
            if hits(.split, block, splits) {
                let place = start + draw(.split, ~block) % Self.blockByteCount
                if place >= least { stop = min(stop, place) }
            }
            block += 1
        }
        if let cut = nextCut(in: position...stop) { stop = min(stop, cut) }
        return Int(stop - position)
    }

    private func isHindered(_ block: UInt64) -> Bool {
        hits(.interruption, block, plan.interruptions) || hits(.refusal, block, plan.refusals)
            || hits(.delay, block, plan.delays)
    }

    /// The first place in a range at which the connection ends.
    private func nextCut(in range: ClosedRange<UInt64>) -> UInt64? {
        var found = plan.cutAfter.flatMap { $0 <= range.upperBound ? max($0, range.lowerBound) : nil }
        guard plan.cuts != .never else { return found }
        for block in range.lowerBound / Self.blockByteCount...range.upperBound / Self.blockByteCount
        where hits(.cut, block, plan.cuts) {
            let place = block * Self.blockByteCount + draw(.cut, ~block) % Self.blockByteCount
            if range.contains(place) { found = min(found ?? place, place) }
        }
        return found
    }

    /// Which bit changes of which of the next `count` bytes.
    func flips(count: Int) -> [(index: Int, mask: UInt8)] {
        guard plan.flippedBits != .never, count > 0 else { return [] }
        let end = position + UInt64(count)
        var found: [(index: Int, mask: UInt8)] = []
        for block in position / Self.blockByteCount...(end - 1) / Self.blockByteCount
        where hits(.flip, block, plan.flippedBits) {
            let number = draw(.flip, ~block)
            let place = block * Self.blockByteCount + number % Self.blockByteCount
            if (position..<end).contains(place) {
                found.append((Int(place - position), 1 << UInt8(number >> 32 & 7)))
            }
        }
        return found
    }

    var changesDescriptors: Bool { plan.lostDescriptors != .never || plan.swappedDescriptors != .never }

    /// Takes some of the next descriptors away and swaps others. Whether any is lost.
    func disturb(_ descriptors: inout DescriptorBundle) -> Bool {
        let count = descriptors.count
        var kept = DescriptorBundle()
        for index in 0..<UInt64(count) {
            guard let descriptor = descriptors.takeFirst() else { break }
            if !hits(.loss, descriptorCount + index, plan.lostDescriptors) { kept.append(descriptor) }
        }
        if kept.count > 1, hits(.swap, descriptorCount, plan.swappedDescriptors), let first = kept.takeFirst() {
            kept.append(first)
        }
        let hasLost = kept.count < count
        descriptors = kept
        return hasLost
    }

    private func hits(_ kind: Kind, _ index: UInt64, _ rate: FaultPlan.Rate) -> Bool {
        rate != .never && draw(kind, index) % 1_000_000 < rate.partsPerMillion
    }

    /// A number that follows from the seed, the direction and the place, by the last steps of Steele, Lea and Flood's
    /// generator.
    private func draw(_ kind: Kind, _ index: UInt64) -> UInt64 {
        var value = salt &+ (kind.rawValue + 1) &* 0xa076_1d64_78bd_642f &+ index &* 0x9e37_79b9_7f4a_7c15
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
