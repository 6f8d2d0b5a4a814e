import ArgumentParser
import Configuration
import LinuxHost
import Logging
import VFIOUserServer
import VirtioEntropy

/// `outboard serve virtio-rng`
struct ServeVirtioRNG: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "virtio-rng", abstract: "A virtio entropy device: random bytes for the guest.")

    @OptionGroup var common: ServeOptions

    func run() throws {
        try common.serveVirtioRNG(try common.configuration())
    }
}

extension ServeOptions {
    func serveVirtioRNG(_ file: DeviceConfiguration?) throws {
        let clientCount = clientCount(file)
        let service = try service("virtio-rng", file)
        let logger = service.logger
        let make = { @Sendable () throws(Errno) in
            try Entropy.makeFunction { failure in
                logger.warning("the driver has to reset the device", metadata: ["cause": "\(failure)"])
            }
        }
        try service.run {
            clientCount > 1 ? .forEachClient(maximum: clientCount, make: make) : .exclusive(try make())
        }
    }
}
