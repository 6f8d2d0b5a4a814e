/// How fast a device reads and writes client memory that came without a descriptor.
func messageDMA(_ settings: Settings, _ report: Report) throws {
    report.begin(
        "Client memory by messages",
        """
        MB/s, so more is better: the device reads client memory into its own buffer or writes it there, one transfer at a
        time, from the posted write that starts it to the message that says it is done. Outboard asks for 64 KiB at most at
        once, because QEMU drops a longer answer, and works on a thread of its own; the baseline asks for as much as the
        client takes, 1 MiB, on its only one. The client answers from a buffer.
        """)
    let servers = try ServerProcess.each(ServerRole.sleeping)
    for server in servers { server.client.mapOwnMemory() }
    let sizes = [4 << 10, 64 << 10, 1 << 20]
    let rows: [(String, [Figures?])] = [true, false].flatMap { deviceReads in
        sizes.map { size in
            let figures = onOwnProcessor {
                interleaved(servers, rounds: settings.rounds) { server, _ in
                    let time = nanosecondsPerOperation(for: settings.sampleTime, count: 1) { _ in
                        server.client.transfer(byteCount: size, deviceReads: deviceReads)
                    }
                    return Double(size) / time * 1000
                }
            }
            return ("\(deviceReads ? "read" : "write"), \(label(size >> 10)) KiB", figures)
        }
    }
    report.write("")
    report.table("message-dma", unit: "MB/s", heading: "transfer", columns: ServerRole.sleeping.map(\.name), rows: rows)
}
