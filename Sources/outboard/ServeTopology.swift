import ArgumentParser
import Configuration
import DMA
import DeviceModel
import LinuxHost
import PCI
import PCITopology
import VFIOUserRecording
import VFIOUserServer
import Virtio
import VirtioIOMMU

extension ServeOptions {
    /// Serves an IOMMU and all the devices of a topology.
    func serve(_ topology: TopologyConfiguration) throws {
        let refused = [
            ("--socket-path", socketPath != nil), ("--fd", fd != nil), ("--max-clients", maxClients != nil),
        ]
        if let (option, _) = refused.first(where: \.1) {
            throw ValidationError("\(option) is for one device, and \(config ?? "") describes several")
        }
        try TopologyService(topology: topology, options: self).run()
    }
}

/// An IOMMU and devices, each with a server of its own on a thread of its own, while the main thread waits for signals.
struct TopologyService {
    let topology: TopologyConfiguration
    let options: ServeOptions

    /// What listens, and what is to be served there.
    private struct Place {
        let identity: ServiceIdentity
        let path: String
        let listener: UNIXSocketListener
        /// Made when all listen.
        var server: Server?
        var recorder: Recorder?

        init(_ name: String, _ path: String, _ options: ServeOptions) throws {
            identity = ServiceIdentity(name: name, options)
            self.path = path
            listener = try ServiceIdentity.listener(at: path)
        }
    }

    /// Serves until a signal.
    ///
    /// - Throws: `Failure` when one of the devices or sockets cannot be had: then nothing is served.
    func run() throws {
        do {
            // Before any thread starts, so that all of them leave these signals to the queue.
            let signals = try SignalQueue.ofEnd()
            // Before any image is created.
            var iommuPlace = try Place(topology.iommu.name, topology.iommu.socketPath, options)
            var places = try topology.devices.map { try Place($0.name, $0.socketPath, options) }
            defer { for place in [iommuPlace] + places { place.recorder?.finish() } }

            let log = try IOMMULog(iommuPlace.identity.logger, deviceNames: deviceNames)
            let function = try VirtioIOMMU.makeFunction(
                VirtioIOMMU.Options(topology.iommu.options), report: log.report, reportFailure: log.reportFailure)
            let iommu = function.model.device
            try prepare(&iommuPlace, function)
            for (index, member) in topology.devices.enumerated() {
                try prepare(&places[index], try device(of: member, behind: iommu, places[index].identity))
            }
            try serve([iommuPlace] + places, signals, log, iommu)
        } catch let error as Errno {
            throw Failure(message: "\(topology.iommu.name): \(error)")
        }
    }

    private var deviceNames: [EndpointID: String] {
        Dictionary(topology.devices.map { (EndpointID($0.address), $0.name) }) { first, _ in first }
    }

    private func device(
        of member: TopologyConfiguration.Member, behind iommu: VirtioIOMMU, _ identity: ServiceIdentity
    ) throws -> any Device {
        var route: any DMARoute = identity.makeDirectRoute()
        if member.isBehindIOMMU {
            let reserved = member.reservedRegions.map { ReservedRegion($0) }
            route = iommu.endpoint(
                id: EndpointID(member.address), reserved: iommu.options.reservedRegions + reserved)
        }
        do {
            switch member.device {
            case .edu(let options): return try options.makeDevice(route: route)
            case .copyEngine(let options): return try options.makeDevice(route: route)
            case .nvme(let options): return try NVMeDisk(options).makeDevice(route: route)
            case .virtioRNG: return try identity.makeVirtioRNG(route: route)
            }
        } catch let error as Errno {
            throw Failure(message: "\(member.name): \(error)")
        }
    }

    private func prepare(_ place: inout Place, _ device: any Device) throws {
        let identity = place.identity
        let recorder = try options.recording.recorder(of: identity.name, identity.logger, isOneOfSeveral: true)
        place.recorder = recorder
        place.server = identity.server(of: .exclusive(device), recorder)
    }

    private func serve(
        _ places: [Place], _ signals: borrowing SignalQueue, _ log: IOMMULog, _ iommu: VirtioIOMMU
    ) throws {
        let (stop, ended) = (try EventCounter(), try EventCounter())
        var threads: [OSThread] = []
        defer { log.summarize(iommu.statistics, isLast: true) }
        defer { for thread in threads { thread.join() } }
        defer { stop.signal() }
        for place in places {
            guard let server = place.server else { continue }
            threads.append(
                try OSThread(name: "connection") { [identity = place.identity, listener = place.listener] in
                    identity.serve(server, at: listener, until: stop)
                    ended.signal()
                })
        }
        for place in places {
            FileOutput.standardOutput.offer(line: "\(place.identity.name): listening on \(place.path)")
        }
        FileOutput.standardOutput.offer(line: "outboard: listening on \(places.count) sockets")
        try waitForEnd(signals, ended, log, iommu)
    }

    /// - Throws: `ExitStatus` when one of the servers has ended by itself, which has been logged.
    private func waitForEnd(
        _ signals: borrowing SignalQueue, _ ended: EventCounter, _ log: IOMMULog, _ iommu: VirtioIOMMU
    ) throws {
        enum Token: UInt64 { case signal, ended, log }
        let poller = try Poller()
        try poller.add(signals.descriptor.rawValue, token: Token.signal.rawValue, interest: .readable)
        try poller.add(ended.rawDescriptor, token: Token.ended.rawValue, interest: .readable)
        try poller.add(log.news.rawDescriptor, token: Token.log.rawValue, interest: .readable)
        while true {
            for event in try poller.wait(timeout: log.timeToSummary) {
                switch Token(rawValue: event.token) {
                case .signal: return signals.tellOfEnd(log.logger)
                case .ended: throw ExitStatus(rawValue: 1)
                case .log, nil: _ = log.news.drain()
                }
            }
            log.summarize(iommu.statistics)
        }
    }
}

extension EndpointID {
    /// That of a PCI function, as the VIOT tells the guest.
    fileprivate init(_ address: PCIAddress) { self.init(UInt32(address.requesterID)) }
}

extension ReservedRegion {
    fileprivate init(_ region: TopologyConfiguration.ReservedRegion) {
        self.init(IOVARange(first: IOVA(region.first), last: IOVA(region.last)))
    }
}

extension VirtioIOMMU.Options {
    fileprivate init(_ options: IOMMUOptions) {
        self.init()
        if let bootBypass = options.bootBypass { startsInBypass = bootBypass }
        if let granule = options.granule { pageSizeMask = ~(granule - 1) }
        if let bits = options.addressBits {
            inputRange = IOVARange(first: IOVA(0), last: IOVA(UInt64.max >> UInt64(64 - bits)))
        }
        if let maxMappings = options.maxMappings { maximumMappings = maxMappings }
    }
}
