import CBaselines
import CProcessCounters
import DMA
import LinuxHost

/// How often a server calls the kernel and the heap for a message.
func wireCost(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "System calls and allocations",
        """
        Of the server's process, for each message: system calls of all its threads, counted by tracing them, and calls of the
        connection's thread to malloc and its relatives. A transfer is four posted writes, which start it, and
        two requests of the server with their replies: the data, and that it is done. While calls are counted every one of them
        takes much longer, which gives requests time to gather: so 64 under way can cost fewer calls than they do at full
        speed. Aim: two system calls and no allocation.
        """)
    let memory = try SharedMemory.makeDescriptor()
    let servers = try ServerProcess.each(ServerRole.sleeping)
    for server in servers { server.client.mapOwnMemory() }
    var table = MarkdownTable(["message"] + servers.map { "\($0.role.name): calls, allocations" })
    for work in WireWork.all(descriptor: memory.rawValue) {
        let cells = servers.map { server in
            work.body(server.client)
            let allocations = server.allocations(of: work)
            report.record("wire-cost", work.name, server.role.name, "allocations", Figures([allocations]))
            guard let calls = server.systemCalls(count: work.count, { work.body(server.client) }) else {
                return "unknown, \(decimal(allocations, digits: 2))"
            }
            report.record("wire-cost", work.name, server.role.name, "system calls", Figures([calls]))
            return "\(decimal(calls, digits: 2)), \(decimal(allocations, digits: 2))"
        }
        table.add([work.name] + cells)
    }
    report.write("\n" + table.text)
}

/// A number of messages of one kind.
private struct WireWork {
    let name: String
    let count: Int
    let body: (LoadClient) -> Void

    static func all(descriptor: Int32) -> [WireWork] {
        let pages = Population(mappingCount: 1).hole(0).map(\.first.rawValue)
        let accesses = [
            WireWork(name: "read", count: 256) { $0.readMany(256, depth: 1) },
            WireWork(name: "read, 64 under way", count: 1024) { $0.readMany(1024, depth: 64) },
            WireWork(name: "posted write", count: 257) { $0.postMany(256) },
        ]
        let mappings = WireMapping.all.map { mapping in
            WireWork(name: "map or unmap \(mapping.name)", count: 2 * pages.count) {
                $0.mapAndUnmap(pages.span, of: mapping.hasDescriptor ? descriptor : nil, depth: mapping.depth)
            }
        }
        let transfers = [true, false].map { deviceReads in
            WireWork(name: "transfer of 4 KiB, \(deviceReads ? "read" : "write")", count: 64) { client in
                for _ in 0..<64 { client.transfer(byteCount: 4096, deviceReads: deviceReads) }
            }
        }
        return accesses + mappings + transfers
    }
}

extension ServerProcess {
    /// Allocations of the thread that serves, for each message.
    fileprivate func allocations(of work: WireWork) -> Double {
        let first = client.register(Int(MEASURED_ALLOCATIONS))
        let before = client.register(Int(MEASURED_ALLOCATIONS))
        work.body(client)
        let after = client.register(Int(MEASURED_ALLOCATIONS))
        // Looking at the counter takes a message too: between the first two looks nothing else has happened.
        return (Double(after - before) - Double(before - first)) / Double(work.count)
    }
}

extension ServerProcess {
    /// How many system calls of all its threads the server needs for each of the `count` things that `body` does; `nil`
    /// when the kernel does not let them be counted.
    func systemCalls(count: Int, _ body: () -> Void) -> Double? {
        guard begin_counting_system_calls(processID) else { return nil }
        defer { end_counting_system_calls() }
        // What the threads waited in when the counting began is counted now.
        body()
        let before = system_calls_so_far()
        body()
        return Double(system_calls_so_far() - before) / Double(count)
    }
}
