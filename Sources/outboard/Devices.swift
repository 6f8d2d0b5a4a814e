import ArgumentParser
import DMA
import VirtioIOMMU

/// `outboard devices`
struct Devices: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List the devices that can be served, with their options.")

    func run() {
        for command in Serve.configuration.subcommands where command.configuration.shouldDisplay {
            let name = command.configuration.commandName ?? ""
            FileOutput.standardOutput.write("\(name): \(command.configuration.abstract)\n")
            FileOutput.standardOutput.write(options(of: command) + "\n")
        }
        FileOutput.standardOutput.write(Devices.iommu)
    }

    /// What has no command of its own, because it makes no sense alone.
    private static var iommu: String {
        let standard = VirtioIOMMU.Options()
        let addressBits = UInt64.bitWidth - standard.inputRange.last.rawValue.leadingZeroBitCount
        return """
            virtio-iommu: An IOMMU for devices of the same process, in a topology: outboard serve --config FILE
              bootBypass              Whether devices reach all memory until the guest's driver comes. (default: \
            \(standard.startsInBypass))
              granule                 Bytes of the smallest page that can be mapped: 4096, 8192, 16384 or 65536.
                                      (default: \(standard.granule))
              addressBits             How wide an I/O address is, 32 to 64 bits. (default: \(addressBits))
              maxMappings             How many mappings a domain can have, 1 to 16777216. (default: \
            \(standard.maximumMappings))

            """
    }

    /// The part of the command's help that lists its options.
    private func options(of command: any ParsableCommand.Type) -> String {
        let lines = Outboard.helpMessage(for: command, columns: 100).split(
            separator: "\n", omittingEmptySubsequences: false)
        return lines.drop { $0 != "OPTIONS:" }.dropFirst().joined(separator: "\n")
    }
}
