import ArgumentParser

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
    }

    /// The part of the command's help that lists its options.
    private func options(of command: any ParsableCommand.Type) -> String {
        let lines = Outboard.helpMessage(for: command, columns: 100).split(
            separator: "\n", omittingEmptySubsequences: false)
        return lines.drop { $0 != "OPTIONS:" }.dropFirst().joined(separator: "\n")
    }
}
