import ArgumentParser
import LinuxHost
import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserWire

/// `outboard probe`
struct Probe: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print the device of a running vfio-user server, as lspci -vv would.",
        discussion: "Changes nothing: the device is only read.")

    @Option(help: .init("The socket where the server listens.", valueName: "path"))
    var socketPath: String

    @Option(help: .init("How long an answer may take.", valueName: "seconds"))
    var timeout = 5.0

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws { try validateTimeout(timeout) }

    func run() throws {
        let report = try look()
        if json {
            try printJSON(report.json)
        } else {
            FileOutput.standardOutput.write(report.text + "\n")
        }
    }

    private func look() throws(Failure) -> ProbeReport {
        let socket: UNIXSocket
        let watchdog: ProbeWatchdog
        do throws(Errno) {
            socket = try UNIXSocket.connect(toPath: socketPath, atMost: .seconds(timeout))
            watchdog = try ProbeWatchdog(socket)
        } catch {
            throw Failure(message: "socket \(socketPath): \(error)")
        }
        defer { watchdog.stop() }
        return try Prober(socketPath: socketPath, timeout: .seconds(timeout), watchdog: watchdog).look(socket)
    }
}

/// Asks a server everything, one question after the other.
private struct Prober {
    let socketPath: String
    let timeout: Duration
    let watchdog: ProbeWatchdog
    /// What the server may have of regions and interrupts before it is not believed.
    private static let maximumIndexes = 64

    func look(_ socket: UNIXSocket) throws(Failure) -> ProbeReport {
        let client = try ask("VERSION") { () throws(ClientError) in
            try Client(socket, proposal: Self.proposal)
        }
        let device = try ask("DEVICE_GET_INFO") { () throws(ClientError) in try client.deviceInfo() }
        var report = ProbeReport(agreement: client.agreement, device: device)
        for index in 0..<bounded(device.regionCount, "regions", &report) {
            let info = try askIfAllowed("DEVICE_GET_REGION_INFO \(index)") { () throws(ClientError) in
                try client.regionInfo(index)
            }
            report.regions.append(info)
        }
        for index in 0..<bounded(device.interruptIndexCount, "kinds of interrupts", &report) {
            let info = try askIfAllowed("DEVICE_GET_IRQ_INFO \(index)") { () throws(ClientError) in
                try client.interruptInfo(index)
            }
            report.interrupts.append(info)
        }
        try readConfiguration(client, &report)
        for (feature, name) in Self.features {
            let request = DeviceFeature(feature: feature, operations: .probe, argumentSize: DeviceFeature.byteCount)
            let answer = try askIfAllowed("DEVICE_FEATURE \(feature.rawValue)") { () throws(ClientError) in
                try client.perform(.deviceFeature(request))
            }
            var isOffered = false
            if case .known = answer { isOffered = true }
            report.features.append(.init(number: feature.rawValue, name: name, isOffered: isOffered))
        }
        return report
    }

    private func bounded(_ count: Int, _ what: String, _ report: inout ProbeReport) -> Int {
        guard count > Self.maximumIndexes else { return count }
        report.complaints.append("the server claims \(count) \(what); looked at \(Self.maximumIndexes)")
        return Self.maximumIndexes
    }

    private func readConfiguration(_ client: Client, _ report: inout ProbeReport) throws(Failure) {
        let size = report.size(ofRegion: PCIRegion.configuration)
        guard size > 0 else {
            report.complaints.append("there is no configuration space")
            return
        }
        if size != 256, size != 4096 {
            report.complaints.append("configuration space has \(size) bytes, neither 256 nor 4096")
        }
        let bytes = try ask("REGION_READ of configuration space") { () throws(ClientError) in
            try client.readRegion(PCIRegion.configuration, at: 0, byteCount: Int(min(size, 4096)))
        }
        report.configuration = ConfigurationPicture(bytes)
    }

    private static let features: [(feature: DeviceFeature.Feature, name: String)] = [
        (.migration, "migration"), (.migrationDeviceState, "migration device state"),
        (.startDMALogging, "DMA logging start"), (.stopDMALogging, "DMA logging stop"),
        (.reportDMALogging, "DMA logging report"),
    ]

    /// Everything that a server may have; nothing is made use of.
    private static var proposal: ClientProposal {
        var proposal = ClientProposal()
        proposal.capabilities.migration = .init(pageSize: 4096)
        proposal.capabilities.twinSocket = .init(isSupported: true)
        return proposal
    }

    /// A question whose refusal is an answer.
    private func askIfAllowed<Value>(
        _ what: String, _ body: () throws(ClientError) -> Value
    ) throws(Failure) -> ProbeReport.Description<Value> {
        try ask(what) { () throws(ClientError) -> ProbeReport.Description<Value> in
            do throws(ClientError) {
                return .known(try body())
            } catch {
                guard case .refused(_, let number) = error else { throw error }
                return .refused(number)
            }
        }
    }

    /// A question that has to be answered in time.
    private func ask<Value>(_ what: String, _ body: () throws(ClientError) -> Value) throws(Failure) -> Value {
        watchdog.begin(timeout)
        defer { watchdog.end() }
        do throws(ClientError) {
            return try body()
        } catch {
            throw Failure(message: "socket \(socketPath): \(what): \(cause(error))")
        }
    }

    private func cause(_ error: ClientError) -> String {
        if watchdog.hasExpired { return "no answer within \(timeout)" }
        return switch error {
        case .refused(_, let number): "refused: \(Errno(rawValue: number))"
        case .negotiation(let error): "no agreement: \(error)"
        case .system(let error): "\(error)"
        case .closed: "the server has closed the connection"
        case .malformed(let error): "an answer that makes no sense: \(error)"
        case .unexpectedReply: "an answer to something else"
        case .timedOut: "no answer"
        case .notAgreed: "the server agrees to no descriptors at all"
        }
    }
}
