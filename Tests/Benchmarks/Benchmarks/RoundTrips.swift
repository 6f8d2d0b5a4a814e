/// One message at a time: a region read and its reply, and writes without one.
func roundTrips(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "Region access, one at a time",
        """
        ns for a message: four bytes are read from region 0 of the measured device and waited for; or 100 writes of four
        bytes are posted, each with a system call of its own, and one read waits for them all. The servers run in processes
        of their own, their connections' threads on the second processor, the client on the first. A client that waits
        sleeps in recv, one that spins calls it over and over; the server that polls does so for 200 µs before it sleeps.
        The baselines sleep in recvmsg: they wait for nothing else, and nobody could stop them.
        """)
    let servers = try ServerProcess.each(ServerRole.measured)
    let posts = 100
    func sample(spins: Bool, count: Int, _ body: @escaping (LoadClient) -> Void) -> [Figures?] {
        onOwnProcessor {
            interleaved(servers, rounds: settings.rounds) { server, _ in
                server.client.spins = spins
                return nanosecondsPerOperation(for: settings.sampleTime, count: count) { _ in body(server.client) }
            }
        }
    }
    let rows: [(String, [Figures?])] = [false, true].flatMap { spins in
        let client = spins ? "client spins" : "client waits"
        return [
            ("read, \(client)", sample(spins: spins, count: 16) { $0.readMany(16, depth: 1) }),
            ("posted write, \(client)", sample(spins: spins, count: posts + 1) { $0.postMany(posts) }),
        ]
    }
    report.write("")
    report.table("roundtrip", unit: "ns", heading: "message", columns: ServerRole.measured.map(\.name), rows: rows)
}

/// Region reads of which 64 are without reply at any time.
func pipelinedReads(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "Region reads, 64 under way",
        """
        ns for a message: for each reply that comes the client sends another request, for all that come together with one
        call. Processors and clients as above. Aim: half of 3500 ns, with two system calls and no allocation.
        """)
    let servers = try ServerProcess.each(ServerRole.measured)
    let count = 1024
    let rows: [(String, [Figures?])] = [false, true].map { spins in
        let figures = onOwnProcessor {
            interleaved(servers, rounds: settings.rounds) { server, _ in
                server.client.spins = spins
                return nanosecondsPerOperation(for: settings.sampleTime, count: count) { _ in
                    server.client.readMany(count, depth: 64)
                }
            }
        }
        return (spins ? "client spins" : "client waits", figures)
    }
    report.write("")
    report.table("pipelined", unit: "ns", heading: "", columns: ServerRole.measured.map(\.name), rows: rows)
}
