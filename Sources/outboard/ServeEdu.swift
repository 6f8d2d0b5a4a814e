import ArgumentParser
import Configuration
import DeviceModel
import Edu
import LinuxHost
import PCI

/// `outboard serve edu`
struct ServeEdu: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "edu", abstract: "QEMU's educational device: factorials, DMA and interrupts.")

    @OptionGroup var common: ServeOptions

    @Option(help: .init("How many address bits the DMA engine has, 12 to 64. (default: 28)", valueName: "bits"))
    var dmaMask: Int?

    func validate() throws {
        if let dmaMask, !EduOptions.dmaMasks.contains(dmaMask) {
            throw ValidationError("--dma-mask takes 12 to 64 bits")
        }
    }

    func run() throws {
        let file = try common.configuration(of: "edu")
        var options = EduOptions()
        if case .edu(let fromFile)? = file?.device { options = fromFile }
        if let dmaMask { options.dmaMask = dmaMask }
        try common.serve(options, file)
    }
}

extension ServeOptions {
    func serve(_ options: EduOptions, _ file: DeviceConfiguration?) throws {
        try serve("edu", file) { (identity) throws(Errno) in
            try options.makeDevice(route: identity.makeDirectRoute())
        }
    }
}

extension EduOptions {
    func makeDevice(route: any DMARoute) throws(Errno) -> any Device {
        try Edu.makeFunction(dmaMaskBits: dmaMask ?? 28, route: route)
    }
}
