import DMA
import Glibc
import LinuxHost
import Randomness
import Testing

/// A gigabyte as one mapping and as hundreds of small ones in turn, so that what translates a whole block at once gives
/// way to pages and comes back, beside devices that read and pin.
@Suite struct `A huge mapping and small ones in its place` {
    private static let hugeByteCount: UInt64 = 1 << 30
    private static let smallCount: UInt64 = 400
    private static let base: UInt64 = 1 << 40
    private static let poison: UInt8 = 0xff

    /// What a page shows: in the huge file, and in the file of the small mappings.
    private static func byte(_ number: UInt64, isHuge: Bool) -> UInt8 { UInt8(number % 100) + (isHuge ? 100 : 0) }

    private final class World: Sendable {
        let huge: MemoryObject
        let small: MemoryObject
        let space = IOAddressSpace()
        let access = DMAAccess(needsPin: true) { _ in }
        let faults = Shared<[String]>([])
        /// How often the huge file was seen, and the small one.
        let seen = Shared([0, 0])
        let isOver = Shared(false)

        init() throws {
            huge = try .anonymous(byteCount: Int(hugeByteCount))
            small = try .anonymous(byteCount: Int(smallCount * page))
            for number in 0..<smallCount { huge.fill(pages(number), with: byte(number, isHuge: true)) }
            let last = hugeByteCount / page - 1
            huge.fill(pages(last), with: byte(last, isHuge: true))
            try access.attach(to: space)
        }
    }

    private static func read(in world: World, seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        while !world.isOver.value {
            let isLast = Int.random(in: 0..<8, using: &random) == 0
            let number = isLast ? hugeByteCount / page - 1 : .random(in: 0..<smallCount - 16, using: &random)
            let count = isLast ? 1 : UInt64.random(in: 1...16, using: &random)
            let whole = range(base + number * page, base + (number + count) * page - 1)
            var bytes: [UInt8] = []
            let error = errorOf { () throws(DMAError) in
                if Bool.random(using: &random) {
                    bytes = try world.access.read(whole)
                } else {
                    let pinned = try world.access.pin(whole, rights: .read)
                    unsafe pinned.forEachSegment { segment in unsafe bytes.append(contentsOf: segment) }
                    pinned.unpin()
                }
            }
            if let error, error != .notFound, error != .invalid { world.faults.update { $0.append("\(error)") } }
            if error != nil { continue }
            for index in 0..<count {
                let part = bytes[Int(index * page)..<Int((index + 1) * page)]
                guard let first = part.first, part.allSatisfy({ $0 == first }) else {
                    world.faults.update { $0.append("page \(number + index) shows two things at once") }
                    break
                }
                switch first {
                case byte(number + index, isHuge: true): world.seen.update { $0[0] += 1 }
                case byte(number + index, isHuge: false): world.seen.update { $0[1] += 1 }
                default: world.faults.update { $0.append("page \(number + index) shows \(first)") }
                }
            }
        }
    }

    @Test func `R71, R75 take turns, and devices see the one or the others`() throws {
        let world = try World()
        let readers = try (0..<3 as Range<UInt64>).map { seed in
            try OSThread(name: "reader \(seed)") { Self.read(in: world, seed: seed) }
        }
        var round = 0
        while (round < 60 || world.seen.value.contains { $0 < 2000 }) && world.faults.value.isEmpty {
            round += 1
            let whole = range(Self.base, Self.base + Self.hugeByteCount - 1)
            try world.space.map(
                .file(world.huge, offset: 0), at: whole.first, byteCount: whole.byteCount, rights: .read)
            usleep(300)
            try world.space.unmap(whole)
            for number in 0..<Self.smallCount {
                world.small.fill(pages(number), with: Self.byte(number, isHuge: false))
                try world.space.map(
                    .file(world.small, offset: number * page), at: iova(Self.base + number * page), byteCount: page,
                    rights: .read)
            }
            usleep(300)
            // In pieces, each of which is other memory as soon as it is unmapped.
            for piece in 0..<Self.smallCount / 8 {
                let first = Self.base + piece * 8 * page
                try world.space.unmap(range(first, first + 8 * page - 1))
                world.small.fill(pages(piece * 8, 8), with: Self.poison)
            }
        }
        world.isOver.update { $0 = true }
        for reader in readers { reader.join() }
        #expect(world.faults.value.prefix(4) == [])
        #expect(world.space.mappings() == [])
        world.access.destroy()
    }
}
