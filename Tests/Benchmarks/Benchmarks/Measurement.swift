import Glibc

/// Something that is measured. To add one, write a function like the others and enter it in `all`.
struct Measurement: Sendable {
    /// What the command line calls it.
    let name: String
    let summary: String
    let run: @Sendable (Settings, Report) throws -> Void

    static let all = [
        Measurement(name: "translate", summary: "finding the memory of an address, hot and random", run: translate),
        Measurement(name: "pin", summary: "pin and unpin on one large mapping, several threads", run: pins),
        Measurement(name: "pairs", summary: "map and unmap, in batches of 64", run: pairs),
        Measurement(name: "unmap-latency", summary: "unmap beside eight busy readers", run: unmapLatency),
        Measurement(name: "unmap-batch", summary: "64 unmaps as one, beside eight busy readers", run: unmapBatch),
        Measurement(name: "domain-churn", summary: "copies from guest memory, and their unmaps", run: domainChurn),
        Measurement(name: "churn", summary: "reading while a writer maps and unmaps", run: churn),
        Measurement(name: "memory", summary: "bytes, descriptors and memory areas of many mappings", run: footprint),
        Measurement(name: "heap", summary: "allocations and reference counts of an operation", run: heapTraffic),
        Measurement(name: "viommu", summary: "maps and unmaps of a guest's IOMMU through its queue", run: guestIOMMU),
        Measurement(name: "sva", summary: "accesses by PASID, and pages that are brought", run: sharedAddressing),
        Measurement(name: "dirty", summary: "reading which pages were written", run: dirtyRead),
        Measurement(name: "roundtrip", summary: "region reads and posted writes over the socket", run: roundTrips),
        Measurement(name: "pipelined", summary: "region reads, 64 under way", run: pipelinedReads),
        Measurement(name: "wire-pairs", summary: "map and unmap over the socket", run: wirePairs),
        Measurement(name: "message-dma", summary: "client memory reached by messages", run: messageDMA),
        Measurement(name: "nvme", summary: "random reads through an NVMe queue", run: nvmeReads),
        Measurement(name: "wire-cost", summary: "a server's system calls and allocations for a message", run: wireCost),
    ]
}

/// How much is measured.
struct Settings {
    let isQuick: Bool
    let rounds: Int
    let otherWork = OtherWork()

    /// How long one contender is measured in one round.
    var sampleTime: Duration { isQuick ? .milliseconds(5) : .milliseconds(30) }
    /// The same where threads take turns on the processors.
    var threadedSampleTime: Duration { isQuick ? .milliseconds(50) : .milliseconds(200) }
    var manyMappings: Int { isQuick ? 100_000 : 1_000_000 }

    func sizes(_ all: [Int]) -> [Int] { all.filter { $0 <= manyMappings } }

    /// How many threads can run at once.
    static var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
}

/// A number of mappings as a row's label.
func label(_ count: Int) -> String { decimal(Double(count), digits: 0) }
