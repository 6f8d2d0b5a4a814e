import ArgumentParser
import Configuration
import DeviceModel
import LinuxHost
import Logging
import PCI
import VirtioEntropy

/// `outboard serve virtio-rng`
struct ServeVirtioRNG: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "virtio-rng", abstract: "A virtio entropy device: random bytes for the guest.")

    @OptionGroup var common: ServeOptions

    func run() throws {
        try common.serveVirtioRNG(try common.configuration(of: "virtio-rng"))
    }
}

extension ServeOptions {
    func serveVirtioRNG(_ file: DeviceConfiguration?) throws {
        try serve("virtio-rng", file) { (identity) throws(Errno) in
            try identity.makeVirtioRNG(route: identity.makeDirectRoute())
        }
    }
}

extension ServiceIdentity {
    func makeVirtioRNG(route: any DMARoute) throws(Errno) -> any Device {
        let periods = Monitor(LogPeriods())
        return try Entropy.makeFunction(route: route) { [logger] failure in
            // A driver can break its queue as fast as it likes.
            let (untold, isWritten) = periods.withLock { periods in
                let now = MonotonicInstant.now.nanoseconds
                return (periods.close(at: now, [:]), periods.admit(.failure, at: now).isWritten)
            }
            for (kind, count) in untold { logger.warning("… and \(count) more \(kind.plural)") }
            if isWritten {
                logger.warning("the driver has to reset the device", metadata: ["cause": "\(failure)"])
            }
        }
    }
}
