import DMA
import LinuxHost
import Randomness

/// How a client maps and unmaps over the socket.
struct WireMapping {
    let hasDescriptor: Bool
    /// How many messages may be without reply.
    let depth: Int

    static let all = [
        WireMapping(hasDescriptor: true, depth: 1), WireMapping(hasDescriptor: false, depth: 1),
        WireMapping(hasDescriptor: true, depth: 64), WireMapping(hasDescriptor: false, depth: 64),
    ]

    var name: String {
        (hasDescriptor ? "with a descriptor" : "without a descriptor")
            + (depth == 1 ? ", one message at a time" : ", \(depth) messages under way")
    }
}

/// Maps a page and unmaps it by messages, beside live mappings of the same kind.
func wirePairs(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "Map and unmap over the socket",
        """
        ns for a pair of messages: pages in a hole between live mappings, each mapped and then unmapped; every batch of 64 is
        in another hole. With a descriptor, the live mappings have come with one too, all of the same memfd of
        \(SharedMemory.pageCount) pages. A server takes 1 000 000 mappings, of which the most rows leave room for a batch.
        A baseline that maps each descriptor by itself stops where the kernel does (vm.max_map_count), and has no figure
        there. Processors as above; the client waits. Aims: half of 8 µs, and of 52 µs.
        """)
    let sizes = settings.sizes([1, 100, 10_000, 999_936])
    for mapping in WireMapping.all {
        report.write("\nMappings \(mapping.name):\n")
        let rows = try sizes.map { size in (label(size), try measure(mapping, size, settings)) }
        report.table(
            "wire-pairs, \(mapping.name)", unit: "ns", heading: "live mappings",
            columns: ServerRole.sleeping.map(\.name), rows: rows)
    }
}

private func measure(_ mapping: WireMapping, _ size: Int, _ settings: Settings) throws -> [Figures?] {
    let memory = try SharedMemory.makeDescriptor()
    let descriptor = mapping.hasDescriptor ? memory.rawValue : nil
    let population = Population(mappingCount: size)
    var generator = SeededNumbers(seed: UInt64(size))
    let holes = population.holes(count: 512, using: &generator).map { $0.map(\.first.rawValue) }
    let live = (0..<size).map { population.range($0).first.rawValue }
    let servers = try ServerProcess.each(ServerRole.sleeping)
    return onOwnProcessor {
        let able = servers.map { $0.client.map(live.span, of: descriptor) == size }
        let figures = interleaved(servers.indices.filter { able[$0] }, rounds: settings.rounds) { number, round in
            nanosecondsPerOperation(for: settings.sampleTime, count: Population.run) { turn in
                let hole = holes[(turn + round * 7) % holes.count]
                servers[number].client.mapAndUnmap(hole.span, of: descriptor, depth: mapping.depth)
            }
        }
        var rest = figures[...]
        return able.map { $0 ? rest.removeFirst() : nil }
    }
}

extension SharedMemory {
    /// Memory with the contents that `make` gives it, to be handed to another process.
    static func makeDescriptor() throws -> OwnedDescriptor {
        let descriptor = try OwnedDescriptor.anonymousMemory(
            name: "benchmark", byteCount: pageCount * Int(pageSize))
        let mapping = try MemoryMapping(of: descriptor, byteCount: pageCount * Int(pageSize), isWritable: true)
        for offset in stride(from: 0, to: pageCount * Int(pageSize), by: 8) {
            unsafe mapping.bytes.storeBytes(of: value(at: offset), toByteOffset: offset, as: UInt64.self)
        }
        return descriptor
    }
}
